// linear and linear_swiglu for many rows, on sm_90a: y = x . W^T (+ bias) (+ residual), y = silu(x . gate^T) * (x . up^T).
//
//   x         tensor map of Bf16 [max rows, k]: box 64 columns x 128 rows, 128-byte swizzle
//   weight    tensor map of Bf16 [n, k], row: box 64 columns x tiling.columns / tiling.cluster rows, 128-byte swizzle. linear_swiglu:
//             rows interleaved in turns of 32 (layout/interleave.hpp)
//   bias      float [n]       if problem.bias, else not read
//   residual  float [rows, n] if problem.residual, else not read; may be y
//   y         Y [rows, n], of linear_swiglu [rows, n / 2]; float, or Bf16 rounded to nearest even
//
// Launch: 384 threads; tiling.cluster * (multiprocessors / tiling.cluster) blocks at most, in clusters of tiling.cluster; blocks go through tiles of
// 128 rows x tiling.columns in turns. gemm_shared<tiling>() bytes of dynamic shared memory. k a multiple of 8 (columns behind it come as
// zeros), n a multiple of 8 (of 64 for linear_swiglu).
//   thread   warpgroup 0: one thread copies; warpgroups 1 and 2 multiply, 64 rows each, accumulators in registers
//   shared   tiling.stages x (x tile [128][64], weight tile [columns][64]), then a full and an empty barrier a stage
//   cluster  blocks of a cluster have the same columns and neighbouring rows: each copies its share of the weight tile to all
//   order    tiles of `turn` row tiles go through all columns before the next rows: what runs at a time shares operands in L2
// Accumulates f32 by ascending k. Rows behind the last are computed from whatever lies there and not stored.
// Reference ops: linear, add, swiglu (fused: linear_swiglu).
#pragma once

#include "linear_swiglu.cuh"
#include "attention_decode.cuh"
#include "wgmma.cuh"

namespace ern::cuda {

struct GemmTiling {
  int columns = 256;  // 64, 128 or 256
  int stages = 4;
  int cluster = 2;
  int turn = 8;  // row tiles, a multiple of cluster

  static constexpr int rows = 128, threads = 384;
  constexpr int stage_bytes() const { return (rows + columns) * tile_k * 2; }
};

template <GemmTiling tiling>
constexpr int gemm_shared() {
  return tiling.stages * (tiling.stage_bytes() + 16) + 1024;  // the ring begins at a multiple of 1024
}

struct Gemm {
  int n;
  int k;
  bool swiglu = false;
  bool bias = false;
  bool residual = false;
  Rows rows = Rows::tokens;
  GemmTiling tiling = {};
};

template <Gemm problem, class Y>
ERN_DEVICE void gemm(const Step* step, const CUtensorMap* x_map, const CUtensorMap* weight_map, const float* bias, const float* residual,
                     Y* y) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  constexpr GemmTiling tiling = problem.tiling;
  constexpr int n = problem.n, k = problem.k, columns = tiling.columns, stages = tiling.stages, cluster = tiling.cluster;
  constexpr int steps = static_cast<int>(ceil_div(k, tile_k)), column_tiles = static_cast<int>(ceil_div(n, columns));
  constexpr int x_bytes = tiling.rows * tile_k * 2, share = columns / cluster;
  static_assert(tiling.turn % cluster == 0 && columns % (8 * cluster) == 0);
  static_assert(!problem.swiglu || n % 64 == 0);
  extern __shared__ unsigned char dynamic_shared[];
  unsigned char* const ring = dynamic_shared + (1024 - shared_address(dynamic_shared) % 1024) % 1024;
  uint64_t* const full = reinterpret_cast<uint64_t*>(ring + stages * tiling.stage_bytes());
  uint64_t* const empty = full + stages;

  start_dependents();
  const int warpgroup = static_cast<int>(threadIdx.x) / 128;
  const int rank = cluster > 1 ? static_cast<int>(blockIdx.x) % cluster : 0;
  if (threadIdx.x == 0) {
    prefetch_map(x_map), prefetch_map(weight_map);
    for (int i = 0; i < stages; ++i) barrier_init(full + i, 1), barrier_init(empty + i, 2 * cluster);
    barrier_init_done();
  }
  cluster_barrier<cluster>();
  wait_for_inputs();

  const int rows = rows_of(step, problem.rows);
  const int row_groups = static_cast<int>(ceil_div(ceil_div(rows, tiling.rows), cluster));  // of `cluster` tiles
  constexpr int turn = tiling.turn / cluster;
  const int tiles = row_groups * column_tiles, clusters = static_cast<int>(gridDim.x) / cluster;
  // Calls fn(first row, first column) for this block's tiles.
  const auto for_each_tile = [&](const auto& fn) {
    for (int tile = static_cast<int>(blockIdx.x) / cluster; tile < tiles; tile += clusters) {
      const int block = tile / (turn * column_tiles), first = block * turn;
      const int height = row_groups - first < turn ? row_groups - first : turn;
      const int inside = tile - block * turn * column_tiles;
      fn(((first + inside % height) * cluster + rank) * tiling.rows, inside / height * columns);
    }
  };

