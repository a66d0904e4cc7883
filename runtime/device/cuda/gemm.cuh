// linear and linear_swiglu for many rows: y = x . W^T (+ bias) (+ residual), or silu(gate) * up of it; and qkv_rope_append, whose sums are rotated, rounded
// and put where they belong while they are in registers. Tensor maps, wgmma, sm_90a only.
//
//   x         bf16 [rows, k]     by tensor map: boxes of 64 k x tiling.rows rows, 128-byte swizzle
//   weight    bf16 [n, k]        by tensor map: boxes of 64 k x tiling.columns / tiling.cluster rows, 128-byte swizzle. With swiglu the rows of gate and up
//                                alternate in groups of problem.group
//   bias      float [n]          if problem.bias, else not read
//   residual  float [rows, n]    if problem.residual, else not read; may be y
//   y         Y [rows, n], or [rows, n / 2] with swiglu; float, or Bf16 rounded to nearest even
//
// qkv_rope_append (gemm_rope): n = (heads + 2 kv_heads) * head_dim, head_dim a multiple of 32; no residual
//   turns     float [rows, head_dim]   cosine and sine of each pair's angle (rope_turns in rope.cuh)
//   slots     int32 [rows]             as in rope.cuh, and so is kv; q is y: Bf16 [rows, heads * head_dim]
//
// Launch: gemm_threads threads, as many blocks as fit the device (one a multiprocessor) in clusters of tiling.cluster, gemm_shared_bytes(tiling) of dynamic
// shared memory. Each cluster takes tiles of y in turn, rows fastest, so that blocks at work share weights in L2. The blocks of a cluster take tiles of
// the same columns: each fetches its part of W for all of them, since without that L2 could not feed the tensor cores.
//
// Roles: one thread of the first warpgroup fills a ring of stages, each a tile of x and a tile of W of 64 k; two warpgroups multiply. They either share a
// tile, each with half of its rows, or take tiles in turn, so that one stores while the other multiplies (`turns`).
// With turns, one warpgroup starts on its tile when the other has seen all of its own: that keeps the tensor cores busy, and nobody falls behind a stage by
// two phases, which a barrier's parity could not tell from none.
// Shared memory: [stages] x tiles, [stages] W tiles, each a multiple of 1024 bytes; then the barriers.
//
// Sums run over k in order, 16 at a time within the tensor core, in f32, from 0; then + bias, + residual. k % 8 == 0 and n % 8 == 0 (n % 16 with swiglu).
#pragma once

#include "rope.cuh"
#include "tma.cuh"
#include "wgmma.cuh"

namespace ern::cuda {

struct GemmTiling {
  int rows = 128;     // of x in a tile; a multiple of 64, of 128 unless `turns`
  int columns = 256;  // of W's rows in a tile: 64, 96, 128, ... 256
  int stages = 4;
  bool turns = false;
  int cluster = 1;    // blocks that share the tile of W: 1 or 2
};

constexpr int gemm_consumers = 2;  // warpgroups that multiply
constexpr int gemm_threads = (1 + gemm_consumers) * warpgroup_size;

constexpr int gemm_stage_bytes(GemmTiling tiling) { return (tiling.rows + tiling.columns) * tile_k * 2; }
// With the slack that aligning to 1024 needs, two barriers a stage and one a consumer.
constexpr int gemm_shared_bytes(GemmTiling tiling) { return 1024 + tiling.stages * (gemm_stage_bytes(tiling) + 16) + gemm_consumers * 8; }

struct Gemm {
  int n;
  int k;
  bool bias = false;
  bool residual = false;
  bool swiglu = false;
  int group = 32;
  int heads = 0;       // of queries, where results are rotated
  KvAppend cache = {};
  Rows rows = Rows::tokens;
  GemmTiling tiling = {};
};

template <int count>
ERN_DEVICE void registers_for_copying() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count)); }
template <int count>
ERN_DEVICE void registers_for_products() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count)); }

// *at += x, by L2; 8-byte aligned.
ERN_DEVICE void add_to(float* at, float2 x) { asm volatile("red.relaxed.gpu.global.add.v2.f32 [%0], {%1, %2};" ::"l"(at), "f"(x.x), "f"(x.y) : "memory"); }

