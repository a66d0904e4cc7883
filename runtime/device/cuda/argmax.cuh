// argmax: out[r] = the lowest id of the largest value of row r. NaN never wins; a row with nothing above -inf gives 0.
//
//   logits  float [rows, vocab]
//   out     int32 [rows]
//
// Launch: 1024 threads; one block a row. Reference op: argmax; exact.
//
// Also here: the comparison, and the choice among blocks, that the heads share.
#pragma once

#include "kernel.cuh"

namespace ern::cuda {

struct Best {
  float value;
  int32_t id;
};

ERN_DEVICE Best no_best() { return {-__builtin_inff(), INT32_MAX}; }

// A NaN in b does not win; a never holds one.
ERN_DEVICE Best better(Best a, Best b) { return b.value > a.value || (b.value == a.value && b.id < a.id) ? b : a; }

ERN_DEVICE Best warp_best(Best best) {
#pragma unroll
  for (int mask = warp_size / 2; mask > 0; mask /= 2) {
    best = better(best, {__shfl_xor_sync(~0u, best.value, mask), __shfl_xor_sync(~0u, best.id, mask)});
  }
  return best;
}

// Of all threads of the block; thread 0 gets it. Every thread calls it.
template <int Warps>
ERN_DEVICE Best block_best(Best best) {
  __shared__ Best parts[Warps];
  best = warp_best(best);
  __syncthreads();
  if (lane_id() == 0) parts[warp_id()] = best;
  __syncthreads();
  if (warp_id() == 0) best = warp_best(lane_id() < Warps ? parts[lane_id()] : no_best());
  return best;
}

ERN_DEVICE int32_t id_of(Best best) { return best.value > -__builtin_inff() ? best.id : 0; }

// Each block has left its best of each row in all[rows, blocks]: the one that is last to come here, as it counts in `arrivals`, picks among them. Every thread
// calls it; leaves `arrivals` 0.
template <int Warps>
ERN_DEVICE void pick_best_of_blocks(const Best* all, int blocks, int rows, unsigned* arrivals, int32_t* ids) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(arrivals, 1u) + 1 == gridDim.x;
  __syncthreads();
  if (!last) return;
  __threadfence();
  if (threadIdx.x == 0) *arrivals = 0;
  for (int row = warp_id(); row < rows; row += Warps) {
    Best best = no_best();
    for (int i = lane_id(); i < blocks; i += warp_size) {
      const float2 part = __ldcg(reinterpret_cast<const float2*>(all + static_cast<int64_t>(row) * blocks + i));
      best = better(best, {part.x, __float_as_int(part.y)});
    }
    best = warp_best(best);
    if (lane_id() == 0) ids[row] = id_of(best);
  }
}

struct Argmax {
  int vocab;
  Rows rows = Rows::tokens;
  int threads = 1024;
};

template <Argmax problem>
ERN_DEVICE void argmax(const Step* step, const float* logits, int32_t* out) {
  start_dependents();
  wait_for_inputs();
  const int row = static_cast<int>(blockIdx.x);
  if (row >= rows_of(step, problem.rows)) return;
  Best best = no_best();
  for (int i = static_cast<int>(threadIdx.x); i < problem.vocab; i += problem.threads) {
    const float value = __ldcg(logits + static_cast<int64_t>(row) * problem.vocab + i);
    if (value > best.value) best = {value, i};
  }
  best = block_best<problem.threads / warp_size>(best);
  if (threadIdx.x == 0) out[row] = id_of(best);
}

}  // namespace ern::cuda
