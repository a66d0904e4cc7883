// norm_router for many rows: the norm of each, and which experts it goes to, reading x from memory once and the gate once for 64 rows.
//
//   x, norm, gate, correction, normed, logits, indices, weights   as in norm_router.cuh; gate float
//
// Launch: grid (RouteTile::cluster, ceil(tokens / 64)) in clusters of RouteTile::cluster; 256 threads; norm_router_many_shared<problem>() bytes of dynamic
// shared memory; sm_90.
// A cluster takes 64 tokens, its blocks share out k. Tiles of 64 k of 64 tokens and 64 experts come through three stages (cp.async); two sets of four warps
// take 16 k in turns, a warp 32 tokens x 32 experts of them. Then each block adds up the cluster's logits of its share of the tokens and chooses, and norms its
// k of all tokens, which are still in L2.
// Products on tensor cores, to f32's precision: of each factor tf32 holds the upper half and, apart, the lower one, so that
//   x * g = xh * gh + (xh * gl + xl * gh), and what is left out, xl * gl, is below 2^-23 of it.
//   shared  stages of [64 + 64 rows][64 k], chunks of 16 bytes of odd rows in turns with their neighbours four further, so that two rows lie in all banks;
//           the sums in their place; norm of the block's k, f32; logits of the block's tokens
// hidden a multiple of 4. Reference ops: rms_norm, cast, moe_router.
#pragma once

#include "attention_prefill.cuh"
#include "cluster.cuh"
#include "norm_router.cuh"

namespace ern::cuda {

struct RouteTile {
  static constexpr int tokens = 64, experts = 64, k = 64, stages = 3, cluster = 8, warps = 8, threads = warps * warp_size;
  static constexpr int stage_floats = (tokens + experts) * k, own_tokens = tokens / cluster;
  static constexpr int sets = 2, warp_rows = 32, warp_columns = 32;  // of warps that share out k; of a warp's sums