// What becomes of the sums of 64 rows that one warpgroup holds.
template <Gemm problem, class Y>
struct GemmStore {
  static constexpr int columns = problem.tiling.columns, sums = columns / 2;
  static constexpr int out_columns = problem.swiglu ? columns / 2 : columns, out_n = problem.swiglu ? problem.n / 2 : problem.n;
  static constexpr bool whole = problem.n % columns == 0;  // tiles of y lie within it

  struct Ahead {};  // nothing is fetched before the last products end

  const float* bias;
  const float* residual;
  Y* y;

  ERN_DEVICE void fetch(Ahead&, int64_t, int64_t, int) const {}

  // Two neighbouring values of y: `piece` of the tile's pieces of 8 columns, `lower` for the 8 rows below.
  ERN_DEVICE float2 pair(const float (&d)[sums], int piece, int lower, int first_column, int quad) const {
    if constexpr (problem.swiglu) {
      constexpr int run = problem.group / 8;
      const int gate = piece / run * 2 * run + piece % run, up = gate + run;
      float2 g = {d[4 * gate + 2 * lower], d[4 * gate + 2 * lower + 1]}, u = {d[4 * up + 2 * lower], d[4 * up + 2 * lower + 1]};
      if constexpr (problem.bias) {
        const float2 gate_bias = bias2(first_column + 8 * gate + 2 * quad), up_bias = bias2(first_column + 8 * up + 2 * quad);
        g.x += gate_bias.x, g.y += gate_bias.y, u.x += up_bias.x, u.y += up_bias.y;
      }
      return {silu(g.x) * u.x, silu(g.y) * u.y};
    } else {
      float2 v = {d[4 * piece + 2 * lower], d[4 * piece + 2 * lower + 1]};
      if constexpr (problem.bias) {
        const float2 b = bias2(first_column + 8 * piece + 2 * quad);
        v.x += b.x, v.y += b.y;
      }
      return v;
    }
  }
  ERN_DEVICE float2 bias2(int column) const { return whole || column < problem.n ? *reinterpret_cast<const float2*>(bias + column) : float2{0, 0}; }

  // Into L2, while the products run. first_row: of the 64 in y. rows: of y that exist. first_column: of the tile in W.
  ERN_DEVICE void prefetch(int64_t first_row, int64_t rows, int first_column) const {
    constexpr int line = 128 / sizeof(float), lines = static_cast<int>(ceil_div(columns, line));  // of a row
    for (int i = static_cast<int>(threadIdx.x) % warpgroup_size; i < 64 * lines; i += warpgroup_size) {
      const int64_t row = first_row + i / lines;
      const int column = first_column + i % lines * line;
      if (row < rows && (whole || column < out_n)) asm volatile("prefetch.global.L2 [%0];" ::"l"(residual + row * out_n + column));
    }
  }

