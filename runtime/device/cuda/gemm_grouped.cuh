// Products of rows in groups with a weight for each: the experts of a mixture in prefill. y[r] = x[r] . W_g^T for the rows r of group g, or silu(gate) * up of
// it. Tensor maps, wgmma, sm_90a only.
//
//   offsets   int32 [groups + 1]    in device memory: where each group's rows begin in x and y
//   x         bf16 [rows, k]        by tensor map: boxes of 64 k x grouped_box rows, 128-byte swizzle
//   weight    bf16 [groups, n, k]   by tensor map, 128-byte swizzle: boxes of 64 k x tiling.columns rows of [groups * n, k]; with swiglu, whose rows of gate
//                                   and up alternate in groups of problem.group, of [groups * n / (2 group), group / 8, gate or up, 8 rows, k], boxes of
//                                   [tiling.columns / (2 group), all, both, 8, 64]: then 8 rows of gate lie above the 8 of up that they meet
//   y         bf16 [rows, n], or [rows, n / 2] with swiglu, rounded to nearest even
//
// Launch: gemm_threads threads, as many blocks as fit the device (one a multiprocessor) in clusters of tiling.cluster, grouped_shared_bytes(tiling) of
// dynamic shared memory. Each cluster takes tiles of y in turn; its blocks have the same rows and columns next to one another, and each fetches a part of the
// rows for all of them.
//
// The weight is wgmma's first operand, 64 rows of it a warpgroup, and the rows of x are its second, of which there may be any multiple of 8 up to 256: no
// group has a tile that is nearly empty, and up to 256 rows of a group read its weight once. More are cut into tiles of equal size. A tile's results lie in
// registers column by column; they change places in shared memory, where each warpgroup has grouped_staging bytes.
//
// Roles: as in gemm.cuh; the warpgroups share a tile, each with half of its columns.
// Sums run over k in order, 16 at a time within the tensor core, in f32, from 0. k % 8 == 0 and n % 8 == 0 (n % 16 with swiglu).
#pragma once

#include "gemm.cuh"

namespace ern::cuda {

struct GroupedTiling {
  int columns = 128;  // of a tile, rows of W: 128 or 256
  int rows = 256;     // most of x in a tile: a multiple of 16 up to 256, with 256 columns up to 176, for which registers suffice
  int stages = 4;
  int cluster = 2;  // blocks that share the rows of x: 1 or 2
};

constexpr int grouped_box = 16;        // rows of x that one copy brings
constexpr int grouped_staging = 8192;  // bytes of results that change places at once

struct Grouped {
  int groups;
  int n;
  int k;
  bool swiglu = false;
  int group = 32;
  GroupedTiling tiling = {};
};

constexpr int grouped_shared_bytes(GroupedTiling tiling) {
  return 1024 + tiling.stages * ((tiling.columns + tiling.rows) * tile_k * 2 + 16) + gemm_consumers * grouped_staging;
}

constexpr int most_gemm_groups = 256;

// silu to within some units in the last place, which rounding to bf16 hides: an exact quotient takes longer than all else that is done to a result.
ERN_DEVICE float silu_quickly(float x) {
  float power, inverse;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x * -1.4426950408889634f));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(1.0f + power));
  return x * inverse;
}

struct GroupedTile {
  int row;     // first of x and y
  int rows;    // of the group's
  int column;  // first row of the group's W
  int group;
};

// Groups in order, in each the rows fastest: tiles that read the same weight are at work together.
template <Grouped problem>
struct GroupedTiles {
  static constexpr int groups = problem.groups, cluster = problem.tiling.cluster, columns = problem.tiling.columns;
  static constexpr int column_tiles = static_cast<int>(ceil_div(problem.n, columns * cluster));
  static_assert(groups <= most_gemm_groups);
  struct Shared {
    int32_t offset[groups + 1];
    int32_t first_tile[groups + 1];
  };
  const Shared& shared;
  int count;
  int group = 0;

  static ERN_DEVICE int row_tiles(int rows) { return static_cast<int>(ceil_div(rows, problem.tiling.rows)); }