  // Where chunk `chunk` of 4 k of row `row` of a stage lies.
  static ERN_DEVICE int at(int row, int chunk) { return row * k + (chunk ^ (row & 1) * 4) * 4; }
};

// Of k, for each block of a cluster.
constexpr int route_tiles(int hidden) { return static_cast<int>(ceil_div(ceil_div(hidden, RouteTile::k), RouteTile::cluster)); }

template <NormRouter problem>
constexpr int norm_router_many_shared() {
  return (RouteTile::stages * RouteTile::stage_floats + route_tiles(problem.hidden) * RouteTile::k + RouteTile::own_tokens * problem.experts) *
         static_cast<int>(sizeof(float));
}

// A factor's upper half as tf32, to nearest; the rest of it, exact, of which the tensor core takes the upper bits. (cvt.rna.tf32 takes five instructions.)
ERN_DEVICE void halve(float x, uint32_t& high, uint32_t& low) {
  high = (__float_as_uint(x) + 0x1000) & 0xffffe000;
  low = __float_as_uint(x - __uint_as_float(high));
}

// d += a . b of 16 rows, 8 columns, 8 k.
ERN_DEVICE void multiply_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <NormRouter problem>
ERN_DEVICE void norm_router_many(const Step* step, const float* x, const Bf16* norm, const float* gate, const float* correction, Bf16* normed, float* logits,
                                 int32_t* indices, float* weights) {
  using Tile = RouteTile;
  constexpr int hidden = problem.hidden, experts = problem.experts, cluster = Tile::cluster, own_tokens = Tile::own_tokens;
  constexpr int all_tiles = static_cast<int>(ceil_div(hidden, Tile::k)), most_tiles = route_tiles(hidden);
  constexpr int chunks = Tile::k / 4, sums = Tile::tokens * Tile::experts;
  static_assert(hidden % 4 == 0 && problem.norm.on && problem.chosen <= warp_size && problem.chosen <= experts);
  static_assert(Tile::sets * (sums + Tile::tokens) <= Tile::stages * Tile::stage_floats);
  extern __shared__ __align__(16) float route_shared[];
  float* const stages = route_shared;
  float* const own_norm = stages + Tile::stages * Tile::stage_floats;
  float* const own_logits = own_norm + most_tiles * Tile::k;
  __shared__ float scales[Tile::tokens];
  const int lane = lane_id(), warp = warp_id(), thread = static_cast<int>(threadIdx.x);
  const int rank = static_cast<int>(blockIdx.x), first_tile = rank * most_tiles, first_column = first_tile * Tile::k;
  const int tiles = all_tiles - first_tile < most_tiles ? max(all_tiles - first_tile, 0) : most_tiles;
  start_dependents();
  for (int i = thread; i < most_tiles * Tile::k; i += Tile::threads) own_norm[i] = first_column + i < hidden ? __bfloat162float(norm[first_column + i]) : 0;
  wait_for_inputs();
  const int tokens = rows_of(step, problem.rows), first_token = static_cast<int>(blockIdx.y) * Tile::tokens;
  if (first_token >= tokens) return;  // the whole cluster

  for (int first_expert = 0; first_expert < experts; first_expert += Tile::experts) {
    const auto load = [&](int tile) {
      float* const to = stages + tile % Tile::stages * Tile::stage_floats;
      if (tile < tiles) {
        constexpr int step_rows = Tile::threads / chunks;
        const int chunk = thread % chunks, column = first_column + tile * Tile::k + chunk * 4, row = thread / chunks;
        const float* const token = x + static_cast<int64_t>(first_token + row) * hidden + column;
        const float* const expert = gate + static_cast<int64_t>(first_expert + row) * hidden + column;
        // Nothing is read where `in` is false.
#pragma unroll
        for (int i = 0; i < Tile::tokens; i += step_rows) copy_async(to + Tile::at(row + i, chunk), token + i * hidden, column < hidden && first_token + row + i < tokens);
#pragma unroll
        for (int i = 0; i < Tile::experts; i += step_rows) copy_async(to + Tile::at(Tile::tokens + row + i, chunk), expert + i * hidden, column < hidden && first_expert + row + i < experts);
      }
      commit_copies();
    };
    const int set = warp / 4, first_row = warp % 4 / 2 * Tile::warp_rows, first_sum = warp % 2 * Tile::warp_columns, quad = lane % 4, group = lane / 4;
    float all[2][4][4] = {};  // of 16 tokens and 8 experts each
    float squares[4] = {};    // of tokens 8 apart
    for (int tile = 0; tile < Tile::stages - 1; ++tile) load(tile);
    for (int tile = 0; tile < tiles; ++tile) {
      wait_copies<Tile::stages - 2>();
      __syncthreads();
      load(tile + Tile::stages - 1);  // into the stage that everybody has left
      const float* const at = stages + tile % Tile::stages * Tile::stage_floats;
#pragma unroll 1
      for (int i = 0; i < Tile::k / 16 / Tile::sets; ++i) {
        // A lane has 4 neighbouring k: two steps of 8 take two of them each, of both factors alike.
        const int chunk = (i * Tile::sets + set) * 4 + quad;
        uint32_t high[2][2][4], low[2][2][4];  // step, 16 tokens
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          const float4 v = *reinterpret_cast<const float4*>(at + Tile::at(first_row + 8 * r + group, chunk));
          squares[r] += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
          halve(v.x, high[0][r / 2][r % 2], low[0][r / 2][r % 2]), halve(v.y, high[0][r / 2][2 + r % 2], low[0][r / 2][2 + r % 2]);
          halve(v.z, high[1][r / 2][r % 2], low[1][r / 2][r % 2]), halve(v.w, high[1][r / 2][2 + r % 2], low[1][r / 2][2 + r % 2]);
        }
        const float4 scale = *reinterpret_cast<const float4*>(own_norm + tile * Tile::k + chunk * 4);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float4 w = *reinterpret_cast<const float4*>(at + Tile::at(Tile::tokens + first_sum + 8 * e + group, chunk));
          uint32_t b[2][2], rest[2][2];
          halve(w.x * scale.x, b[0][0], rest[0][0]), halve(w.y * scale.y, b[0][1], rest[0][1]);
          halve(w.z * scale.z, b[1][0], rest[1][0]), halve(w.w * scale.w, b[1][1], rest[1][1]);
#pragma unroll
          for (int s = 0; s < 2; ++s) {
#pragma unroll
            for (int t = 0; t < 2; ++t) {
              multiply_tf32(all[t][e], high[s][t], rest[s][0], rest[s][1]);
              multiply_tf32(all[t][e], low[s][t], b[s][0], b[s][1]);
              multiply_tf32(all[t][e], high[s][t], b[s][0], b[s][1]);
            }
          }
        }
      }
    }
    wait_copies<0>();
    __syncthreads();
    // The sets' sums and squares, then the block's in the place of the first.
    float* const partial = stages + set * (sums + Tile::tokens);
#pragma unroll
    for (int t = 0; t < 2; ++t) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
#pragma unroll
        for (int lower = 0; lower < 2; ++lower) {
          const int row = first_row + 16 * t + 8 * lower + group, column = first_sum + 8 * e + 2 * quad;
          *reinterpret_cast<float2*>(partial + row * Tile::experts + column) = {all[t][e][2 * lower], all[t][e][2 * lower + 1]};
        }
      }
    }
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      float sum = squares[r];
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      if (first_sum == 0 && quad == 0) partial[sums + first_row + 8 * r + group] = sum;
    }
    __syncthreads();
    for (int i = thread; i < sums + Tile::tokens; i += Tile::threads) stages[i] += stages[sums + Tile::tokens + i];
    cluster_barrier<cluster>();
    if (first_expert == 0 && thread < Tile::tokens) {
      float sum = 0;
#pragma unroll
      for (int block = 0; block < cluster; ++block) sum += load_from_rank<cluster>(stages + sums + thread, block);
      scales[thread] = rsqrtf(sum / hidden + problem.norm.eps);
    }
    __syncthreads();
