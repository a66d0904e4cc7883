// linear, linear_swiglu and head_argmax for 9 to 64 rows of x: the weight is the operand of 64 rows of wgmma and x the one of 16, 32 or 64 columns, so that a
// block reads x as often as a tile of the weight and not once for every 16 rows of it. Tensor maps, wgmma, sm_90a only.
//
//   x         bf16 [rows, k]     by tensor map: boxes of 64 k x tiling.columns rows, 128-byte swizzle; what lies behind the rows of the step is computed and
//                                thrown away
//   weight    bf16 [n, k]        by tensor map: boxes of 64 k x 64 rows. With swiglu the rows of gate and up alternate in groups of problem.group, 8 to 32
//   bias      float [n]          if problem.bias, else not read
//   residual  float [rows, n]    if problem.residual, else not read; may be y
//   y         Y [rows, n], or [rows, n / 2] with swiglu; float, or Bf16 rounded to nearest even
//   logits, ids, workspace, arrivals   as in head_argmax.cuh
//
// Launch: wide_threads threads; wide_shared_bytes(tiling), of the head wide_head_shared_bytes(tiling), of dynamic shared memory.
//   wide_linear  grid ceil(n / 64) * tiling.cluster, in clusters of tiling.cluster: its blocks share out k, and each finishes a share of the tile's rows
//   wide_head    as many blocks as fit, which take tiles in turns; tiling.cluster is 1
// Roles: one thread of the last warp fills a ring of stages, each 128 k of the tile and of x, weights before the wait for inputs; the warpgroup before it
// multiplies. Shared memory: stages, aligned to 1024 bytes; two barriers a stage; sums [columns][wide_pitch] f32, where the stages were, but behind them in the
// head, whose ring goes on to the next tile.
// Sums run over a block's k in order, 16 at a time within the tensor core, in f32, then over blocks; then + bias, then + residual. k % 8 == 0.
// Reference ops: linear, swiglu, argmax, add.
#pragma once

#include "argmax.cuh"
#include "cluster.cuh"
#include "linear_swiglu.cuh"
#include "tma.cuh"
#include "wgmma.cuh"

namespace ern::cuda {

struct WideTiling {
  int stages = 3;
  int cluster = 1;
  int residents = 2;
  int columns = 64;  // most rows of x: 16, 32 or 64
};

constexpr int wide_rows = 64;      // of the weight
constexpr int wide_k = 2 * tile_k;  // of a stage
constexpr int wide_threads = warpgroup_size + warp_size;
constexpr int wide_pitch = wide_rows + 4;  // whole groups of 4, and what a warp writes at a time lies in 32 banks
constexpr int wide_box_bytes(int rows) { return rows * tile_k * 2; }
constexpr int wide_stage_bytes(WideTiling tiling) { return 2 * (wide_box_bytes(wide_rows) + wide_box_bytes(tiling.columns)); }
constexpr int wide_shared_bytes(WideTiling tiling) { return 1024 + tiling.stages * (wide_stage_bytes(tiling) + 16); }
constexpr int wide_head_shared_bytes(WideTiling tiling) { return wide_shared_bytes(tiling) + tiling.columns * wide_pitch * 4; }

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

template <int k, WideTiling tiling, bool sums_behind>
struct WideProduct {
  static constexpr int stages = tiling.stages, columns = tiling.columns;
  static constexpr int share = static_cast<int>(ceil_div(ceil_div(k, wide_k), tiling.cluster));  // stages of a tile, for each block of a cluster
  static constexpr int stage_bytes = wide_stage_bytes(tiling), weight_box = wide_box_bytes(wide_rows), x_box = wide_box_bytes(columns);
  static_assert(columns == 16 || columns == 32 || columns == 64);
  static_assert(columns * wide_pitch * 4 <= stages * stage_bytes);

  uint8_t* ring;
  float* sums;
  Barrier* full;
  Barrier* empty;
  int steps;  // of this block in a tile
  int first;  // of its k

  // Every thread calls it.
  ERN_DEVICE WideProduct(uint8_t* memory, const TensorMap* x_map, const TensorMap* weight_map) {
    ring = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(memory) + 1023) / 1024 * 1024);
    full = reinterpret_cast<Barrier*>(ring + stages * stage_bytes);
    empty = full + stages;
    sums = reinterpret_cast<float*>(sums_behind ? reinterpret_cast<uint8_t*>(empty + stages) : ring);
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

