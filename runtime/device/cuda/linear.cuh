// linear: y = x . W^T (+ bias) (+ residual), for a few rows. With a norm: y = rms_norm(x) . W^T.
//
//   x         X [rows, k]     row-major; Bf16, or float with problem.norm
//   norm      Bf16 [k]        the norm's weight; if problem.norm.on, else not read
//   weight    Bf16 [n, k]     row
//   bias      float [n]       if problem.bias, else not read
//   residual  float [rows, n] if problem.residual, else not read; may be y
//   y         Y [rows, n]     row-major; float, or Bf16 rounded to nearest even
//
// Launch: tiling.threads() threads; ceil(n / tiling.rows) blocks, or fewer, which then take several tiles each.
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
};

// Row `row` of a weight of n rows, or its last: rows behind the end are computed and thrown away.
template <int n, int k>
ERN_DEVICE const Bf16* weight_row(const Bf16* weight, int row) {
  return weight + static_cast<int64_t>(row < n ? row : n - 1) * k;
}

template <Linear problem, class X, class Y>
ERN_DEVICE void linear(const Step* step, const X* x, const Bf16* norm, const Bf16* weight, const float* bias, const float* residual,
                       Y* y) {
  constexpr ProductTiling tiling = problem.tiling;
  constexpr int n = problem.n, k = problem.k, tiles = static_cast<int>(ceil_div(n, tiling.rows));
  static_assert(problem.norm.on == (sizeof(X) == 4), "x is float where a norm rounds it, else Bf16");
  using P = Product<k, tiling, X>;
  __shared__ typename P::Shared shared;
  start_dependents();
  P product(shared);
  const int blocks = static_cast<int>(gridDim.x);
  int tile = static_cast<int>(blockIdx.x);
  const auto low = [&](int tile) { return weight_row<n, k>(weight, tile * tiling.rows + product.group); };
  const auto high = [&](int tile) { return weight_row<n, k>(weight, tile * tiling.rows + product.group + 8); };
  if (tile < tiles) product.begin(low(tile), high(tile));
  wait_for_inputs();
  const int rows = rows_of(step, problem.rows);
  for (int first = 0; first < rows; first += P::tokens) {  // once, where tiling.once
    const int count = rows - first < P::tokens ? rows - first : P::tokens;
    const bool again = !tiling.once && first + P::tokens < rows;
    for (tile = static_cast<int>(blockIdx.x); tile < tiles; tile += blocks) {
      const bool more = tile + blocks < tiles || again;
      const int next = tile + blocks < tiles ? tile + blocks : static_cast<int>(blockIdx.x);
      product.run(low(tile), high(tile), low(next), high(next), more, count, [&](int row) { return x + static_cast<int64_t>(first + row) * k; },
                  norm);
      for (int i = static_cast<int>(threadIdx.x); i < tiling.rows * count; i += tiling.threads()) {
        const int row = i % tiling.rows, token = i / tiling.rows, column = tile * tiling.rows + row;
        if (column >= n) continue;
        const int64_t at = static_cast<int64_t>(first + token) * n + column;
        float value = product.sum(row, token) * product.scale(token, problem.norm.eps);
        if constexpr (problem.bias) value += bias[column];
        if constexpr (problem.residual) value += __ldcg(residual + at);
        y[at] = round_to<Y>(value);
      }
      if constexpr (tiling.once) return;
    }
  }
}

}  // namespace ern::cuda
