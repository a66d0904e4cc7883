// moe_router for many tokens: which experts each goes to, and with what weights. A token at a time, as moe_router.cuh has it, the gate would be read again
// for each of them.
//
//   x, gate, correction, logits, indices, weights   as in moe_router.cuh; gate float
//
// Launch: 256 threads; grid (4, ceil(tokens / 64)) in clusters of 4; moe_router_many_shared<problem>() bytes of dynamic shared memory. sm_90.
// A cluster takes 64 tokens, and 64 experts at a time; each of its blocks has a quarter of k, so that x and the gate come from L2 once for 64 rows of the
// other. Tiles of 64 k go through four stages (cp.async); of each a warp takes 32 k of 16 tokens, a lane 4 tokens x 8 experts. Then each block adds what
// the warps of all blocks have of 16 tokens, in order, and chooses for them.
//   shared  stages of [64 + 64 rows][64 k + 4], so that 8 neighbouring rows lie in all banks; sums [4 blocks x 2][16 tokens][64]; logits [16][experts]
// Everything in f32. hidden a multiple of 4. Reference op: moe_router.
#pragma once

#include "attention_prefill.cuh"
#include "moe_router.cuh"
#include "tma.cuh"

namespace ern::cuda {

struct RouterTile {
  static constexpr int cluster = 4, tokens = 64, experts = 64, k = 64, pitch = k + 4, rows = tokens + experts, stages = 4, warps = 8;
  static constexpr int threads = warps * warp_size, stage_floats = rows * pitch;
  static constexpr int slices = 2, slice_k = k / slices;  // of a tile, by warp
  static constexpr int own_tokens = tokens / cluster;     // that a block adds up and chooses for, and that a warp multiplies
  static constexpr int lane_tokens = 4, lane_experts = 8;
  static constexpr int sums = cluster * slices * own_tokens * experts;
};

template <MoeRouter problem>
constexpr int moe_router_many_shared() {
  return (RouterTile::stages * RouterTile::stage_floats + RouterTile::sums + RouterTile::own_tokens * problem.experts) * static_cast<int>(sizeof(float));
}

template <MoeRouter problem>
ERN_DEVICE void moe_router_many(const Step* step, const float* x, const float* gate, const float* correction, float* logits, int32_t* indices, float* weights) {
#if __CUDA_ARCH__ >= 900
  using Tile = RouterTile;
  constexpr int hidden = problem.hidden, experts = problem.experts;
  constexpr int k_tiles = static_cast<int>(ceil_div(hidden, Tile::k * Tile::cluster)), share_k = k_tiles * Tile::k;  // of each block
  static_assert(hidden % 4 == 0 && Tile::slice_k % 4 == 0 && !problem.norm.on && problem.chosen <= warp_size && problem.chosen <= experts);
  static_assert(Tile::warps * Tile::own_tokens == Tile::slices * Tile::tokens && Tile::own_tokens == 4 * Tile::lane_tokens);
  extern __shared__ __align__(16) float router_shared[];
  float* const stages = router_shared;
  float* const sums = stages + Tile::stages * Tile::stage_floats;  // [block][slice][token][expert], of this block's tokens
  float* const own_logits = sums + Tile::sums;
  start_dependents();
  wait_for_inputs();
  const int tokens = rows_of(step, problem.rows), first_token = static_cast<int>(blockIdx.y) * Tile::tokens;
  if (first_token >= tokens) return;  // the whole cluster
  const int rank = static_cast<int>(blockIdx.x), lane = lane_id(), warp = warp_id(), slice = warp % Tile::slices, warp_tokens = warp / Tile::slices;
  const int token_group = lane / 8, expert_group = lane % 8, first_k = rank * share_k;

  for (int first_expert = 0; first_expert < experts; first_expert += Tile::experts) {
    const auto load = [&](int tile) {
      float* const to = stages + tile % Tile::stages * Tile::stage_floats;
      constexpr int chunks = Tile::k / 4;  // of 16 bytes in a row
      if (tile < k_tiles) {
#pragma unroll
        for (int i = static_cast<int>(threadIdx.x); i < Tile::rows * chunks; i += Tile::threads) {
          const int row = i / chunks, column = first_k + tile * Tile::k + i % chunks * 4;
          const int token = first_token + row, expert = first_expert + row - Tile::tokens;
          const bool in = column < hidden && (row < Tile::tokens ? token < tokens : expert < experts);
          const float* const from = row < Tile::tokens ? x + static_cast<int64_t>(token) * hidden : gate + static_cast<int64_t>(expert) * hidden;
          copy_async(to + row * Tile::pitch + i % chunks * 4, in ? from + column : gate, in);
        }
      }
      commit_copies();
    };
    float acc[Tile::lane_tokens][Tile::lane_experts] = {};
    for (int tile = 0; tile < Tile::stages - 1; ++tile) load(tile);
    for (int tile = 0; tile < k_tiles; ++tile) {
      wait_copies<Tile::stages - 2>();
      __syncthreads();
      load(tile + Tile::stages - 1);  // into the stage that everybody has left
      const float* const at = stages + tile % Tile::stages * Tile::stage_floats + slice * Tile::slice_k;
#pragma unroll
      for (int k = 0; k < Tile::slice_k; k += 4) {
        float4 rows[Tile::lane_tokens];
#pragma unroll
        for (int t = 0; t < Tile::lane_tokens; ++t)
          rows[t] = *reinterpret_cast<const float4*>(at + (warp_tokens * Tile::own_tokens + token_group + 4 * t) * Tile::pitch + k);
#pragma unroll
        for (int e = 0; e < Tile::lane_experts; ++e) {
          const float4 w = *reinterpret_cast<const float4*>(at + (Tile::tokens + expert_group + 8 * e) * Tile::pitch + k);
#pragma unroll
          for (int t = 0; t < Tile::lane_tokens; ++t) {
            float& sum = acc[t][e];
            sum = fmaf(rows[t].x, w.x, sum), sum = fmaf(rows[t].y, w.y, sum), sum = fmaf(rows[t].z, w.z, sum), sum = fmaf(rows[t].w, w.w, sum);
          }
        }
      }
    }
    wait_copies<0>();
    // A warp's tokens are one block's: its sums go there.
    float* const partial = sums + (rank * Tile::slices + slice) * Tile::own_tokens * Tile::experts;
#pragma unroll
    for (int t = 0; t < Tile::lane_tokens; ++t) {
#pragma unroll
      for (int e = 0; e < Tile::lane_experts; ++e)
        store_to_rank<Tile::cluster>(partial + (token_group + 4 * t) * Tile::experts + expert_group + 8 * e, acc[t][e], warp_tokens);
    }
    cluster_sync();
    for (int i = static_cast<int>(threadIdx.x); i < Tile::own_tokens * Tile::experts; i += Tile::threads) {
      float sum = 0;
#pragma unroll
      for (int part = 0; part < Tile::cluster * Tile::slices; ++part) sum += sums[part * Tile::own_tokens * Tile::experts + i];
      const int own = i / Tile::experts, expert = first_expert + i % Tile::experts, token = first_token + rank * Tile::own_tokens + own;
      if (expert >= experts) continue;
      own_logits[own * experts + expert] = sum;
      if (token < tokens) logits[static_cast<int64_t>(token) * experts + expert] = sum;
    }
    cluster_sync();  // the sums are read, and nobody leaves while others write here
  }
  for (int own = warp; own < Tile::own_tokens; own += Tile::warps) {
    const int token = first_token + rank * Tile::own_tokens + own;
    if (token >= tokens) break;
    const int64_t row = static_cast<int64_t>(token) * problem.chosen;
    choose_experts<experts>(own_logits + own * experts, problem.correction ? correction : nullptr, problem.chosen, problem.norm_min, indices + row, weights + row);
  }
#endif
}

}  // namespace ern::cuda
