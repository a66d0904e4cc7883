// moe_router for many tokens: which experts each goes to, and with what weights. A token at a time, as moe_router.cuh has it, the gate would be read again
// for each of them.
//
//   x, gate, correction, logits, indices, weights   as in moe_router.cuh; gate float
//
// Launch: 256 threads; ceil(tokens / 16) blocks; moe_router_many_shared<problem>() bytes of dynamic shared memory.
// A block takes 16 tokens and 64 experts at a time. Tiles of 64 k come through four stages (cp.async); of each a warp takes 8 k, a lane 4 tokens x 8
// experts. Then the warps' sums are added in order, and each warp chooses for two tokens.
//   shared  stages of [16 + 64 rows][64 k + 4], so that 8 neighbouring rows lie in all banks; the warps' sums in their place; logits [16][experts]
// Everything in f32. hidden a multiple of 4. Reference op: moe_router.
#pragma once

#include "attention_prefill.cuh"
#include "moe_router.cuh"

namespace ern::cuda {

struct RouterTile {
  static constexpr int tokens = 16, experts = 64, k = 64, pitch = k + 4, rows = tokens + experts, stages = 4, warps = 8, threads = warps * warp_size;
  static constexpr int stage_floats = rows * pitch, warp_k = k / warps;
  static constexpr int lane_tokens = 4, lane_experts = 8;
};

template <MoeRouter problem>
constexpr int moe_router_many_shared() {
  return (RouterTile::stages * RouterTile::stage_floats + RouterTile::tokens * problem.experts) * static_cast<int>(sizeof(float));
}

template <MoeRouter problem>
ERN_DEVICE void moe_router_many(const Step* step, const float* x, const float* gate, const float* correction, float* logits, int32_t* indices, float* weights) {
  using Tile = RouterTile;
  constexpr int hidden = problem.hidden, experts = problem.experts, k_tiles = static_cast<int>(ceil_div(hidden, Tile::k));
  static_assert(hidden % 4 == 0 && Tile::warp_k % 4 == 0 && !problem.norm.on && problem.chosen <= warp_size && problem.chosen <= experts);
  static_assert(Tile::warps * Tile::tokens * Tile::experts <= Tile::stages * Tile::stage_floats);
  extern __shared__ __align__(16) float router_shared[];
  float* const stages = router_shared;
  float* const all_logits = router_shared + Tile::stages * Tile::stage_floats;
  start_dependents();
  wait_for_inputs();
  const int tokens = rows_of(step, problem.rows), first_token = static_cast<int>(blockIdx.x) * Tile::tokens;
  if (first_token >= tokens) return;
  const int lane = lane_id(), warp = warp_id(), token_group = lane / 8, expert_group = lane % 8;

  for (int first_expert = 0; first_expert < experts; first_expert += Tile::experts) {
    const auto load = [&](int tile) {
      float* const to = stages + tile % Tile::stages * Tile::stage_floats;
      constexpr int chunks = Tile::k / 4;  // of 16 bytes in a row
      if (tile < k_tiles) {
#pragma unroll
        for (int i = static_cast<int>(threadIdx.x); i < Tile::rows * chunks; i += Tile::threads) {
          const int row = i / chunks, column = tile * Tile::k + i % chunks * 4;
          const int token = first_token + row, expert = first_expert + row - Tile::tokens;
          const bool in = column < hidden && (row < Tile::tokens ? token < tokens : expert < experts);
          const float* const from = row < Tile::tokens ? x + static_cast<int64_t>(token) * hidden : gate + static_cast<int64_t>(expert) * hidden;
          copy_async(to + row * Tile::pitch + i % chunks * 4, in ? from + column : gate, in);
        }
      }
      commit_copies();
    };
    float sums[Tile::lane_tokens][Tile::lane_experts] = {};
    for (int tile = 0; tile < Tile::stages - 1; ++tile) load(tile);
    for (int tile = 0; tile < k_tiles; ++tile) {
      wait_copies<Tile::stages - 2>();
      __syncthreads();
      load(tile + Tile::stages - 1);  // into the stage that everybody has left
      const float* const at = stages + tile % Tile::stages * Tile::stage_floats + warp * Tile::warp_k;
#pragma unroll
      for (int k = 0; k < Tile::warp_k; k += 4) {
        float4 rows[Tile::lane_tokens];
#pragma unroll
        for (int t = 0; t < Tile::lane_tokens; ++t) rows[t] = *reinterpret_cast<const float4*>(at + (token_group + 4 * t) * Tile::pitch + k);
#pragma unroll
        for (int e = 0; e < Tile::lane_experts; ++e) {
          const float4 w = *reinterpret_cast<const float4*>(at + (Tile::tokens + expert_group + 8 * e) * Tile::pitch + k);
#pragma unroll
          for (int t = 0; t < Tile::lane_tokens; ++t) {
            float& sum = sums[t][e];
            sum = fmaf(rows[t].x, w.x, sum), sum = fmaf(rows[t].y, w.y, sum), sum = fmaf(rows[t].z, w.z, sum), sum = fmaf(rows[t].w, w.w, sum);
          }
        }
      }
    }
    wait_copies<0>();
    __syncthreads();
    float* const partial = stages + warp * Tile::tokens * Tile::experts;
#pragma unroll
    for (int t = 0; t < Tile::lane_tokens; ++t) {
#pragma unroll
      for (int e = 0; e < Tile::lane_experts; ++e) partial[(token_group + 4 * t) * Tile::experts + expert_group + 8 * e] = sums[t][e];
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < Tile::tokens * Tile::experts; i += Tile::threads) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < Tile::warps; ++w) sum += stages[w * Tile::tokens * Tile::experts + i];
      const int token = i / Tile::experts, expert = first_expert + i % Tile::experts;
      if (expert >= experts) continue;
      all_logits[token * experts + expert] = sum;
      if (first_token + token < tokens) logits[static_cast<int64_t>(first_token + token) * experts + expert] = sum;
    }
    __syncthreads();
  }
  for (int token = warp; token < Tile::tokens && first_token + token < tokens; token += Tile::warps) {
    const int64_t row = static_cast<int64_t>(first_token + token) * problem.chosen;
    choose_experts<experts>(all_logits + token * experts, problem.correction ? correction : nullptr, problem.chosen, problem.norm_min, indices + row, weights + row);
  }
}

}  // namespace ern::cuda
