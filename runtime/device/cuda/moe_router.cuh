// moe_router: which experts a token goes to, and with what weights. With a norm, x is normed first and the normed row is kept.
//
//   x           float [tokens, hidden]     row-major, used as it is
//   norm        Bf16 [hidden]              the norm's weight; if problem.norm.on, else not read
//   gate        W [experts, hidden]        row; float or Bf16
//   correction  float [experts]            if problem.correction, else not read; shifts the choice, not the weights
//   normed      Bf16 [tokens, hidden]      rms_norm(x); if problem.norm.on, else not written
//   logits      float [tokens, experts]    x . gate^T
//   indices     int32 [tokens, chosen]     the largest p + correction, descending; the lower index on ties
//   weights     float [tokens, chosen]     p / max(sum of the chosen p, norm_min), in the order of indices
//
// p = softmax of the logits over all experts. Everything in f32.
//
// Launch: problem.warps warps; grid (problem.cluster, some), in clusters of problem.cluster blocks (sm_90; 1 elsewhere); a cluster
// takes tokens in turns. The blocks of a cluster share out the experts, a warp has one at a time; the logits meet in the shared memory of
// block 0, whose first warp chooses. hidden a multiple of 4, experts at most 32 * 8.
// Reference ops: rms_norm, moe_router.
#pragma once

#include "argmax.cuh"
#include "attention_decode.cuh"
#include "elementwise.cuh"

namespace ern::cuda {

struct MoeRouter {
  int experts;
  int hidden;
  int chosen;
  bool correction = false;
  Rows rows = Rows::tokens;
  Norm norm = {};
  float norm_min = 1e-12f;
  int cluster = 8;
  int warps = 8;
};

// To block `rank` of the cluster.
template <int size>
ERN_DEVICE void store_to_rank(float* at, float value, int rank) {
#if __CUDA_ARCH__ >= 900
  if constexpr (size > 1) {
    uint32_t there;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(at)), "r"(rank));
    asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(there), "f"(value) : "memory");
    return;
  }
#endif
  *at = value;
}

template <int count>
ERN_DEVICE void choose_experts(const float* logits, const float* correction, int chosen, float norm_min, int32_t* indices,
                               float* weights) {
  constexpr int each = static_cast<int>(ceil_div(count, warp_size));  // experts of a lane: lane, lane + 32, ...
  float p[each], score[each], top = -__builtin_inff(), sum = 0;
#pragma unroll
  for (int i = 0; i < each; ++i) {
    const int expert = lane_id() + i * warp_size;
    p[i] = expert < count ? logits[expert] : -__builtin_inff();
    top = fmaxf(top, p[i]);
  }
#pragma unroll
  for (int mask = warp_size / 2; mask > 0; mask /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, mask));
#pragma unroll
  for (int i = 0; i < each; ++i) p[i] = expf(p[i] - top), sum += p[i];
  sum = warp_sum(sum);
#pragma unroll
  for (int i = 0; i < each; ++i) {
    const int expert = lane_id() + i * warp_size;
    p[i] /= sum;
    score[i] = expert >= count ? -__builtin_inff() : correction ? p[i] + correction[expert] : p[i];
    if (score[i] != score[i]) score[i] = -3.0e38f;  // with NaNs too the choices are different experts
  }
  float chosen_sum = 0, mine = 0;
  for (int j = 0; j < chosen; ++j) {
    Best best = no_best();
#pragma unroll
    for (int i = 0; i < each; ++i) best = better(best, {score[i], lane_id() + i * warp_size});
    best = warp_best(best);
    float value = 0;
#pragma unroll
    for (int i = 0; i < each; ++i) {
      if (best.id == lane_id() + i * warp_size) value = p[i], score[i] = -__builtin_inff();
    }
    value = __shfl_sync(~0u, value, best.id % warp_size);
    chosen_sum += value;
    if (lane_id() == j) mine = value, indices[j] = best.id;
  }
  if (lane_id() < chosen) weights[lane_id()] = mine / fmaxf(chosen_sum, norm_min);
}