  // half: which 64 of the rows that the warpgroup has from first_row on.
  ERN_DEVICE void operator()(const float (&d)[sums], const Ahead&, int half, int64_t first_row, int64_t rows, int first_column) const {
    const int lane = lane_id(), quad = lane % 4, warp = warp_id() % 4;
    const int out_first = problem.swiglu ? first_column / 2 : first_column;
#pragma unroll
    for (int lower = 0; lower < 2; ++lower) {
      const int64_t row = first_row + 64 * half + 16 * warp + lane / 4 + 8 * lower;
      if constexpr (sizeof(Y) == 2) {
        static_assert(out_columns % 32 == 0);
        // 16 bytes a lane: four pieces change hands within the quad.
#pragma unroll
        for (int piece = 0; piece < out_columns / 8; piece += 4) {
          uint32_t words[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float2 v = pair(d, piece + i, lower, first_column, quad);
            words[i] = pack_bf16(v.x, v.y);
          }
          transpose_quad(words, quad);
          const int column = out_first + 8 * (piece + quad);
          if (row < rows && (whole || column < out_n)) *reinterpret_cast<uint4*>(y + row * out_n + column) = {words[0], words[1], words[2], words[3]};
        }
      } else if constexpr (problem.residual) {
        // Where it is y, L2 adds: nothing is loaded, and nobody waits.
        if (residual == y) {
#pragma unroll
          for (int piece = 0; piece < out_columns / 8; ++piece) {
            const int column = out_first + 8 * piece + 2 * quad;
            const float2 v = pair(d, piece, lower, first_column, quad);
            if (row < rows && (whole || column < out_n)) add_to(y + row * out_n + column, v);
          }
          continue;
        }
        // The loads of the next pieces are under way before those at hand are stored, which the compiler could not know to be right.
        constexpr int pieces = out_columns / 8, batch = pieces % 8 == 0 ? 8 : pieces % 5 == 0 ? 5 : 4;
        const float* const from = residual + row * out_n;
        float2 more[2][batch];
        const auto load = [&](int first) {
#pragma unroll
          for (int i = 0; i < batch; ++i) {
            const int column = out_first + 8 * (first + i) + 2 * quad;
            more[first / batch % 2][i] = row < rows && (whole || column < out_n) ? __ldcg(reinterpret_cast<const float2*>(from + column)) : float2{0, 0};
          }
        };
        load(0);
#pragma unroll
        for (int first = 0; first < pieces; first += batch) {
          if (first + batch < pieces) load(first + batch);
#pragma unroll
          for (int i = 0; i < batch; ++i) {
            const int column = out_first + 8 * (first + i) + 2 * quad;
            const float2 v = pair(d, first + i, lower, first_column, quad), r = more[first / batch % 2][i];
            if (row < rows && (whole || column < out_n)) *reinterpret_cast<float2*>(y + row * out_n + column) = {v.x + r.x, v.y + r.y};
          }
        }
      } else {
#pragma unroll
        for (int piece = 0; piece < out_columns / 8; ++piece) {
          const int column = out_first + 8 * piece + 2 * quad;
          if (row < rows && (whole || column < out_n)) *reinterpret_cast<float2*>(y + row * out_n + column) = pair(d, piece, lower, first_column, quad);
        }
      }
    }
  }
};

// The same where they are queries, keys and values: the first two rotated, the last two put into the cache.
template <Gemm problem>
struct RopeStore {
  static constexpr int columns = problem.tiling.columns, sums = columns / 2, head_dim = problem.cache.head_dim;
  static constexpr int queries = problem.heads * head_dim, turned = queries + problem.cache.kv_heads * head_dim;  // columns up to here
  static constexpr int halves = problem.tiling.rows / 64 / (problem.tiling.turns ? 1 : gemm_consumers);
  static constexpr int pieces = columns / 8, all = 2 * halves * pieces;  // of 8 columns: of a row; of those that a thread has
  // Pieces with turns of their own in a row: those of the next head are the same. Where registers are left for all of them each is fetched once a row,
  // else runs are fetched some pieces before their time.
  static constexpr int own = (columns < head_dim ? columns : head_dim) / 8;
  static constexpr bool shared = halves * sums + 2 * own <= 160;
  static constexpr int window = shared ? own : 8;
  static constexpr bool whole = problem.n % columns == 0;
  static_assert(problem.n == turned + problem.cache.kv_heads * head_dim && head_dim % 32 == 0 && columns % 32 == 0);

  struct Ahead {
    float2 turns[window];
  };

  const float* bias;
  const float* turns;
  const int32_t* slots;
  Bf16* q;
  Bf16* kv;

  ERN_DEVICE void prefetch(int64_t, int64_t, int) const {}