#pragma unroll
    for (int i = thread; i < own_tokens * Tile::experts; i += Tile::threads) {
      const int own = i / Tile::experts, row = rank * own_tokens + own, expert = first_expert + i % Tile::experts;
      float sum = 0;
#pragma unroll
      for (int block = 0; block < cluster; ++block) sum += load_from_rank<cluster>(stages + row * Tile::experts + i % Tile::experts, block);
      sum *= scales[row];
      if (expert >= experts) continue;
      own_logits[own * experts + expert] = sum;
      if (first_token + row < tokens) logits[static_cast<int64_t>(first_token + row) * experts + expert] = sum;
    }
    cluster_barrier<cluster>();  // nobody reads another's sums any more
  }

  constexpr int width = most_tiles * chunks, each = 4;  // chunks of a row; of a thread at a time
  for (int first = thread; first < Tile::tokens * width; first += each * Tile::threads) {
    float4 v[each];
#pragma unroll
    for (int i = 0; i < each; ++i) {
      const int at = first + i * Tile::threads, row = at / width, column = first_column + at % width * 4;
      v[i] = row < Tile::tokens && first_token + row < tokens && column < hidden ? load4(x + static_cast<int64_t>(first_token + row) * hidden + column) : float4{0, 0, 0, 0};
    }
#pragma unroll
    for (int i = 0; i < each; ++i) {
      const int at = first + i * Tile::threads, row = at / width, column = first_column + at % width * 4;
      if (row >= Tile::tokens || first_token + row >= tokens || column >= hidden) continue;
      const float4 w = *reinterpret_cast<const float4*>(own_norm + at % width * 4);
      const float r = scales[row];
      store4(normed + static_cast<int64_t>(first_token + row) * hidden + column, {v[i].x * r * w.x, v[i].y * r * w.y, v[i].z * r * w.z, v[i].w * r * w.w});
    }
  }
  for (int own = warp; own < own_tokens; own += Tile::warps) {
    const int64_t token = first_token + rank * own_tokens + own;
    if (token >= tokens) break;
    choose_experts<experts>(own_logits + own * experts, problem.correction ? correction : nullptr, problem.chosen, problem.norm_min,
                            indices + token * problem.chosen, weights + token * problem.chosen);
  }
}

}  // namespace ern::cuda
