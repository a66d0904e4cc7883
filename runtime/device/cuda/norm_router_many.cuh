// norm_router for many rows: the norm of each, and which experts it goes to, reading x from memory once and the gate once for 64 rows.
//
//   x, norm, gate, correction, normed, logits, indices, weights   as in norm_router.cuh; gate float
//
// Launch: grid (RouteTile::cluster, ceil(tokens / 64)) in clusters of RouteTile::cluster; 256 threads; norm_router_many_shared<problem>() bytes of dynamic
// shared memory; sm_90a.
// A cluster takes 64 tokens, its blocks share out k. Tiles of 64 k of 64 tokens and 64 experts come through stages (cp.async); of each two warpgroups
// multiply 32 k. A stage is free as soon as both have: two are enough where another block of the multiprocessor fills the time.
// Then each block adds up the cluster's logits of its share of the tokens and chooses, and norms its k of all tokens, which are still in L2.
// Products on tensor cores, to f32's precision: tf32 holds the upper half of each factor (h), a second tile and second registers the rest (l), so that
//   x * g = xh * gh + xl * gh + xh * gl, and what is left out, xl * gl and the lowest bits of xl and gl, is below 2^-20 of it. g is gate * norm.
//   shared  stages of x, then gate: each 2 parts of 32 k, [64 rows][32 k], chunks of 16 bytes as a 128-byte swizzle has them; two tiles of xl, alike;
//           the sums in the place of the stages; norm of the block's k, f32; logits of the block's tokens
// hidden a multiple of 4. Reference ops: rms_norm, cast, moe_router.
#pragma once

#include "attention_prefill.cuh"
#include "cluster.cuh"
#include "norm_router.cuh"
#include "wgmma.cuh"

namespace ern::cuda {

struct RouteTile {
  static constexpr int tokens = 64, experts = 64, k = 64, stages = 2, cluster = 8, threads = 2 * warpgroup_size;
  static constexpr int own_tokens = tokens / cluster, part_k = 32, part_floats = 64 * part_k, x_floats = 2 * part_floats, stage_floats = 2 * x_floats;
  static constexpr int sum_pitch = experts + 8;  // of the sums: rows 8 apart in other banks
  static_assert(tokens == 64 && experts == 64);