  // Pieces are numbered through the thread's rows. first_row: of this warpgroup's.
  static ERN_DEVICE int64_t row_of(int number, int64_t first_row) {
    return first_row + 64 * (number / (2 * pieces)) + 8 * (number / pieces % 2) + 16 * (warp_id() % 4) + lane_id() / 4;
  }
  // Where the turns of a piece are kept.
  static constexpr int place(int number) { return (shared ? number % pieces : number) % window; }
  ERN_DEVICE void fetch_run(Ahead& ahead, int number, int64_t first_row, int64_t rows, int first_column) const {
    const int column = first_column + 8 * (number % pieces);
    const int64_t row = row_of(number, first_row);
    if (number >= all || row >= rows || column >= turned) return;
    const float* const from = turns + row * head_dim + column % head_dim + 4 * (lane_id() % 4);
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      const float4 two = __ldcg(reinterpret_cast<const float4*>(from + 8 * i));
      ahead.turns[place(number + i)] = {two.x, two.y}, ahead.turns[place(number + i + 1)] = {two.z, two.w};
    }
  }
  ERN_DEVICE void fetch(Ahead& ahead, int64_t first_row, int64_t rows, int first_column) const {
#pragma unroll
    for (int number = 0; number < window; number += 4) fetch_run(ahead, number, first_row, rows, first_column);
  }
  // After the run that begins at `number`: what takes its place.
  ERN_DEVICE void fetch_next(Ahead& ahead, int number, int64_t first_row, int64_t rows, int first_column) const {
    if (!shared) return fetch_run(ahead, number + window, first_row, rows, first_column);
    // The next row's, when no piece of this one wants these any more.
    const int piece = number % pieces;
    if (piece + own >= pieces) fetch_run(ahead, number - piece + pieces + piece % own, first_row, rows, first_column);
  }

  ERN_DEVICE void operator()(const float (&d)[sums], Ahead& ahead, int half, int64_t first_row, int64_t rows, int first_column) const {
    const int quad = lane_id() % 4;
    const KvCache<problem.cache> cache{kv};
#pragma unroll
    for (int lower = 0; lower < 2; ++lower) {
      const int64_t row = row_of((2 * half + lower) * pieces, first_row);
      const int32_t slot = row < rows && first_column + columns > queries ? slots[row] : 0;
      // A run of four pieces is of one head; 16 bytes a lane: they change hands within the quad.
#pragma unroll
      for (int piece = 0; piece < pieces; piece += 4) {
        const int column = first_column + 8 * piece, number = (2 * half + lower) * pieces + piece;
        uint32_t words[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float2 v = {d[4 * (piece + i) + 2 * lower], d[4 * (piece + i) + 2 * lower + 1]};
          if constexpr (problem.bias) {
            const float2 b = whole || column < problem.n ? *reinterpret_cast<const float2*>(bias + column + 8 * i + 2 * quad) : float2{0, 0};
            v.x += b.x, v.y += b.y;
          }
          if (column < turned) {
            const float2 t = ahead.turns[place(number + i)];
            v = {v.x * t.x - v.y * t.y, v.y * t.x + v.x * t.y};
          }
          words[i] = pack_bf16(v.x, v.y);
        }
        fetch_next(ahead, number, first_row, rows, first_column);
        transpose_quad(words, quad);
        if (row >= rows || (!whole && column >= problem.n)) continue;
        const int head = column / head_dim, dim = column % head_dim + 8 * quad;
        Bf16* const to = column < queries  ? q + row * queries + column + 8 * quad
                         : column < turned ? cache.key(slot, head - problem.heads, dim)
                                           : cache.value(slot, head - problem.heads - problem.cache.kv_heads, dim);
        *reinterpret_cast<uint4*>(to) = {words[0], words[1], words[2], words[3]};
      }
    }
  }
};

// A tile of y. Tiles are asked for in ascending order.
struct GemmTile {
  int row;         // first of x and y
  int rows_end;    // y has rows up to here
  int column;      // first, within y before swiglu, and row of W
};

// Bands of 2048 rows in order, in each the rows fastest: of larger bands the blocks at work would read more than L2 holds.
template <Gemm problem>
struct PlainTiles {
  static constexpr GemmTiling tiling = problem.tiling;
  static constexpr int band = 2048 / (tiling.rows * tiling.cluster), column_tiles = static_cast<int>(ceil_div(problem.n, tiling.columns));
  int rows, row_tiles, count;

  ERN_DEVICE explicit PlainTiles(int rows)
      : rows(rows), row_tiles(static_cast<int>(ceil_div(rows, tiling.rows * tiling.cluster))), count(row_tiles * column_tiles) {}
  ERN_DEVICE GemmTile at(int tile) const {
    const int rank = tiling.cluster > 1 ? cluster_rank() : 0;
    const int first = tile / (band * column_tiles) * band, within = tile % (band * column_tiles);
    const int own_rows = row_tiles - first < band ? row_tiles - first : band, column = within / own_rows * tiling.columns;
    return {((first + within % own_rows) * tiling.cluster + rank) * tiling.rows, rows, column};
  }
};

