// head_argmax: logits = x . W^T (+ bias), ids = argmax of each row, taken while the logits are in registers. For a few rows. With a
// norm, x is normed first.
//
//   x          X [rows, k]      row-major; Bf16, or float with problem.norm
//   norm       Bf16 [k]         the norm's weight; if problem.norm.on, else not read
//   weight     Bf16 [n, k]      row (the head, or the tied embedding)
//   bias       float [n]        if problem.bias, else not read
//   logits     float [rows, n]
//   ids        int32 [rows]     the lowest id of the largest logit; a NaN never wins; 0 if nothing is above -inf
//   workspace  head_argmax_workspace(rows, blocks) bytes, aligned to 8
//   arrivals   one counter, 0 before the first launch; each launch leaves it 0 (a __device__ variable of the generated file)
//
// Each block leaves its best of each row in the workspace; the block that is last to do so picks among them.
// Launch: tiling.threads() threads, tiling.shared_bytes(k, normed) of dynamic shared memory; as many blocks as fit, which take tiles in turns.
// See product.cuh. Reference ops: rms_norm, linear, argmax (fused: head_argmax).
#pragma once

#include "argmax.cuh"
#include "linear.cuh"

namespace ern::cuda {

struct HeadArgmax {
  int n;
  int k;
  bool bias = false;
  Norm norm = {};
  Rows rows = Rows::tokens;
  ProductTiling tiling = {};
};

constexpr int64_t head_argmax_workspace(int64_t rows, int64_t blocks) { return rows * blocks * static_cast<int64_t>(sizeof(Best)); }

template <HeadArgmax problem, class X>
ERN_DEVICE void head_argmax(const Step* step, const X* x, const Bf16* norm, const Bf16* weight, const float* bias, float* logits,
                            int32_t* ids, void* workspace, unsigned* arrivals) {
  constexpr ProductTiling tiling = problem.tiling;
  constexpr int n = problem.n, k = problem.k, tiles = static_cast<int>(ceil_div(n, tiling.rows));
  static_assert(problem.norm.on == (sizeof(X) == 4), "x is float where a norm rounds it, else Bf16");
  using P = Product<k, tiling, X>;
  static_assert(!tiling.once);
  __shared__ Best row_best[tiling.rows][tiling.tokens()];
  start_dependents();
  P product(product_memory);
  const int blocks = static_cast<int>(gridDim.x), block = static_cast<int>(blockIdx.x);
  const int rows = rows_of(step, problem.rows);
  const TileWalk walk{tiles, static_cast<int>(ceil_div(rows, tiling.tokens()))};
  const auto source = [&](int index, int p) { return rows_from<n, k, P::product_rows>(weight, walk.tile(index) * tiling.rows + p * 16); };
  const int total = walk.total();
  product.begin(source, total);
  product.load_norm(norm);
  wait_for_inputs();
  Best* const all = static_cast<Best*>(workspace);
  // Thread i keeps the best of (weight row i % tiling.rows, token i / tiling.rows + a multiple of this), which it sums itself.
  constexpr int stride = tiling.threads() / tiling.rows, kept = static_cast<int>(ceil_div(tiling.tokens(), stride));
  const int row = static_cast<int>(threadIdx.x) % tiling.rows;
  for (int first = 0, index = 0; first < rows; first += tiling.tokens()) {
    const int count = rows - first < tiling.tokens() ? rows - first : tiling.tokens();
    Best best[kept];
#pragma unroll
    for (int j = 0; j < kept; ++j) best[j] = no_best();
    const auto row_of = [&](int row) { return x + static_cast<int64_t>(first + row) * k; };
    product.load_x(row_of, count);
    for (int i = 0; i < walk.each; ++i, ++index) {
      const int tile = walk.tile(index);
      product.run(source, index, total, count, row_of);
#pragma unroll
      for (int j = 0; j < kept; ++j) {
        const int token = static_cast<int>(threadIdx.x) / tiling.rows + j * stride, column = tile * tiling.rows + row;
        if (token >= count || column >= n) continue;
        float value = product.sum(row, token) * product.scale(token, problem.norm.eps);
        if constexpr (problem.bias) value += bias[column];
        logits[static_cast<int64_t>(first + token) * n + column] = value;
        if (value > best[j].value) best[j] = {value, column};
      }
    }
#pragma unroll
    for (int j = 0; j < kept; ++j) {
      const int token = static_cast<int>(threadIdx.x) / tiling.rows + j * stride;
      if (token < count) row_best[row][token] = best[j];
    }
    __syncthreads();
    for (int token = static_cast<int>(threadIdx.x); token < count; token += tiling.threads()) {
      Best top = row_best[0][token];
      for (int i = 1; i < tiling.rows; ++i) top = better(top, row_best[i][token]);
      __stcg(reinterpret_cast<float2*>(all + static_cast<int64_t>(first + token) * blocks + block),
             make_float2(top.value, __int_as_float(top.id)));
    }
    __syncthreads();
  }
  pick_best_of_blocks<tiling.warps>(all, blocks, rows, arrivals, ids);
}

}  // namespace ern::cuda