  // Where chunk `chunk` of 4 k of row `row` of a tile lies.
  static ERN_DEVICE int at(int row, int chunk) { return chunk / 8 * part_floats + row * part_k + ((chunk ^ row) & 7) * 4; }
};

// Of k, for each block of a cluster.
constexpr int route_tiles(int hidden) { return static_cast<int>(ceil_div(ceil_div(hidden, RouteTile::k), RouteTile::cluster)); }

// With the slack that aligning to 1024 needs.
template <NormRouter problem>
constexpr int norm_router_many_shared() {
  return 1024 + (RouteTile::stages * RouteTile::stage_floats + 2 * RouteTile::x_floats + route_tiles(problem.hidden) * RouteTile::k +
                 RouteTile::own_tokens * problem.experts) *
                    static_cast<int>(sizeof(float));
}

template <NormRouter problem>
ERN_DEVICE void norm_router_many(const Step* step, const float* x, const Bf16* norm, const float* gate, const float* correction, Bf16* normed, float* logits,
                                 int32_t* indices, float* weights) {
  using Tile = RouteTile;
  constexpr int hidden = problem.hidden, experts = problem.experts, cluster = Tile::cluster, own_tokens = Tile::own_tokens;
  constexpr int all_tiles = static_cast<int>(ceil_div(hidden, Tile::k)), most_tiles = route_tiles(hidden);
  constexpr int chunks = Tile::k / 4, sums = Tile::tokens * Tile::sum_pitch, each = 10;
  constexpr uint32_t upper = 0xffffe000;  // what tf32 holds
  static_assert(hidden % 4 == 0 && problem.norm.on && problem.chosen <= warp_size && problem.chosen <= experts);
  static_assert(2 * sums + Tile::tokens <= Tile::stages * Tile::stage_floats);
  extern __shared__ __align__(16) float route_shared[];
  float* const stages = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(route_shared) + 1023) / 1024 * 1024);
  float* const lower_x = stages + Tile::stages * Tile::stage_floats;
  float* const own_norm = lower_x + 2 * Tile::x_floats;
  float* const own_logits = own_norm + most_tiles * Tile::k;
  __shared__ float scales[Tile::tokens];
  const int lane = lane_id(), warp = warp_id(), thread = static_cast<int>(threadIdx.x);
  const int rank = static_cast<int>(blockIdx.x), first_tile = rank * most_tiles, first_column = first_tile * Tile::k;
  const int tiles = all_tiles - first_tile < most_tiles ? max(all_tiles - first_tile, 0) : most_tiles;
  // The part of a tile that a thread copies and takes apart: two chunks of two rows.
  const int own_chunk = thread % 8, own_row = thread / 8;
  start_dependents();
  for (int i = thread; i < most_tiles * Tile::k; i += Tile::threads) own_norm[i] = first_column + i < hidden ? __bfloat162float(norm[first_column + i]) : 0;
  wait_for_inputs();
  const int tokens = rows_of(step, problem.rows), first_token = static_cast<int>(blockIdx.y) * Tile::tokens;
  if (first_token >= tokens) return;  // the whole cluster

  // The rows again, for their norm: on their way while blocks wait for one another, if they do so once.
  constexpr bool early = experts <= Tile::experts;
  constexpr int width = most_tiles * chunks;  // chunks of a row
  float4 again[each];
  const auto load_again = [&](int first) {
#pragma unroll
    for (int i = 0; i < each; ++i) {
      const int at = first + i * Tile::threads, row = at / width, column = first_column + at % width * 4;
      again[i] = row < Tile::tokens && first_token + row < tokens && column < hidden ? load4(x + static_cast<int64_t>(first_token + row) * hidden + column) : float4{0, 0, 0, 0};
    }
  };

  for (int first_expert = 0; first_expert < experts; first_expert += Tile::experts) {
    const auto load = [&](int tile) {
      float* const to = stages + tile % Tile::stages * Tile::stage_floats;
      if (tile < tiles) {
        const int column = first_column + tile * Tile::k + own_chunk * 4;
        const float* const token = x + static_cast<int64_t>(first_token + own_row) * hidden + column;
        const float* const expert = gate + static_cast<int64_t>(first_expert + own_row) * hidden + column;
        // Nothing is read where the last argument is false.
#pragma unroll
        for (int part = 0; part < 2; ++part) {
#pragma unroll
          for (int row = 0; row < 64; row += 32) {
            const bool in = column + part * Tile::part_k < hidden;
            const int at = Tile::at(own_row + row, own_chunk + 8 * part), from = row * hidden + part * Tile::part_k;
            copy_async(to + at, token + from, in && first_token + own_row + row < tokens);
            copy_async(to + Tile::x_floats + at, expert + from, in && first_expert + own_row + row < experts);
          }
        }
      }
      commit_copies();
    };
    const int part = warp / 4, quad = lane % 4, group = lane / 4, expert_row = warp % 4 * 16 + group;
    float all[32] = {};
    float squares[2] = {};
    uint32_t high[4][4], low[4][4];  // of gate * norm: 4 steps of 8 k
    for (int tile = 0; tile < Tile::stages - 1; ++tile) load(tile);
    for (int tile = 0; tile < tiles; ++tile) {
      float* const at = stages + tile % Tile::stages * Tile::stage_floats;
      float* const rest = lower_x + tile % 2 * Tile::x_floats;
      wait_copies<Tile::stages - 2>();
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int mine = Tile::at(own_row + i / 2 * 32, own_chunk + i % 2 * 8);
        const float4 v = *reinterpret_cast<const float4*>(at + mine);
        squares[i / 2] += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
        const auto lower = [&](float value) { return value - __uint_as_float(__float_as_uint(value) & upper); };
        *reinterpret_cast<float4*>(rest + mine) = {lower(v.x), lower(v.y), lower(v.z), lower(v.w)};
      }
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
      wgmma_wait<0>();  // the last tile's: its stage is free, and so are these registers
      wgmma_hold(all);
      __syncthreads();
      load(tile + Tile::stages - 1);
      const float* const gate_part = at + Tile::x_floats;
      const float* const norm_part = own_norm + tile * Tile::k + part * Tile::part_k;
#pragma unroll
      for (int s = 0; s < 4; ++s) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int chunk = 8 * part + 2 * s + i / 2;
          const float g = gate_part[Tile::at(expert_row + i % 2 * 8, chunk) + quad] * norm_part[8 * s + 4 * (i / 2) + quad];
          high[s][i] = (__float_as_uint(g) + 0x1000) & upper;
          low[s][i] = __float_as_uint(g - __uint_as_float(high[s][i]));
        }
      }
      const uint64_t x_operand = wgmma_operand(at + part * Tile::part_floats), rest_operand = wgmma_operand(rest + part * Tile::part_floats);
      wgmma_fence();
