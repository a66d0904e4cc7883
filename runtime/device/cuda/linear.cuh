// linear: y = x . W^T (+ bias) (+ residual), for a few rows. With a norm: y = rms_norm(x) . W^T.
//
//   x         X [rows, k]     row-major; Bf16, or float with problem.norm
//   norm      Bf16 [k]        the norm's weight; if problem.norm.on, else not read
//   weight    Bf16 [n, k]     row
//   bias      float [n]       if problem.bias, else not read
//   residual  float [rows, n] if problem.residual, else not read; may be y
//   y         Y [rows, n]     row-major; float, or Bf16 rounded to nearest even
//
// Launch: tiling.threads() threads, tiling.shared_bytes(k, normed) of dynamic shared memory; ceil(n / tiling.rows) blocks, or fewer, which then take
// several tiles each (not with tiling.once).
// See product.cuh. Sums, then * 1 / rms, then + bias, then + residual, all f32. Reference ops: rms_norm, linear, add.
#pragma once

#include "product.cuh"

namespace ern::cuda {

struct Linear {
  int n;
  int k;
  bool bias = false;
  bool residual = false;
  Norm norm = {};
  Rows rows = Rows::tokens;
  ProductTiling tiling = {};
  bool late = false;  // starts dependents after its wait: kernel.cuh
};

// This block's tiles, blockIdx.x, + gridDim.x, ..., for each group of rows of x again.
struct TileWalk {
  int tiles;   // of one group
  int groups;  // of rows of x
  int blocks = static_cast<int>(gridDim.x), block = static_cast<int>(blockIdx.x);
  int each = tiles > block ? (tiles - block + blocks - 1) / blocks : 0;  // tiles of this block a group

  ERN_DEVICE int total() const { return each * groups; }
  ERN_DEVICE int tile(int index) const { return block + index % each * blocks; }
  ERN_DEVICE int group(int index) const { return index / each; }
};

extern __shared__ __align__(16) unsigned char product_memory[];

template <Linear problem, class X, class Y>
ERN_DEVICE void linear(const Step* step, const X* x, const Bf16* norm, const Bf16* weight, const float* bias, const float* residual,
                       Y* y) {
  constexpr ProductTiling tiling = problem.tiling;
  constexpr int n = problem.n, k = problem.k, tiles = static_cast<int>(ceil_div(n, tiling.rows));
  static_assert(problem.norm.on == (sizeof(X) == 4), "x is float where a norm rounds it, else Bf16");
  using P = Product<k, tiling, X>;
  if constexpr (!problem.late) start_dependents();
  P product(product_memory);
  const int rows = rows_of(step, problem.rows);
  const auto finish = [&](int tile, int first, int i, float residue) {
    const int row = i % tiling.rows, token = i / tiling.rows, column = tile * tiling.rows + row;
    if (column >= n) return;
    float value = product.sum(row, token) * product.scale(token, problem.norm.eps);
    if constexpr (problem.bias) value += bias[column];
    if constexpr (problem.residual) value += residue;
    y[static_cast<int64_t>(first + token) * n + column] = round_to<Y>(value);
  };
  const auto load_residual = [&](int tile, int first, int count, int i) {
    const int column = tile * tiling.rows + i % tiling.rows;
    if constexpr (problem.residual) {
      if (i < tiling.rows * count && column < n) return __ldcg(residual + static_cast<int64_t>(first + i / tiling.rows) * n + column);
    }
    return 0.0f;
  };
  if constexpr (tiling.once) {
    const auto source = [&](int, int p) { return rows_from<n, k, P::product_rows>(weight, static_cast<int>(blockIdx.x) * tiling.rows + p * 16); };
    constexpr int each = static_cast<int>(ceil_div(tiling.rows * tiling.tokens(), tiling.threads()));
    product.begin(source, 1);
    product.load_norm(norm);
    wait_for_inputs();
    if constexpr (problem.late) start_dependents();
    float residue[each];
#pragma unroll
    for (int j = 0; j < each; ++j) residue[j] = load_residual(static_cast<int>(blockIdx.x), 0, rows, static_cast<int>(threadIdx.x) + j * tiling.threads());
    const auto row_of = [&](int row) { return x + static_cast<int64_t>(row) * k; };
    product.load_x(row_of, rows);
    product.run(source, 0, 1, rows, row_of);
#pragma unroll
    for (int j = 0; j < each; ++j) {
      const int i = static_cast<int>(threadIdx.x) + j * tiling.threads();
      if (i < tiling.rows * rows) finish(static_cast<int>(blockIdx.x), 0, i, residue[j]);
    }
  } else {
    const TileWalk walk{tiles, static_cast<int>(ceil_div(rows, tiling.tokens()))};
    const auto source = [&](int index, int p) { return rows_from<n, k, P::product_rows>(weight, walk.tile(index) * tiling.rows + p * 16); };
    const int total = walk.total();
    product.begin(source, total);
    product.load_norm(norm);
    wait_for_inputs();
    if constexpr (problem.late) start_dependents();
    for (int index = 0; index < total; ++index) {
      const int tile = walk.tile(index), first = walk.group(index) * tiling.tokens();
      const int count = rows - first < tiling.tokens() ? rows - first : tiling.tokens();
      const auto row_of = [&](int row) { return x + static_cast<int64_t>(first + row) * k; };
      if (index % walk.each == 0) product.load_x(row_of, count);
      product.run(source, index, total, count, row_of);
      for (int i = static_cast<int>(threadIdx.x); i < tiling.rows * count; i += tiling.threads()) {
        finish(tile, first, i, load_residual(tile, first, count, i));
      }
    }
  }
}

}  // namespace ern::cuda
