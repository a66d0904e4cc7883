// linear, linear_swiglu and head_argmax for 17 to 64 rows of x: the weight is the operand of 64 rows of wgmma and x the one of 64 columns, so that a block
// reads x as often as a tile of the weight and not once for every 16 rows of it. Tensor maps, wgmma, sm_90a only.
//
//   x         bf16 [rows, k]     by tensor map: boxes of 64 k x 64 rows, 128-byte swizzle; what lies behind the rows of the step is computed and thrown away
//   weight    bf16 [n, k]        by tensor map: the same boxes. With swiglu the rows of gate and up alternate in groups of problem.group, 8 to 32
//   bias      float [n]          if problem.bias, else not read
//   residual  float [rows, n]    if problem.residual, else not read; may be y
//   y         Y [rows, n], or [rows, n / 2] with swiglu; float, or Bf16 rounded to nearest even
//   logits, ids, workspace, arrivals   as in head_argmax.cuh
//
// Launch: wide_threads threads, wide_shared_bytes(tiling) of dynamic shared memory.
//   wide_linear  grid ceil(n / 64) * tiling.cluster, in clusters of tiling.cluster: its blocks share out k, and each finishes a share of the tile's rows
//   wide_head    as many blocks as fit, which take tiles in turns; tiling.cluster is 1
// Roles: one thread of the last warp fills a ring of stages, each 128 k of the tile and of x, weights before the wait for inputs; the warpgroup before it
// multiplies. Shared memory: stages, aligned to 1024 bytes; sums [64 rows of x][wide_pitch] f32; two barriers a stage.
// Sums run over a block's k in order, 16 at a time within the tensor core, in f32, then over blocks; then + bias, then + residual. k % 8 == 0.
// Reference ops: linear, swiglu, argmax, add.
#pragma once

#include "argmax.cuh"
#include "linear_swiglu.cuh"
#include "tma.cuh"
#include "wgmma.cuh"

namespace ern::cuda {

struct WideTiling {
  int stages = 3;
  int cluster = 1;
  int residents = 2;
};

constexpr int wide_rows = 64, wide_columns = 64;  // of the weight, of x
constexpr int wide_k = 2 * tile_k;                // of a stage
constexpr int wide_threads = warpgroup_size + warp_size;
constexpr int wide_pitch = wide_rows + 2;
constexpr int wide_box_bytes = 64 * tile_k * 2, wide_stage_bytes = 4 * wide_box_bytes;
constexpr int wide_shared_bytes(WideTiling tiling) { return 1024 + tiling.stages * (wide_stage_bytes + 16) + wide_columns * wide_pitch * 4; }

struct WideLinear {
  int n;
  int k;
  bool bias = false;
  bool residual = false;
  bool swiglu = false;
  int group = 32;
  Rows rows = Rows::tokens;
  WideTiling tiling = {};
  bool late = false;  // starts dependents after its wait: kernel.cuh
};

template <int k, WideTiling tiling>
struct WideProduct {
  static constexpr int stages = tiling.stages;
  static constexpr int share = static_cast<int>(ceil_div(ceil_div(k, wide_k), tiling.cluster));  // stages of a tile, for each block of a cluster

  uint8_t* ring;
  float* sums;
  Barrier* full;
  Barrier* empty;
  int steps;  // of this block in a tile
  int first;  // of its k

