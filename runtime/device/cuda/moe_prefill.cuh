// The experts of a mixture for many tokens: rows are sorted by expert, go through grouped products, and come back as weighted sums. Nothing of it waits for
// the host: how many rows an expert has is known on the device alone.
//
//   moe_sort     offsets, places            from the router's indices
//   moe_gather   sorted[places[c]] = x[c / chosen], for each choice c = t * chosen + j
//   gemm_grouped activations = silu(sorted . gate_e^T) * (sorted . up_e^T), then expert_rows = activations . down_e^T (gemm_grouped.cuh)
//   moe_sum      out[t] = sum over j of weights[t, j] * expert_rows[places[t * chosen + j]], + addend[t]
//
//   x            Bf16 [rows, width]
//   indices      int32 [rows, chosen]       in [0, experts), different within a row
//   weights      float [rows, chosen]
//   offsets      int32 [experts + 1]        where each expert's rows begin
//   places       int32 [rows, chosen]       of a choice, among the sorted
//   sorted       Bf16 [rows * chosen, width]
//   expert_rows  Bf16 [rows * chosen, width]
//   addend, out  float [rows, width]        addend only if problem.addend; may be out
//
// Launch: moe_sort with 1024 threads in one block; the others with 256 threads in any number of blocks.
// Which place a choice gets among its expert's rows is chance; no result depends on it, since rows never meet in a sum. moe_sum adds by ascending j.
// Reference ops: expert_linear, swiglu, moe_combine, add (fused: moe_ffn).
#pragma once

#include "kernel.cuh"

namespace ern::cuda {

struct MoePrefill {
  int width;
  int experts;
  int chosen;
  bool addend = false;
  Rows rows = Rows::tokens;
};

constexpr int moe_sort_threads = 1024;
constexpr int moe_row_threads = 256;

template <MoePrefill problem>
ERN_DEVICE void moe_sort(const Step* step, const int32_t* indices, int32_t* offsets, int32_t* places) {
  constexpr int experts = problem.experts;
  __shared__ int32_t counts[experts], next[experts];
  start_dependents();
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += moe_sort_threads) counts[e] = 0;
  __syncthreads();
  wait_for_inputs();
  const int choices = rows_of(step, problem.rows) * problem.chosen;
#pragma unroll 4
  for (int c = static_cast<int>(threadIdx.x); c < choices; c += moe_sort_threads) atomicAdd(&counts[__ldcg(indices + c)], 1);
  __syncthreads();
  if (threadIdx.x < warp_size) {
    constexpr int own = static_cast<int>(ceil_div(experts, warp_size));  // experts of a lane
    const int lane = lane_id();
    int sum = 0;
#pragma unroll
    for (int i = 0; i < own; ++i) sum += lane * own + i < experts ? counts[lane * own + i] : 0;
    const int end = warp_sum_until(sum);
    int begin = end - sum;
#pragma unroll
    for (int i = 0; i < own; ++i) {
      const int e = lane * own + i;
      if (e >= experts) break;
      next[e] = begin;
      offsets[e] = begin;
      begin += counts[e];
    }
    if (lane == warp_size - 1) offsets[experts] = end;
  }
  __syncthreads();
#pragma unroll 4
  for (int c = static_cast<int>(threadIdx.x); c < choices; c += moe_sort_threads) places[c] = atomicAdd(&next[__ldcg(indices + c)], 1);
}

template <MoePrefill problem>
ERN_DEVICE void moe_gather(const Step* step, const Bf16* x, const int32_t* places, Bf16* sorted) {
  constexpr int width = problem.width, pieces = width / 8;
  static_assert(width % 8 == 0);
  start_dependents();
  wait_for_inputs();
  const int64_t all = static_cast<int64_t>(rows_of(step, problem.rows)) * pieces;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * moe_row_threads + threadIdx.x; i < all; i += static_cast<int64_t>(gridDim.x) * moe_row_threads) {
    const int64_t row = i / pieces, column = i % pieces * 8;
    const uint4 values = load_fresh(x + row * width + column);
#pragma unroll
    for (int j = 0; j < problem.chosen; ++j) {
      const int64_t place = __ldcg(places + row * problem.chosen + j);
      *reinterpret_cast<uint4*>(sorted + place * width + column) = values;
    }
  }
}

template <MoePrefill problem>
ERN_DEVICE void moe_sum(const Step* step, const Bf16* expert_rows, const int32_t* places, const float* weights, const float* addend, float* out) {
  constexpr int width = problem.width, pieces = width / 8;
  static_assert(width % 8 == 0);
  start_dependents();
  wait_for_inputs();
  const int64_t all = static_cast<int64_t>(rows_of(step, problem.rows)) * pieces;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * moe_row_threads + threadIdx.x; i < all; i += static_cast<int64_t>(gridDim.x) * moe_row_threads) {
    const int64_t row = i / pieces, column = i % pieces * 8;
    float sum[8] = {}, more[8] = {};
    if constexpr (problem.addend) load8(addend + row * width + column, more);
    uint4 values[problem.chosen];
#pragma unroll
    for (int j = 0; j < problem.chosen; ++j) values[j] = load_fresh(expert_rows + static_cast<int64_t>(__ldcg(places + row * problem.chosen + j)) * width + column);
#pragma unroll
    for (int j = 0; j < problem.chosen; ++j) {
      const float weight = __ldcg(weights + row * problem.chosen + j);
      const uint32_t words[4] = {values[j].x, values[j].y, values[j].z, values[j].w};
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) sum[2 * pair] += weight * low_bf16(words[pair]), sum[2 * pair + 1] += weight * high_bf16(words[pair]);
    }
#pragma unroll
    for (int c = 0; c < 8; ++c) sum[c] += more[c];
    store8(out + row * width + column, sum);
  }
}

}  // namespace ern::cuda