  if (warpgroup == 0) {
    lower_registers<40>();
    if (threadIdx.x == 0) {
      RingPosition<stages> at;
      for_each_tile([&](int row, int column) {
        for (int i = 0; i < steps; ++i, at.advance()) {
          unsigned char* const stage = ring + at.stage * tiling.stage_bytes();
          barrier_wait(empty + at.stage, at.parity ^ 1);
          barrier_expect(full + at.stage, tiling.stage_bytes());
          load_box(stage, x_map, i * tile_k, row, full + at.stage);
          if constexpr (cluster > 1) {
            load_box_to(stage + x_bytes + rank * share * tile_k * 2, weight_map, i * tile_k, column + rank * share, full + at.stage,
                        (1u << cluster) - 1);
          } else {
            load_box(stage + x_bytes, weight_map, i * tile_k, column, full + at.stage);
          }
        }
      });
    }
  } else {
    raise_registers<232>();
    RingPosition<stages> at;
    const int thread = static_cast<int>(threadIdx.x) % 128, group = thread % warp_size / 4, quad = thread % 4;
    const int row_in_tile = (warpgroup - 1) * 64 + thread / warp_size * 16 + group;
    const auto release = [&](int stage) {
      if (thread < cluster) {
        if constexpr (cluster > 1) barrier_arrive_at(empty + stage, thread);
        else barrier_arrive(empty + stage);
      }
    };
    for_each_tile([&](int first_row, int first_column) {
      float d[columns / 2];
      int previous = 0;
      for (int i = 0; i < steps; ++i, at.advance()) {
        const unsigned char* const stage = ring + at.stage * tiling.stage_bytes();
        barrier_wait(full + at.stage, at.parity);
        const uint64_t a = tile_operand(stage + (warpgroup - 1) * 64 * tile_k * 2), b = tile_operand(stage + x_bytes);
        hold(d);
        wgmma_begin();
#pragma unroll
        for (int j = 0; j < tile_k / 16; ++j) wgmma<columns>(d, a + 2 * j, b + 2 * j, i > 0 || j > 0);
        wgmma_commit();
        hold(d);
        // The stage before is free when its products are done; this one's go on.
        wgmma_wait<1>();
        if (i > 0) release(previous);
        previous = at.stage;
      }
      wgmma_wait<0>();
      release(previous);
      hold(d);

#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = first_row + row_in_tile + half * 8;
        if (row >= rows) continue;
        if constexpr (problem.swiglu) {
#pragma unroll
          for (int pair = 0; pair < columns / 64; ++pair) {
            if (first_column + pair * 64 >= n) break;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
              const int column = (first_column + pair * 64) / 2 + j * 8 + quad * 2;
              float value[2];
#pragma unroll
              for (int c = 0; c < 2; ++c) {
                float g = d[(pair * 8 + j) * 4 + half * 2 + c], u = d[(pair * 8 + j + 4) * 4 + half * 2 + c];
                if constexpr (problem.bias) {
                  const int at_bias = first_column + pair * 64 + j * 8 + quad * 2 + c;
                  g += bias[at_bias], u += bias[at_bias + 32];
                }
                value[c] = silu(g) * u;
              }
              Y* const to = y + static_cast<int64_t>(row) * (n / 2) + column;
              if constexpr (sizeof(Y) == 2) *reinterpret_cast<uint32_t*>(to) = pack_bf16(value[0], value[1]);
              else *reinterpret_cast<float2*>(to) = {value[0], value[1]};
            }
          }
        } else {
#pragma unroll
          for (int j = 0; j < columns / 8; ++j) {
            const int column = first_column + j * 8 + quad * 2;
            if (column >= n) break;
            float value[2] = {d[j * 4 + half * 2], d[j * 4 + half * 2 + 1]};
            const int64_t place = static_cast<int64_t>(row) * n + column;
            if constexpr (problem.bias) value[0] += bias[column], value[1] += bias[column + 1];
            if constexpr (problem.residual) {
              const float2 r = __ldcg(reinterpret_cast<const float2*>(residual + place));
              value[0] += r.x, value[1] += r.y;
            }
            if constexpr (sizeof(Y) == 2) *reinterpret_cast<uint32_t*>(y + place) = pack_bf16(value[0], value[1]);
            else *reinterpret_cast<float2*>(y + place) = {value[0], value[1]};
          }
        }
      }
    });
  }
  if constexpr (cluster > 1) cluster_barrier<cluster>();  // nobody leaves while others copy to it or arrive at its barriers
#endif
}

}  // namespace ern::cuda
