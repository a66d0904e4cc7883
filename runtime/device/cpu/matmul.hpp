// The one matrix product under linear, linear_swiglu, head_argmax, moe_router and moe_ffn: some rows of x times some columns of one
// panel of W. How work is split over threads and what happens to the sums is theirs.
//
// Every sum runs over k from 0 upwards in one f32 accumulator, two k at a time (dot_pairs), whatever the number of rows, the tile or the
// block: where K is cut, the accumulator waits in memory and goes on. So a row gets the same bits in a decode step, in a batch and in a
// prefill, on any number of threads.
//
// Rows go through in register tiles (rows x vectors of outputs). With one tile of rows W is only streamed, and that is decode. With more,
// a block of K of the panel stays in the first cache while all tiles of a block of rows pass over it, and the next one is fetched
// meanwhile: that is a batch, and prefill.
#pragma once

#include "../layout/panel.hpp"
#include "simd.hpp"

namespace ern::cpu {
namespace {

constexpr int panel_cols = static_cast<int>(layout::panel_rows);    // outputs of a panel
constexpr int strip_cols = static_cast<int>(layout::panel_grain);  // the smallest part of a panel that a thread takes

// The knobs. None changes a bit of the result.
struct Tiling {
  int rows = 0;         // most rows of a register tile; 0: as many as fit (tile_height)
  int k_block = 256;    // k per pass of many tiles: 256 x 64 bf16 fill 32 of 48 KiB of first cache
  int few_block = 128;  // k per pass of few tiles: this block and the next one share the first cache
  int few = 12;         // tiles up to which they are few
  int row_block = 192;  // rows that share a pass
  int ahead = 0;        // bytes that a panel is prefetched ahead of a lone tile; 0: the hardware sees a stream and does better
  bool next = true;     // tiles that share a block of a panel fetch the next one
};

// 6 rows x 64 outputs are 24 of 32 AVX-512 registers, 5 or 4 rows x 16 are 10 or 8 of 16 with AVX2. The rest is for w, and without an
// instruction for pairs also for a widened copy of it and of x.
template <class X>
constexpr int tile_height(const Tiling& knobs) {
  if (knobs.rows > 0) return knobs.rows;
  if (lanes == 16) return native_dot || sizeof(X) == 4 ? 6 : 5;
  return sizeof(X) == 4 ? 5 : 4;
}

// Rows of x one after the other, or picked by an index.
template <class X>
struct DenseRows {
  const X* base;
  int64_t stride;
  ERN_INLINE const X* operator()(int row) const { return base + row * stride; }
};
template <class X>
struct PickedRows {
  const X* base;
  int64_t stride;
  const int32_t* index;
  ERN_INLINE const X* operator()(int row) const { return base + index[row] * stride; }
};

// Two consecutive k of one row of x, in every lane.
template <class X>
struct Splat;
template <>
struct Splat<Bf16> {
  Pairs both;
  ERN_INLINE explicit Splat(const Bf16* p) : both(splat_pair(p)) {}
  ERN_INLINE Splat(const Bf16* p, std::nullptr_t) : both(splat_pair(p[0], Bf16{0})) {}  // the last of an odd K
};
template <>
struct Splat<float> {
  F32 low, high;
  ERN_INLINE explicit Splat(const float* p) : low(splat(p[0])), high(splat(p[1])) {}
  ERN_INLINE Splat(const float* p, std::nullptr_t) : low(splat(p[0])), high(zero()) {}
};
ERN_INLINE F32 even(const Splat<Bf16>& x) { return even(x.both); }
ERN_INLINE F32 odd(const Splat<Bf16>& x) { return odd(x.both); }
ERN_INLINE F32 even(const Splat<float>& x) { return x.low; }
ERN_INLINE F32 odd(const Splat<float>& x) { return x.high; }

// What each tile does for one pair of k. `x(row)` gives the row's splat. Where there is no instruction for pairs, first all even products
// of the tile, then all odd ones: for each sum that is ascending k.
template <int Rows, int Vectors, class X, class W, class GetX>
ERN_INLINE void tile_step(F32 (&acc)[Rows][Vectors], const W* w, const GetX& x) {
  if constexpr (native_dot && sizeof(X) == 2 && sizeof(W) == 2) {
    Pairs part[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) part[v] = load_pairs(w + v * 2 * lanes);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const Splat<X> row = x(r);
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) acc[r][v] = dot_native(acc[r][v], part[v], row.both);
    }
  } else {
    // The halves of w are widened from memory twice: both at once would not fit into the registers beside the sums.
    F32 half[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) half[v] = even(load_pairs(w + v * 2 * lanes));
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const F32 row = even(x(r));
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) acc[r][v] = fma(half[v], row, acc[r][v]);
    }
    asm("" : "+r"(w));  // or the compiler keeps what it has loaded
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) half[v] = odd(load_pairs(w + v * 2 * lanes));
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const F32 row = odd(x(r));
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) acc[r][v] = fma(half[v], row, acc[r][v]);
    }
  }
}