  // Every thread calls it.
  ERN_DEVICE WideProduct(uint8_t* memory, const TensorMap* x_map, const TensorMap* weight_map) {
    ring = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(memory) + 1023) / 1024 * 1024);
    sums = reinterpret_cast<float*>(ring + stages * wide_stage_bytes);
    full = reinterpret_cast<Barrier*>(sums + wide_columns * wide_pitch);
    empty = full + stages;
    const int rank = tiling.cluster > 1 ? cluster_rank() : 0, left = static_cast<int>(ceil_div(k, wide_k)) - rank * share;
    steps = left < 0 ? 0 : left < share ? left : share;
    first = rank * share * wide_k;
    if (threadIdx.x == 0) {
      prefetch_map(x_map), prefetch_map(weight_map);
      for (int i = 0; i < stages; ++i) full[i].init(1), empty[i].init(warpgroup_size / warp_size);
      fence_barriers();
    }
    __syncthreads();
  }

  ERN_DEVICE void copy(const TensorMap* map, int box, int step, int row, int stage) const {
#pragma unroll
    for (int half = 0; half < 2; ++half)
      copy_tile(ring + stage * wide_stage_bytes + (2 * box + half) * wide_box_bytes, map, first + step * wide_k + half * tile_k, row, full[stage]);
  }

  // One thread calls it: fills the ring for tiles tile(0 .. count - 1) of the weight.
  template <class Tile>
  ERN_DEVICE void fill(const TensorMap* x_map, const TensorMap* weight_map, int count, const Tile& tile) const {
    const int total = count * steps, early = total < stages ? total : stages;
    for (int i = 0; i < early; ++i) {
      full[i].arrive_expecting(wide_stage_bytes);
      copy(weight_map, 0, i % steps, tile(i / steps) * wide_rows, i);
    }
    wait_for_inputs();
    for (int i = 0; i < early; ++i) copy(x_map, 1, i % steps, 0, i);
    Ring<stages> at;
    at.skip(early);
    for (int i = early; i < total; ++i, at.next()) {
      empty[at.stage].wait(at.parity ^ 1);
      full[at.stage].arrive_expecting(wide_stage_bytes);
      copy(weight_map, 0, i % steps, tile(i / steps) * wide_rows, at.stage);
      copy(x_map, 1, i % steps, 0, at.stage);
    }
  }

  static ERN_DEVICE void sync_warpgroup() { asm volatile("bar.sync 1, %0;" ::"n"(warpgroup_size) : "memory"); }

  // The warpgroup calls it for each tile: afterwards sums[column][row] is what this block's k give.
  ERN_DEVICE void multiply(Ring<stages>& at) const {
    float d[wide_columns / 2];
#pragma unroll
    for (int i = 0; i < wide_columns / 2; ++i) d[i] = 0;
    int previous = -1;
    for (int step = 0; step < steps; ++step, at.next()) {
      full[at.stage].wait(at.parity);
      wgmma_fence();
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint64_t w = wgmma_operand(ring + at.stage * wide_stage_bytes + half * wide_box_bytes);
        const uint64_t x = wgmma_operand(ring + at.stage * wide_stage_bytes + (2 + half) * wide_box_bytes);
#pragma unroll
        for (int i = 0; i < tile_k / wgmma_k; ++i) Wgmma<wide_columns>::multiply(d, w + i * wgmma_next_k, x + i * wgmma_next_k, true);
      }
      wgmma_commit();
      wgmma_wait<1>();
      if (previous >= 0 && lane_id() == 0) empty[previous].arrive();
      previous = at.stage;
    }
    wgmma_wait<0>();
    if (previous >= 0 && lane_id() == 0) empty[previous].arrive();
    wgmma_hold(d);
    const int row = 16 * warp_id() + lane_id() / 4;
    sync_warpgroup();  // the sums of before are read
#pragma unroll
    for (int i = 0; i < wide_columns / 2; ++i)
      sums[(i / 4 * 8 + 2 * (lane_id() % 4) + i % 2) * wide_pitch + row + i / 2 % 2 * 8] = d[i];
    sync_warpgroup();
  }

  // Over the blocks of the cluster, in order.
  ERN_DEVICE float sum(int row, int column) const {
    const float* const at = sums + column * wide_pitch + row;
    float total = 0;
#pragma unroll
    for (int rank = 0; rank < tiling.cluster; ++rank) {
      if (tiling.cluster == 1) return *at;
      uint32_t there;
      float value;
      asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(at)), "r"(rank));
      asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(there) : "memory");
      total += value;
    }
    return total;
  }
};

template <WideLinear problem, class Y>
ERN_DEVICE void wide_linear(const Step* step, const TensorMap* x_map, const TensorMap* weight_map, const float* bias, const float* residual, Y* y) {
  constexpr WideTiling tiling = problem.tiling;
  constexpr int n = problem.n, group = problem.group, out_n = problem.swiglu ? n / 2 : n, outputs = problem.swiglu ? wide_rows / 2 : wide_rows;
  constexpr int share = outputs / tiling.cluster;
  static_assert(outputs % tiling.cluster == 0 && problem.k % 8 == 0);
  static_assert(!problem.swiglu || (wide_rows % (2 * group) == 0 && n % (2 * group) == 0 && !problem.residual));
  extern __shared__ uint8_t dynamic[];
  if constexpr (!problem.late) start_dependents();
  const WideProduct<problem.k, tiling> product(dynamic, x_map, weight_map);
  const int tile = static_cast<int>(blockIdx.x) / tiling.cluster, rank = static_cast<int>(blockIdx.x) % tiling.cluster;
  if (warp_id() == warpgroup_size / warp_size) {
    if (lane_id() == 0) product.fill(x_map, weight_map, 1, [&](int) { return tile; });
    __syncwarp();
  } else {
    if constexpr (problem.late) wait_for_inputs(), start_dependents();
    Ring<tiling.stages> at;
    product.multiply(at);
  }
  // Its own copies have come, so the copying thread has waited for inputs; everybody reads some below.
  wait_for_inputs();
  if (tiling.cluster > 1) asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
  else __syncthreads();
  const int rows = rows_of(step, problem.rows);
  for (int i = static_cast<int>(threadIdx.x); i < share * rows; i += wide_threads) {
    const int output = rank * share + i % share, token = i / share, column = tile * outputs + output;
    if (column >= out_n) continue;
    float value;
    if constexpr (problem.swiglu) {
      const int gate = output / group * 2 * group + output % group;
      float g = product.sum(gate, token), u = product.sum(gate + group, token);
      if constexpr (problem.bias) g += bias[tile * wide_rows + gate], u += bias[tile * wide_rows + gate + group];
      value = silu(g) * u;
    } else {
      value = product.sum(output, token);
      if constexpr (problem.bias) value += bias[column];
    }
    const int64_t at = static_cast<int64_t>(token) * out_n + column;
    if constexpr (problem.residual) value += __ldcg(residual + at);
    y[at] = round_to<Y>(value);
  }
  if (tiling.cluster > 1) cluster_sync();  // nobody leaves while others read its sums
}