  // Every thread of the block calls it; ends with a barrier.
  static ERN_DEVICE void set(Shared& shared, const int32_t* offsets) {
    for (int i = static_cast<int>(threadIdx.x); i <= groups; i += gemm_threads) shared.offset[i] = __ldcg(offsets + i);
    __syncthreads();
    if (threadIdx.x < warp_size) {
      constexpr int own = static_cast<int>(ceil_div(groups, warp_size));  // groups of a lane
      const int lane = lane_id();
      const auto tiles_of = [&](int group) { return group < groups ? row_tiles(shared.offset[group + 1] - shared.offset[group]) * column_tiles : 0; };
      int tiles = 0;
#pragma unroll
      for (int i = 0; i < own; ++i) tiles += tiles_of(lane * own + i);
      const int end = warp_sum_until(tiles);
      int first = end - tiles;
#pragma unroll
      for (int i = 0; i < own; ++i) {
        const int group = lane * own + i;
        if (group < groups) shared.first_tile[group] = first;
        first += tiles_of(group);
      }
      if (lane == warp_size - 1) shared.first_tile[groups] = end;
    }
    __syncthreads();
  }
  ERN_DEVICE explicit GroupedTiles(const Shared& shared) : shared(shared), count(shared.first_tile[groups]) {}
  // Tiles are asked for in ascending order.
  ERN_DEVICE GroupedTile at(int tile) {
    while (tile >= shared.first_tile[group + 1]) ++group;
    const int begin = shared.offset[group], rows = shared.offset[group + 1] - begin, tiles = row_tiles(rows);
    const int within = tile - shared.first_tile[group], rank = cluster > 1 ? cluster_rank() : 0;
    const int most = static_cast<int>(ceil_div(ceil_div(rows, tiles), 16)) * 16, first = within % tiles * most;
    return {begin + first, min(most, rows - first), (within / tiles * cluster + rank) * columns, group};
  }
};

// 8x8 matrices of bf16 into shared memory, transposed: lane 8 i + r names where row r of matrix i of the result goes.
ERN_DEVICE void store_transposed(uint32_t at, const uint32_t (&words)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
               : "memory");
}
ERN_DEVICE void store_transposed(uint32_t at, const uint32_t (&words)[2]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(at), "r"(words[0]), "r"(words[1]) : "memory");
}

// What becomes of the sums of one warpgroup: 64 rows of W, from weight_row of the group on, by `width` rows of x.
template <Grouped problem>
struct GroupedStore {
  static constexpr int out_n = problem.swiglu ? problem.n / 2 : problem.n;
  static constexpr int chunks = problem.swiglu ? 4 : 8;  // of 8 columns of y that the warpgroup has
  static constexpr int warp_chunks = chunks / 4;
  static constexpr int batch = grouped_staging / (16 * chunks);  // rows at once
  static constexpr bool whole = problem.n % (problem.tiling.columns * problem.tiling.cluster) == 0;  // tiles of y lie within it

  uint32_t staging;
  Bf16* y;

  // Chunks of a row are swapped so that neither side meets a bank twice.
  static ERN_DEVICE uint32_t place(int row, int chunk) { return (row * chunks + (chunk ^ (row / (8 / chunks)) % chunks)) * 16; }

  template <int width>
  ERN_DEVICE void operator()(const float (&d)[width / 2], const GroupedTile& tile, int consumer, int weight_row) const {
    store_from<width, 0>(d, tile, consumer, problem.swiglu ? weight_row / 2 : weight_row);
    // The next tile's results must not meet what others still read.
    barrier_sync(1 + consumer, warpgroup_size);
  }