// What a tile fetches while it computes: nothing, what a lone tile will read soon, or two lines a step from `fetch` on.
enum class Fetch { none, own, next };

// The next block of a panel, in two halves: tiles fetch them in turns, so two tiles fetch it all, and further ones find it there.
struct NextBlock {
  const char* from;
  const char* then;
  ERN_INLINE const char* take() {
    const char* out = from;
    from = then;
    then = out;
    return out;
  }
};

// sums[r][0 .. Vectors*lanes) continues (or starts, if `fresh`) over k of [k0, k1). w points at k0's pair of the first of these columns,
// pairs are `stride` elements apart, rows of sums are panel_cols apart.
template <int Rows, int Vectors, Fetch How, int Ahead, class X, class W>
void tile(const X* const* rows, int k0, int k1, const W* w, int64_t stride, float* sums, bool fresh, const char* fetch) {
  const X* x[Rows];
  F32 acc[Rows][Vectors];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
    x[r] = rows[r];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) acc[r][v] = fresh ? zero() : load(sums + r * panel_cols + v * lanes);
  }
  int64_t k = k0;
  for (; k + 2 <= k1; k += 2, w += stride) {
    if constexpr (How == Fetch::next) {
      prefetch(fetch);
      prefetch(fetch + 64);
      fetch += 128;
    }
    if constexpr (How == Fetch::own) {
#pragma GCC unroll 8
      for (int line = 0; line < Vectors * lanes * 2 * static_cast<int>(sizeof(W)); line += 64) {
        prefetch(reinterpret_cast<const char*>(w) + Ahead + line);
      }
    }
    tile_step<Rows, Vectors, X>(acc, w, [&](int r) { return Splat<X>(x[r] + k); });
  }
  if (k < k1) {
    tile_step<Rows, Vectors, X>(acc, w, [&](int r) { return Splat<X>(x[r] + k, nullptr); });
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) store(sums + r * panel_cols + v * lanes, acc[r][v]);
  }
}

// Vectors of outputs that go with so many rows: the sums take at most 24 of 32 registers, or 12 of 16.
constexpr int tile_vectors(int rows) { return lanes == 16 ? 4 : rows == 1 ? 8 : rows <= 3 ? 4 : 2; }

// The part of a panel that tiles pass over.
template <class X, class W>
struct Block {
  const W* w;  // the panel at k0
  int64_t stride;
  int k0, k1;
  int from, to;  // columns of the panel, multiples of strip_cols
  bool fresh;
};

// All columns of the block in tiles of one height.
template <int Rows, Fetch How, int Ahead, int Vectors = tile_vectors(Rows), class X, class W>
ERN_INLINE void tile_columns(const Block<X, W>& b, int from, const X* const* rows, float* sums, NextBlock& next) {
  for (; from + Vectors * lanes <= b.to; from += Vectors * lanes) {
    tile<Rows, Vectors, How, Ahead>(rows, b.k0, b.k1, b.w + from * 2, b.stride, sums + from, b.fresh, next.take());
  }
  if constexpr (Vectors * lanes > strip_cols) {
    constexpr int fewer = lanes == 16 ? Vectors - 1 : Vectors / 2;
    if (from < b.to) tile_columns<Rows, How, Ahead, fewer>(b, from, rows, sums, next);
  }
}

// The same for a height known at run time only, at least Least.
template <int Rows, int Least, Fetch How, int Ahead, class X, class W>
ERN_INLINE void pick_height(const Block<X, W>& b, int count, const X* const* rows, float* sums, NextBlock& next) {
  if (count == Rows) {
    tile_columns<Rows, How, Ahead>(b, b.from, rows, sums, next);
  } else if constexpr (Rows > Least) {
    pick_height<Rows - 1, Least, How, Ahead>(b, count, rows, sums, next);
  }
}
template <int Rows, int Least, Fetch How, int Ahead, class X, class W>
[[gnu::noinline]] void tile_rows(const Block<X, W>& b, int count, const X* const* rows, float* sums, NextBlock& next) {
  pick_height<Rows, Least, How, Ahead>(b, count, rows, sums, next);
}