template <MoeRouter problem, class W>
ERN_DEVICE void moe_router(const Step* step, const float* x, const Bf16* norm, const W* gate, const float* correction, Bf16* normed,
                           float* logits, int32_t* indices, float* weights) {
  constexpr int hidden = problem.hidden, experts = problem.experts, cluster = problem.cluster, warps = problem.warps;
  constexpr int groups = static_cast<int>(ceil_div(hidden, 4 * warp_size));  // of 4 columns a lane
  constexpr int share = static_cast<int>(ceil_div(experts, cluster * warps));
  static_assert(hidden % 4 == 0 && problem.chosen <= warp_size && problem.chosen <= experts);
  __shared__ __align__(16) float row[hidden];
  __shared__ float all_logits[experts];
  start_dependents();
  const int rank = static_cast<int>(blockIdx.x), lane = lane_id();
  for (int j = 0; j < share; ++j) {  // the gate into L2
    const int expert = (j * warps + warp_id()) * cluster + rank;
    constexpr int line = 128 / sizeof(W);
    for (int i = lane * line; expert < experts && i < hidden; i += warp_size * line) {
      asm volatile("prefetch.global.L2 [%0];" ::"l"(gate + static_cast<int64_t>(expert) * hidden + i));
    }
  }
  wait_for_inputs();
  const int tokens = rows_of(step, problem.rows);
  for (int token = static_cast<int>(blockIdx.y); token < tokens; token += static_cast<int>(gridDim.y)) {
    float squares = 0;
    for (int i = static_cast<int>(threadIdx.x) * 4; i < hidden; i += warps * warp_size * 4) {
      float4 v = load4(x + static_cast<int64_t>(token) * hidden + i);
      if constexpr (problem.norm.on) {
        squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
        const float4 w = load4(norm + i);
        v = {v.x * w.x, v.y * w.y, v.z * w.z, v.w * w.w};
      }
      *reinterpret_cast<float4*>(row + i) = v;
    }
    float r = 1;
    if constexpr (problem.norm.on) r = rsqrtf(block_sum<warps>(squares) / hidden + problem.norm.eps);
    __syncthreads();
    if constexpr (problem.norm.on) {  // each block keeps a share of the normed row
      for (int i = (rank * warps * warp_size + static_cast<int>(threadIdx.x)) * 4; i < hidden; i += cluster * warps * warp_size * 4) {
        const float4 v = *reinterpret_cast<const float4*>(row + i);
        store4(normed + static_cast<int64_t>(token) * hidden + i, {v.x * r, v.y * r, v.z * r, v.w * r});
      }
    }
    for (int j = 0; j < share; ++j) {
      const int expert = (j * warps + warp_id()) * cluster + rank;
      if (expert >= experts) break;
      float sum = 0;
#pragma unroll
      for (int i = 0; i < groups; ++i) {
        const int column = (i * warp_size + lane) * 4;
        if (column >= hidden) break;
        const float4 w = load4(gate + static_cast<int64_t>(expert) * hidden + column);
        const float4 v = *reinterpret_cast<const float4*>(row + column);
        sum += v.x * w.x + v.y * w.y + v.z * w.z + v.w * w.w;
      }
      sum = warp_sum(sum) * r;
      if (lane == 0) {
        store_to_rank<cluster>(all_logits + expert, sum, 0);
        logits[static_cast<int64_t>(token) * experts + expert] = sum;
      }
    }
    cluster_barrier<cluster>();
    if (rank == 0 && warp_id() == 0) {
      choose_experts<experts>(all_logits, problem.correction ? correction : nullptr, problem.chosen, problem.norm_min,
                              indices + static_cast<int64_t>(token) * problem.chosen, weights + static_cast<int64_t>(token) * problem.chosen);
    }
    cluster_barrier<cluster>();
  }
}

}  // namespace ern::cuda