struct WideHead {
  int n;
  int k;
  bool bias = false;
  Rows rows = Rows::tokens;
  WideTiling tiling = {};
};

template <WideHead problem>
ERN_DEVICE void wide_head(const Step* step, const TensorMap* x_map, const TensorMap* weight_map, const float* bias, float* logits, int32_t* ids,
                          void* workspace, unsigned* arrivals) {
  constexpr WideTiling tiling = problem.tiling;
  constexpr int n = problem.n, tiles = static_cast<int>(ceil_div(n, wide_rows)), kept = wide_rows * wide_columns / warpgroup_size;
  static_assert(tiling.cluster == 1 && warpgroup_size % wide_rows == 0);
  extern __shared__ uint8_t dynamic[];
  start_dependents();
  const WideProduct<problem.k, tiling> product(dynamic, x_map, weight_map);
  const int blocks = static_cast<int>(gridDim.x), block = static_cast<int>(blockIdx.x);
  const int count = block < tiles ? (tiles - block + blocks - 1) / blocks : 0;
  const int rows = rows_of(step, problem.rows);
  Best* const all = static_cast<Best*>(workspace);
  if (warp_id() == warpgroup_size / warp_size) {
    if (lane_id() == 0) product.fill(x_map, weight_map, count, [&](int i) { return block + i * blocks; });
    __syncwarp();
  } else {
    wait_for_inputs();
    // A thread has one row of each tile, and every second row of x.
    constexpr int step_of = warpgroup_size / wide_rows;
    const int row = static_cast<int>(threadIdx.x) % wide_rows, first = static_cast<int>(threadIdx.x) / wide_rows;
    Best best[kept];
#pragma unroll
    for (int j = 0; j < kept; ++j) best[j] = no_best();
    Ring<tiling.stages> at;
    for (int i = 0; i < count; ++i) {
      product.multiply(at);
      const int column = (block + i * blocks) * wide_rows + row;
#pragma unroll
      for (int j = 0; j < kept; ++j) {
        const int token = first + j * step_of;
        if (token >= rows || column >= n) continue;
        float value = product.sum(row, token);
        if constexpr (problem.bias) value += bias[column];
        logits[static_cast<int64_t>(token) * n + column] = value;
        if (value > best[j].value) best[j] = {value, column};
      }
    }
    // Over the rows: a warp has 32 of them, two warps a row of x.
    float2* const halves = reinterpret_cast<float2*>(product.sums);
    product.sync_warpgroup();
#pragma unroll
    for (int j = 0; j < kept; ++j) {
      const Best top = warp_best(best[j]);
      if (lane_id() == 0) halves[(first + j * step_of) * 2 + warp_id() % 2] = make_float2(top.value, __int_as_float(top.id));
    }
    product.sync_warpgroup();
    for (int token = static_cast<int>(threadIdx.x); token < rows; token += warpgroup_size) {
      const float2 a = halves[token * 2], b = halves[token * 2 + 1];
      const Best top = better({a.x, __float_as_int(a.y)}, {b.x, __float_as_int(b.y)});
      __stcg(reinterpret_cast<float2*>(all + static_cast<int64_t>(token) * blocks + block), make_float2(top.value, __int_as_float(top.id)));
    }
  }
  pick_best_of_blocks<wide_threads / warp_size>(all, blocks, rows, arrivals, ids);
}

}  // namespace ern::cuda