  ERN_DEVICE void copy_weight(const TensorMap* map, int step, int row, int stage) const {
#pragma unroll
    for (int half = 0; half < 2; ++half)
      copy_tile(ring + stage * stage_bytes + half * weight_box, map, first + step * wide_k + half * tile_k, row, full[stage]);
  }
  ERN_DEVICE void copy_x(const TensorMap* map, int step, int stage) const {
#pragma unroll
    for (int half = 0; half < 2; ++half)
      copy_tile(ring + stage * stage_bytes + 2 * weight_box + half * x_box, map, first + step * wide_k + half * tile_k, 0, full[stage]);
  }

  // One thread calls it: fills the ring for tiles tile(0 .. count - 1) of the weight.
  template <class Tile>
  ERN_DEVICE void fill(const TensorMap* x_map, const TensorMap* weight_map, int count, const Tile& tile) const {
    const int total = count * steps, early = total < stages ? total : stages;
    for (int i = 0; i < early; ++i) {
      full[i].arrive_expecting(stage_bytes);
      copy_weight(weight_map, i % steps, tile(i / steps) * wide_rows, i);
    }
    wait_for_inputs();
    for (int i = 0; i < early; ++i) copy_x(x_map, i % steps, i);
    Ring<stages> at;
    at.skip(early);
    for (int i = early; i < total; ++i, at.next()) {
      empty[at.stage].wait(at.parity ^ 1);
      full[at.stage].arrive_expecting(stage_bytes);
      copy_weight(weight_map, i % steps, tile(i / steps) * wide_rows, at.stage);
      copy_x(x_map, i % steps, at.stage);
    }
  }

  static ERN_DEVICE void sync_warpgroup() { asm volatile("bar.sync 1, %0;" ::"n"(warpgroup_size) : "memory"); }

  // The warpgroup calls it for each tile: afterwards sums[column][row] is what this block's k give.
  ERN_DEVICE void multiply(Ring<stages>& at) const {
    float d[columns / 2];
    int previous = -1;
    for (int step = 0; step < steps; ++step, at.next()) {
      full[at.stage].wait(at.parity);
      wgmma_fence();
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint64_t w = wgmma_operand(ring + at.stage * stage_bytes + half * weight_box);
        const uint64_t x = wgmma_operand(ring + at.stage * stage_bytes + 2 * weight_box + half * x_box);
#pragma unroll
        for (int i = 0; i < tile_k / wgmma_k; ++i) Wgmma<columns>::multiply(d, w + i * wgmma_next_k, x + i * wgmma_next_k, step > 0 || half > 0 || i > 0);
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
    sync_warpgroup();  // the sums of before, or the stages that lie in their place, are read
#pragma unroll
    for (int i = 0; i < columns / 2; ++i)
      sums[(i / 4 * 8 + 2 * (lane_id() % 4) + i % 2) * wide_pitch + row + i / 2 % 2 * 8] = steps > 0 ? d[i] : 0.0f;
    sync_warpgroup();
  }

  // What each block of the cluster has for rows row .. row + each - 1 of a column.
  template <int each>
  ERN_DEVICE void load_sums(float (&to)[tiling.cluster][each], int row, int column) const {
    static_assert(each == 1 || each == 4);
    const float* const at = sums + column * wide_pitch + row;
#pragma unroll
    for (int rank = 0; rank < tiling.cluster; ++rank) {
      if constexpr (tiling.cluster == 1) {
#pragma unroll
        for (int i = 0; i < each; ++i) to[rank][i] = at[i];
      } else {
        const uint32_t there = address_in_rank(at, rank);
        if constexpr (each == 4) {
          asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                       : "=f"(to[rank][0]), "=f"(to[rank][1]), "=f"(to[rank][2]), "=f"(to[rank][3])
                       : "r"(there)
                       : "memory");
        } else {
          asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(to[rank][0]) : "r"(there) : "memory");
        }
      }
    }
  }
};