  // Rows of x from `first` on, as many at once as have room.
  template <int width, int first>
  ERN_DEVICE void store_from(const float (&d)[width / 2], const GroupedTile& tile, int consumer, int first_column) const {
    constexpr int pieces = (width - first < batch ? width - first : batch) / 8;
    constexpr int step = 4 / warp_chunks;  // pieces of 8 rows that one store of four matrices takes
    const int thread = static_cast<int>(threadIdx.x) % warpgroup_size, lane = lane_id(), warp = thread / warp_size, matrix = lane / 8;
    if constexpr (first > 0) barrier_sync(1 + consumer, warpgroup_size);
#pragma unroll
    for (int piece = 0; piece < pieces; piece += step) {
      const int sums = 4 * (first / 8 + piece);
      const auto value = [&](int i) -> uint32_t {
        const int at = sums + i / warp_chunks * 4;
        if constexpr (problem.swiglu) return pack_bf16(silu_quickly(d[at]) * d[at + 2], silu_quickly(d[at + 1]) * d[at + 3]);
        else return i % 2 == 0 ? pack_bf16(d[at], d[at + 1]) : pack_bf16(d[at + 2], d[at + 3]);
      };
      if (piece + step <= pieces) {
        const uint32_t words[4] = {value(0), value(1), value(2), value(3)};
        store_transposed(staging + place(8 * (piece + matrix / warp_chunks) + lane % 8, warp * warp_chunks + matrix % warp_chunks), words);
      } else {  // of swiglu
        const uint32_t words[2] = {value(0), value(1)};
        store_transposed(staging + place(8 * (piece + matrix % 2) + lane % 8, warp), words);
      }
    }
    barrier_sync(1 + consumer, warpgroup_size);
#pragma unroll
    for (int i = 0; i < pieces * 8 * chunks; i += warpgroup_size) {
      const int row = (i + thread) / chunks, chunk = thread % chunks, column = first_column + 8 * chunk;
      if (first + row < tile.rows && (whole || column < out_n)) {
        uint4 v;
        asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(staging + place(row, chunk)) : "memory");
        *reinterpret_cast<uint4*>(y + static_cast<int64_t>(tile.row + first + row) * out_n + column) = v;
      }
    }
    if constexpr (first + batch < width) store_from<width, first + batch>(d, tile, consumer, first_column);
  }
};

// Calls `run` with the least width up to `most` that wgmma.cuh has for so many rows.
template <int most, int width = 32, class Run>
ERN_DEVICE void with_width(int rows, const Run& run) {
  if constexpr (width < most) {
    if (rows > width) return with_width<most, width + (width < 128 ? 32 : 16)>(rows, run);
  }
  run.template operator()<width>();
}