#pragma unroll
      for (int s = 0; s < 4; ++s) {
        wgmma_tf32(all, high[s], x_operand + 2 * s, true);
        wgmma_tf32(all, low[s], x_operand + 2 * s, true);
        wgmma_tf32(all, high[s], rest_operand + 2 * s, true);
      }
      wgmma_commit();
    }
    wgmma_wait<0>();
    wgmma_hold(all);
    wait_copies<0>();
    if constexpr (early) load_again(thread);
    __syncthreads();
    // The two halves' sums, a row of experts for each token, and squares; then the block's in the place of the first.
    float* const partial = stages + part * sums;
    float* const all_squares = stages + 2 * sums;
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const int token = i / 4 * 8 + 2 * quad + i % 2, expert = expert_row + i % 4 / 2 * 8;
      partial[token * Tile::sum_pitch + expert] = all[i];
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float sum = squares[i];
      for (int mask = 1; mask < 8; mask *= 2) sum += __shfl_xor_sync(~0u, sum, mask);
      if (own_chunk == 0) all_squares[own_row + 32 * i] = sum;
    }
    __syncthreads();
    for (int i = thread * 4; i < sums; i += Tile::threads * 4) {
      float4& to = *reinterpret_cast<float4*>(stages + i);
      const float4 other = *reinterpret_cast<const float4*>(stages + sums + i);
      to = {to.x + other.x, to.y + other.y, to.z + other.z, to.w + other.w};
    }
    cluster_barrier<cluster>();
    if (first_expert == 0 && thread < Tile::tokens) {
      float sum = 0;
#pragma unroll
      for (int block = 0; block < cluster; ++block) sum += load_from_rank<cluster>(all_squares + thread, block);
      scales[thread] = rsqrtf(sum / hidden + problem.norm.eps);
    }
    __syncthreads();
#pragma unroll
    for (int i = thread; i < own_tokens * Tile::experts; i += Tile::threads) {
      const int own = i / Tile::experts, row = rank * own_tokens + own, expert = first_expert + i % Tile::experts;
      float sum = 0;
#pragma unroll
      for (int block = 0; block < cluster; ++block) sum += load_from_rank<cluster>(stages + row * Tile::sum_pitch + i % Tile::experts, block);
      sum *= scales[row];
      if (expert >= experts) continue;
      own_logits[own * experts + expert] = sum;
      if (first_token + row < tokens) logits[static_cast<int64_t>(first_token + row) * experts + expert] = sum;
    }
    cluster_barrier<cluster>();  // nobody reads another's sums any more
  }

  for (int first = thread; first < Tile::tokens * width; first += each * Tile::threads) {
    if (!early || first != thread) load_again(first);
#pragma unroll
    for (int i = 0; i < each; ++i) {
      const int at = first + i * Tile::threads, row = at / width, column = first_column + at % width * 4;
      if (row >= Tile::tokens || first_token + row >= tokens || column >= hidden) continue;
      const float4 w = *reinterpret_cast<const float4*>(own_norm + at % width * 4);
      const float r = scales[row];
      store4(normed + static_cast<int64_t>(first_token + row) * hidden + column, {again[i].x * r * w.x, again[i].y * r * w.y, again[i].z * r * w.z, again[i].w * r * w.w});
    }
  }
  for (int own = warp; own < own_tokens; own += Tile::threads / warp_size) {
    const int64_t token = first_token + rank * own_tokens + own;
    if (token >= tokens) break;
    choose_experts<experts>(own_logits + own * experts, problem.correction ? correction : nullptr, problem.chosen, problem.norm_min,
                            indices + token * problem.chosen, weights + token * problem.chosen);
  }
}

}  // namespace ern::cuda