template <WideLinear problem, class Y>
ERN_DEVICE void wide_linear(const Step* step, const TensorMap* x_map, const TensorMap* weight_map, const float* bias, const float* residual, Y* y) {
  constexpr WideTiling tiling = problem.tiling;
  constexpr int n = problem.n, group = problem.group, out_n = problem.swiglu ? n / 2 : n, outputs = problem.swiglu ? wide_rows / 2 : wide_rows;
  constexpr int cluster = tiling.cluster, share = static_cast<int>(ceil_div(outputs, 4 * cluster)) * 4;
  static_assert(problem.k % 8 == 0);
  static_assert(!problem.swiglu || (wide_rows % (2 * group) == 0 && n % (2 * group) == 0 && !problem.residual));
  // A thread finishes `each` neighbouring outputs at a time, all of whose loads are under way together.
  constexpr int each = out_n % 4 == 0 ? 4 : 1, pieces = share / each;
  constexpr int turns = static_cast<int>(ceil_div(pieces * tiling.columns, warpgroup_size)), parts = problem.swiglu ? 2 : 1;
  extern __shared__ uint8_t dynamic[];
  if constexpr (!problem.late) start_dependents();
  const WideProduct<problem.k, tiling, false> product(dynamic, x_map, weight_map);
  const int tile = static_cast<int>(blockIdx.x) / cluster, rank = static_cast<int>(blockIdx.x) % cluster;
  const int rows = rows_of(step, problem.rows);
  const auto token_of = [&](int turn) { return (turn * warpgroup_size + static_cast<int>(threadIdx.x)) / pieces; };
  const auto output_of = [&](int turn) { return rank * share + (turn * warpgroup_size + static_cast<int>(threadIdx.x)) % pieces * each; };
  const auto there = [&](int turn) { return token_of(turn) < rows && output_of(turn) < outputs && tile * outputs + output_of(turn) < out_n; };
  const auto place = [&](int turn) { return static_cast<int64_t>(token_of(turn)) * out_n + tile * outputs + output_of(turn); };
  const bool multiplies = warp_id() < warpgroup_size / warp_size;
  float added[problem.residual ? turns : 1][each];
  if (!multiplies) {
    if (lane_id() == 0) product.fill(x_map, weight_map, 1, [&](int) { return tile; });
    __syncwarp();
  } else {
    wait_for_inputs();
    if constexpr (problem.late) start_dependents();
    if constexpr (problem.residual) {  // it comes while the product is made
#pragma unroll
      for (int turn = 0; turn < turns; ++turn) {
#pragma unroll
        for (int i = 0; i < each; ++i) added[turn][i] = 0;
        if (!there(turn)) continue;
        if constexpr (each == 4) {
          const float4 v = load_fresh4(residual + place(turn));
          added[turn][0] = v.x, added[turn][1] = v.y, added[turn][2] = v.z, added[turn][3] = v.w;
        } else {
          added[turn][0] = __ldcg(residual + place(turn));
        }
      }
    }
    Ring<tiling.stages> at;
    product.multiply(at);
  }
  cluster_barrier<cluster>();
  if (multiplies) {
    float sums[turns][parts][cluster][each];
#pragma unroll
    for (int turn = 0; turn < turns; ++turn) {
      if (!there(turn)) continue;
      const int output = output_of(turn);
      if constexpr (problem.swiglu) {
        const int gate = output / group * 2 * group + output % group;
        product.template load_sums<each>(sums[turn][0], gate, token_of(turn));
        product.template load_sums<each>(sums[turn][1], gate + group, token_of(turn));
      } else {
        product.template load_sums<each>(sums[turn][0], output, token_of(turn));
      }
    }
#pragma unroll
    for (int turn = 0; turn < turns; ++turn) {
      if (!there(turn)) continue;
      const int output = output_of(turn);
      float values[each];
#pragma unroll
      for (int i = 0; i < each; ++i) {
        float totals[parts];  // over the blocks of the cluster, in order
#pragma unroll
        for (int part = 0; part < parts; ++part) {
          totals[part] = sums[turn][part][0][i];
#pragma unroll
          for (int other = 1; other < cluster; ++other) totals[part] += sums[turn][part][other][i];
        }
        if constexpr (problem.swiglu) {
          const int gate = (output + i) / group * 2 * group + (output + i) % group;
          if constexpr (problem.bias) totals[0] += bias[tile * wide_rows + gate], totals[1] += bias[tile * wide_rows + gate + group];
          values[i] = silu(totals[0]) * totals[1];
        } else {
          values[i] = totals[0];
          if constexpr (problem.bias) values[i] += bias[tile * wide_rows + output + i];
          if constexpr (problem.residual) values[i] += added[turn][i];
        }
      }
      Y* const to = y + place(turn);
      if constexpr (each == 1) *to = round_to<Y>(values[0]);
      else if constexpr (sizeof(Y) == 2) *reinterpret_cast<uint2*>(to) = {pack_bf16(values[0], values[1]), pack_bf16(values[2], values[3])};
      else *reinterpret_cast<float4*>(to) = {values[0], values[1], values[2], values[3]};
    }
  }
  if (cluster > 1) cluster_sync();  // nobody leaves while others read its sums
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
  constexpr int n = problem.n, tiles = static_cast<int>(ceil_div(n, wide_rows)), kept = wide_rows * tiling.columns / warpgroup_size;
  static_assert(tiling.cluster == 1 && warpgroup_size % wide_rows == 0);
  extern __shared__ uint8_t dynamic[];
  start_dependents();
  const WideProduct<problem.k, tiling, true> product(dynamic, x_map, weight_map);
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
        float value = product.sums[token * wide_pitch + row];
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