template <Grouped problem>
ERN_DEVICE void gemm_grouped(const int32_t* offsets, const TensorMap* x_map, const TensorMap* weight_map, Bf16* y) {
  constexpr GroupedTiling tiling = problem.tiling;
  constexpr int stages = tiling.stages, cluster = tiling.cluster;
  constexpr int weight_bytes = tiling.columns * tile_k * 2, x_bytes = tiling.rows * tile_k * 2, box_bytes = grouped_box * tile_k * 2;
  constexpr int k_tiles = static_cast<int>(ceil_div(problem.k, tile_k));
  constexpr int halves = tiling.columns / (64 * gemm_consumers);  // of a warpgroup's columns, 64 each
  static_assert((tiling.columns == 128 && tiling.rows <= 256) || (tiling.columns == 256 && tiling.rows <= 176));
  static_assert(problem.k % 8 == 0 && problem.n % (problem.swiglu ? 16 : 8) == 0 && (cluster == 1 || cluster == 2));
  static_assert(!problem.swiglu || (problem.group % 8 == 0 && 64 % (2 * problem.group) == 0));
  using Tiles = GroupedTiles<problem>;
  __shared__ typename Tiles::Shared shared;

  extern __shared__ uint8_t dynamic[];
  uint8_t* const base = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(dynamic) + 1023) / 1024 * 1024);
  uint8_t* const weight_tiles = base;
  uint8_t* const x_tiles = weight_tiles + stages * weight_bytes;
  uint8_t* const staging = x_tiles + stages * x_bytes;
  Barrier* const full = reinterpret_cast<Barrier*>(staging + gemm_consumers * grouped_staging);
  Barrier* const empty = full + stages;

  const int warpgroup = static_cast<int>(threadIdx.x) / warpgroup_size;
  const int rank = cluster > 1 ? cluster_rank() : 0;
  if (threadIdx.x == 0) {
    prefetch_map(x_map);
    prefetch_map(weight_map);
    // A stage is free when the consumers of every block that it is filled for have arrived.
    for (int i = 0; i < stages; ++i) full[i].init(1), empty[i].init(gemm_consumers * cluster);
    fence_barriers();
  }
  if (cluster > 1) cluster_sync();
  else __syncthreads();
  start_dependents();
  wait_for_inputs();
  Tiles::set(shared, offsets);
  Tiles tiles(shared);
  const int clusters = static_cast<int>(gridDim.x) / cluster, first_tile = static_cast<int>(blockIdx.x) / cluster;

  if (warpgroup == 0) {
    registers_for_copying<40>();
    if (threadIdx.x == 0) {
      Ring<stages> ring;
      for (int number = first_tile; number < tiles.count; number += clusters) {
        const GroupedTile tile = tiles.at(number);
        const int boxes = static_cast<int>(ceil_div(tile.rows, grouped_box)), bytes = weight_bytes + boxes * box_bytes;
        const int weight_row = tile.group * problem.n + tile.column;
#pragma unroll 1
        for (int k = 0; k < k_tiles; ++k, ring.next()) {
          Barrier& filled = full[ring.stage];
          uint8_t* const weight_tile = weight_tiles + ring.stage * weight_bytes;
          uint8_t* const x_tile = x_tiles + ring.stage * x_bytes;
          empty[ring.stage].wait(ring.parity ^ 1);
          filled.arrive_expecting(bytes);
          if constexpr (problem.swiglu) copy_tile(weight_tile, weight_map, k * tile_k, 0, 0, 0, weight_row / (2 * problem.group), filled);
          else copy_tile(weight_tile, weight_map, k * tile_k, weight_row, filled);
          for (int box = rank; box < boxes; box += cluster) {
            if constexpr (cluster > 1) copy_tile_to((1 << cluster) - 1, x_tile + box * box_bytes, x_map, k * tile_k, tile.row + box * grouped_box, filled);
            else copy_tile(x_tile + box * box_bytes, x_map, k * tile_k, tile.row + box * grouped_box, filled);
          }
        }
      }
    }
  } else {
    registers_for_products<232>();
    const int consumer = warpgroup - 1, thread = static_cast<int>(threadIdx.x) % warpgroup_size;
    const auto release = [&](int stage) {
      if (cluster == 1 && thread == 0) empty[stage].arrive();
      if (cluster > 1 && thread < cluster) empty[stage].arrive_at(thread);
    };
    const GroupedStore<problem> store{shared_address(staging) + consumer * grouped_staging, y};
    Ring<stages> ring;
    for (int number = first_tile; number < tiles.count; number += clusters) {
      const GroupedTile tile = tiles.at(number);
      with_width<tiling.rows>(tile.rows, [&]<int width>() {
        // Set to zero, though the first product could overwrite them: otherwise the sums of all widths would hold registers from tile to tile.
        float sums[halves][width / 2] = {};
        int previous = -1;  // stage whose products may still run
#pragma unroll 1
        for (int k = 0; k < k_tiles; ++k, ring.next()) {
          full[ring.stage].wait(ring.parity);
          const uint64_t x = wgmma_operand(x_tiles + ring.stage * x_bytes);
          wgmma_fence();
#pragma unroll
          for (int half = 0; half < halves; ++half) {
            const uint64_t w = wgmma_operand(weight_tiles + ring.stage * weight_bytes + (consumer * halves + half) * 64 * tile_k * 2);
#pragma unroll
            for (int i = 0; i < tile_k / wgmma_k; ++i) Wgmma<width>::multiply(sums[half], w + i * wgmma_next_k, x + i * wgmma_next_k, true);
          }
          wgmma_commit();
          wgmma_wait<1>();
          if (previous >= 0) release(previous);
          previous = ring.stage;
        }
        wgmma_wait<0>();
        release(previous);
#pragma unroll
        for (int half = 0; half < halves; ++half) {
          wgmma_hold(sums[half]);
          store.template operator()<width>(sums[half], tile, consumer, tile.column + (consumer * halves + half) * 64);
        }
      });
    }
  }
  // A block stays while others of its cluster may write into it or arrive at its barriers.
  if (cluster > 1) cluster_sync();
}

}  // namespace ern::cuda