// Most rows of one tile that covers a whole panel, so that W is a stream.
constexpr int stream_height(int tallest) { return tile_vectors(tallest) * lanes == panel_cols ? tallest : 1; }

// The lowest tile if rows are shared out evenly over at least so many tiles, but no more than are needed. One tile comes here if it is
// no stream, and is of any height.
constexpr int least_height(int tallest, int tiles) {
  return tiles == 2 && stream_height(tallest) < tallest ? 1 : (tallest * (tiles - 1) + 1) / tiles;
}

// Rows [0, count) of x times columns [from, to) of the panel at w, of the given width. `finish(row, sums)` gets each row's complete sums,
// sums[c] for column c of the panel, rows ascending. MaxRows bounds count and keeps unused tiles out of the code. `next` is the panel that
// the thread reads after this one, if that is not the one behind it in memory.
template <Tiling Knobs, int K, int MaxRows, class X, class W, class GetRow, class Finish>
ERN_INLINE void panel_matmul(const GetRow& x, int count, const W* w, int width, int from, int to, const Finish& finish,
                             const W* next = nullptr) {
  constexpr int tallest = tile_height<X>(Knobs) < MaxRows ? tile_height<X>(Knobs) : MaxRows;
  constexpr int stream = stream_height(tallest);
  constexpr int block = Knobs.row_block < MaxRows ? Knobs.row_block : MaxRows;
  constexpr Fetch lone = Knobs.ahead > 0 ? Fetch::own : Fetch::none;
  constexpr Fetch few = Knobs.next ? Fetch::next : Fetch::none;
  static_assert(Knobs.k_block % 2 == 0 && Knobs.few_block % 2 == 0, "a block is whole pairs of k");
  alignas(64) float sums[block * panel_cols];
  const X* rows[block];
  const int64_t stride = width * 2;
  if (next == nullptr) next = w + (K + 1) / 2 * stride;
  const int blocks = (count + block - 1) / block;
  for (int i = 0; i < blocks; ++i) {
    const int start = static_cast<int>(int64_t{count} * i / blocks);
    const int here = static_cast<int>(int64_t{count} * (i + 1) / blocks) - start;
    for (int r = 0; r < here; ++r) rows[r] = x(start + r);
    NextBlock ahead{nullptr, nullptr};
    // One tile that takes the panel in one go reads it as a stream, from start to end.
    if (here <= stream) {
      tile_rows<stream, 1, lone, Knobs.ahead>(Block<X, W>{w, stride, 0, K, from, to, true}, here, rows, sums, ahead);
    } else if constexpr (MaxRows > stream) {
      // Tiles differ by one row at most: 8 rows are 4 and 4, not 6 and 2, which would leave the pipeline half empty.
      const int tiles = (here + tallest - 1) / tallest;
      const int k_block = tiles <= Knobs.few ? Knobs.few_block : Knobs.k_block;
      const int lines = static_cast<int>(k_block * stride / 2 * sizeof(W) / 64);  // of a block in memory
      for (int k0 = 0; k0 < K; k0 += k_block) {
        const int k1 = k0 + k_block < K ? k0 + k_block : K;
        const Block<X, W> b{w + k0 / 2 * stride, stride, k0, k1, from, to, k0 == 0};
        const char* after = reinterpret_cast<const char*>(k1 < K ? b.w + k_block / 2 * stride : i + 1 < blocks ? w : next);
        ahead = {after, after + lines / 2 * 64};
        for (int t = 0; t < tiles; ++t) {
          const int r0 = here * t / tiles, r1 = here * (t + 1) / tiles;
          const X* const* tile_x = rows + r0;
          float* tile_sums = sums + r0 * panel_cols;
          // While few tiles compute, memory must not rest, so they fetch the next block on their way. More take longer than the fetch, which
          // is then done between them and to the second cache, as their block fills the first.
          if (tiles <= Knobs.few) {
            tile_rows<tallest, least_height(tallest, 2), few, 0>(b, r1 - r0, tile_x, tile_sums, ahead);
          } else if constexpr (MaxRows > Knobs.few * tallest) {
            if constexpr (Knobs.next) {
              for (int line = lines * t / tiles; line < lines * (t + 1) / tiles; ++line) prefetch_second(after + line * 64);
            }
            tile_rows<tallest, least_height(tallest, Knobs.few + 1), Fetch::none, 0>(b, r1 - r0, tile_x, tile_sums, ahead);
          }
        }
      }
    }
    for (int r = 0; r < here; ++r) finish(start + r, sums + r * panel_cols);
  }
}

}  // namespace
}  // namespace ern::cpu
