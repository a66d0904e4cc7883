// linear_swiglu: y = silu(x . gate^T + bias) * (x . up^T + bias), gate and up in one weight, for a few rows. With a norm, x is normed first.
//
//   x       X [rows, k]       row-major; Bf16, or float with problem.norm
//   norm    Bf16 [k]          the norm's weight; if problem.norm.on, else not read
//   weight  Bf16 [2*m, k]     rows interleaved in turns of problem.group (layout/interleave.hpp), a multiple of 8
//   bias    float [2*m]       interleaved like the rows; if problem.bias, else not read
//   y       Y [rows, m]       row-major; float, or Bf16 rounded to nearest even
//
// A product is 8 rows of the gate and the same 8 of up: low and high rows.
// Launch: tiling.threads() threads, tiling.shared_bytes(k, normed) of dynamic shared memory; ceil(2 m / tiling.rows) blocks, or fewer, which then take
// several tiles each (not with tiling.once); tiling.rows is 16, 32 or 48.
// See product.cuh. silu in f32 on complete sums. Reference ops: rms_norm, linear x 2, swiglu (fused: linear_swiglu).
#pragma once

#include "linear.cuh"

namespace ern::cuda {

struct LinearSwiglu {
  int m;
  int k;
  int group;
  bool bias = false;
  Norm norm = {};
  Rows rows = Rows::tokens;
  ProductTiling tiling = {};
  bool late = false;  // starts dependents after its wait: kernel.cuh
};

// Where row `row` of the gate lies; the same of up lies `group` rows further.
template <int group>
ERN_DEVICE int gate_row(int row) {
  return row / group * (2 * group) + row % group;
}

// 8 rows of the gate from `row` on, a multiple of 8, and the same of up; none behind row m.
template <int m, int k, int group>
ERN_DEVICE TileRows swiglu_rows(const Bf16* weight, int row) {
  const Bf16* const gate = weight + static_cast<int64_t>(gate_row<group>(row)) * k;
  const int rows = row < m ? 8 : 0;
  return {gate, gate + static_cast<int64_t>(group) * k, rows, rows};
}

template <LinearSwiglu problem, class X, class Y>
ERN_DEVICE void linear_swiglu(const Step* step, const X* x, const Bf16* norm, const Bf16* weight, const float* bias, Y* y) {
  constexpr ProductTiling tiling = problem.tiling;
  constexpr int m = problem.m, k = problem.k, group = problem.group, outputs = tiling.rows / 2, tiles = static_cast<int>(ceil_div(m, outputs));
  static_assert(tiling.rows % 16 == 0 && m % group == 0 && group % 8 == 0);
  static_assert(problem.norm.on == (sizeof(X) == 4), "x is float where a norm rounds it, else Bf16");
  using P = Product<k, tiling, X>;
  if constexpr (!problem.late) start_dependents();
  P product(product_memory);
  const int rows = rows_of(step, problem.rows);
  const auto rows_at = [&](int tile, int p) { return swiglu_rows<m, k, group>(weight, tile * outputs + p * 8); };
  const auto finish = [&](int tile, int first, int count) {
    for (int i = static_cast<int>(threadIdx.x); i < outputs * count; i += tiling.threads()) {
      const int row = i % outputs, token = i / outputs, column = tile * outputs + row;
      if (m % outputs != 0 && column >= m) continue;
      const float scale = product.scale(token, problem.norm.eps);
      const int at = row / 8 * 16 + row % 8;
      float g = product.sum(at, token) * scale, u = product.sum(at + 8, token) * scale;
      if constexpr (problem.bias) {
        const int place = gate_row<group>(column);
        g += bias[place], u += bias[place + group];
      }
      y[static_cast<int64_t>(first + token) * m + column] = round_to<Y>(silu(g) * u);
    }
  };
  if constexpr (tiling.once) {
    const auto source = [&](int, int p) { return rows_at(static_cast<int>(blockIdx.x), p); };
    product.begin(source, 1);
    product.load_norm(norm);
    wait_for_inputs();
    if constexpr (problem.late) start_dependents();
    const auto row_of = [&](int row) { return x + static_cast<int64_t>(row) * k; };
    product.load_x(row_of, rows);
    product.run(source, 0, 1, rows, row_of);
    finish(static_cast<int>(blockIdx.x), 0, rows);
  } else {
    const TileWalk walk{tiles, static_cast<int>(ceil_div(rows, tiling.tokens()))};
    const auto source = [&](int index, int p) { return rows_at(walk.tile(index), p); };
    const int total = walk.total();
    product.begin(source, total);
    product.load_norm(norm);
    wait_for_inputs();
    if constexpr (problem.late) start_dependents();
    for (int index = 0; index < total; ++index) {
      const int first = walk.group(index) * tiling.tokens(), count = rows - first < tiling.tokens() ? rows - first : tiling.tokens();
      const auto row_of = [&](int row) { return x + static_cast<int64_t>(first + row) * k; };
      if (index % walk.each == 0) product.load_x(row_of, count);
      product.run(source, index, total, count, row_of);
      finish(walk.tile(index), first, count);
    }
  }
}

}  // namespace ern::cuda