// Walks this block's tiles; `store` takes their sums. There are as many rows as the step has.
template <Gemm problem, class Store>
ERN_DEVICE void gemm_tiles(const TensorMap* x_map, const TensorMap* weight_map, const Store& store, const Step* step) {
  constexpr GemmTiling tiling = problem.tiling;
  constexpr int stages = tiling.stages, x_bytes = tiling.rows * tile_k * 2, weight_bytes = tiling.columns * tile_k * 2;
  constexpr int k_tiles = static_cast<int>(ceil_div(problem.k, tile_k));
  constexpr int own_rows = tiling.turns ? tiling.rows : tiling.rows / gemm_consumers;  // of a tile, for each warpgroup
  constexpr int halves = own_rows / 64;
  constexpr int share_columns = tiling.columns / tiling.cluster, share_bytes = weight_bytes / tiling.cluster;  // of W, that this block fetches
  static_assert(own_rows % 64 == 0 && problem.k % 8 == 0 && problem.n % (problem.swiglu ? 16 : 8) == 0);
  static_assert(!problem.swiglu || (tiling.columns % (2 * problem.group) == 0 && !problem.residual));
  static_assert((tiling.cluster == 1 || tiling.cluster == 2) && share_columns % 8 == 0);

  extern __shared__ uint8_t dynamic[];
  uint8_t* const base = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(dynamic) + 1023) / 1024 * 1024);
  uint8_t* const x_tiles = base;
  uint8_t* const weight_tiles = base + stages * x_bytes;
  Barrier* const full = reinterpret_cast<Barrier*>(weight_tiles + stages * weight_bytes);
  Barrier* const empty = full + stages;
  Barrier* const turn = empty + stages;

  const int warpgroup = static_cast<int>(threadIdx.x) / warpgroup_size;
  const int rank = tiling.cluster > 1 ? cluster_rank() : 0;
  if (threadIdx.x == 0) {
    prefetch_map(x_map);
    prefetch_map(weight_map);
    // A stage is free when the consumers of every block that it is filled for have arrived.
    for (int i = 0; i < stages; ++i) full[i].init(1), empty[i].init((tiling.turns ? 1 : gemm_consumers) * tiling.cluster);
    for (int i = 0; i < gemm_consumers; ++i) turn[i].init(1);
    fence_barriers();
  }
  if (tiling.cluster > 1) cluster_sync();
  else __syncthreads();
  start_dependents();
  wait_for_inputs();
  const PlainTiles<problem> tiles(rows_of(step, problem.rows));
  const int clusters = static_cast<int>(gridDim.x) / tiling.cluster, first_tile = static_cast<int>(blockIdx.x) / tiling.cluster;

  if (warpgroup == 0) {
    registers_for_copying<40>();
    if (threadIdx.x == 0) {
      Ring<stages> ring;
      for (int number = first_tile; number < tiles.count; number += clusters) {
        const GemmTile tile = tiles.at(number);
        const int weight_row = tile.column + rank * share_columns;
        for (int k = 0; k < k_tiles; ++k, ring.next()) {
          Barrier& filled = full[ring.stage];
          uint8_t* const weight_share = weight_tiles + ring.stage * weight_bytes + rank * share_bytes;
          empty[ring.stage].wait(ring.parity ^ 1);
          filled.arrive_expecting(x_bytes + weight_bytes);
          copy_tile(x_tiles + ring.stage * x_bytes, x_map, k * tile_k, tile.row, filled);
          if constexpr (tiling.cluster > 1) copy_tile_to((1 << tiling.cluster) - 1, weight_share, weight_map, k * tile_k, weight_row, filled);
          else copy_tile(weight_share, weight_map, k * tile_k, weight_row, filled);
        }
      }
    }
  } else {
    registers_for_products<232>();
    const int consumer = warpgroup - 1, thread = static_cast<int>(threadIdx.x) % warpgroup_size;
    const auto release = [&](int stage) {
      if (tiling.cluster == 1 && thread == 0) empty[stage].arrive();
      if (tiling.cluster > 1 && thread < tiling.cluster) empty[stage].arrive_at(thread);
    };
    Ring<stages> ring;
    if (tiling.turns) ring.skip(consumer * k_tiles);
    int turn_parity = consumer == 0 ? 1 : 0;  // the first has its first turn at once
    const int step = (tiling.turns ? gemm_consumers : 1) * clusters;
    for (int number = first_tile + (tiling.turns ? consumer * clusters : 0); number < tiles.count; number += step) {
      const GemmTile tile = tiles.at(number);
      const int64_t row = tile.row + (tiling.turns ? 0 : consumer * own_rows);
      // A tile may end before this warpgroup's rows begin. One warp hands its stages back, and the others wait for it: by themselves, with no product
      // that holds them together, one could fall behind a stage by two phases.
      if (!tiling.turns && row >= tile.rows_end) {
        if (thread < warp_size) {
          Ring<stages> at = ring;
          for (int k = 0; k < k_tiles; ++k, at.next()) {
            full[at.stage].wait(at.parity);
            __syncwarp();
            release(at.stage);
          }
        }
        barrier_sync(1 + consumer, warpgroup_size);
        ring.skip(k_tiles);
        continue;
      }
      float sums[halves][tiling.columns / 2];
      int previous = -1;  // stage whose products may still run
      if (tiling.turns) turn[consumer].wait(turn_parity), turn_parity ^= 1;
      for (int k = 0; k < k_tiles; ++k, ring.next()) {
        if (problem.residual && k == k_tiles / 2) {
#pragma unroll
          for (int half = 0; half < halves; ++half) store.prefetch(row + 64 * half, tile.rows_end, tile.column);
        }
        full[ring.stage].wait(ring.parity);
        const uint64_t w = wgmma_operand(weight_tiles + ring.stage * weight_bytes);
        wgmma_fence();
#pragma unroll
        for (int half = 0; half < halves; ++half) {
          const int tile_row = (tiling.turns ? 0 : consumer * own_rows) + half * 64;
          const uint64_t x = wgmma_operand(x_tiles + ring.stage * x_bytes + tile_row * tile_k * 2);
#pragma unroll
          for (int i = 0; i < tile_k / wgmma_k; ++i)
            Wgmma<tiling.columns>::multiply(sums[half], x + i * wgmma_next_k, w + i * wgmma_next_k, k > 0 || i > 0);
        }
        wgmma_commit();
        wgmma_wait<1>();
        if (previous >= 0) release(previous);
        previous = ring.stage;
      }
      if (tiling.turns && thread == 0) turn[1 - consumer].arrive();
      typename Store::Ahead ahead;
      store.fetch(ahead, row, tile.rows_end, tile.column);
      wgmma_wait<0>();
      release(previous);
#pragma unroll
      for (int half = 0; half < halves; ++half) {
        wgmma_hold(sums[half]);
        store(sums[half], ahead, half, row, tile.rows_end, tile.column);
      }
      if (tiling.turns) ring.skip((gemm_consumers - 1) * k_tiles);
    }
  }
  // A block stays while others of its cluster may write into it or arrive at its barriers.
  if (tiling.cluster > 1) cluster_sync();
}

template <Gemm problem, class Y>
ERN_DEVICE void gemm(const Step* step, const TensorMap* x_map, const TensorMap* weight_map, const float* bias, const float* residual, Y* y) {
  gemm_tiles<problem>(x_map, weight_map, GemmStore<problem, Y>{bias, residual, y}, step);
}

template <Gemm problem>
ERN_DEVICE void gemm_rope(const Step* step, const TensorMap* x_map, const TensorMap* weight_map, const float* bias, const float* turns, const int32_t* slots,
                          Bf16* q, Bf16* kv) {
  static_assert(problem.heads > 0 && !problem.residual && !problem.swiglu);
  gemm_tiles<problem>(x_map, weight_map, RopeStore<problem>{bias, turns, slots, q, kv}, step);
}

}  // namespace ern::cuda
