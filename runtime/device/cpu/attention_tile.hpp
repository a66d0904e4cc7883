// The inner part of attention: a few query rows against one tile of the KV cache, in registers. Scores, online softmax,
// weighted sum of V, and the merge of two partial results. Which rows, which tiles and which thread: attention.hpp.
//
// One order of arithmetic, whoever asks: a row's state after a tile depends on its state before, on the tile's 64
// tokens and on how many of them the row sees, and on nothing else. Each score is one accumulator over the dims in
// order; each output dim is one accumulator over the tokens in order; how many rows or columns share the registers
// changes neither.
#pragma once

#include <cstdint>
#include <type_traits>

#include "../layout/kv_block.hpp"
#include "simd.hpp"
#include "unroll.hpp"

namespace ern::cpu {
namespace {

constexpr int kv_group = 16;                     // tokens that surely lie in one block
constexpr int kv_tile = 64;                      // tokens between two looks at the running maximum
constexpr int tile_groups = kv_tile / kv_group;  // a tile starts at a multiple of kv_tile, whatever the block size

// Rows and vectors whose sums fit the register file beside what they are multiplied with: 32 registers of AVX-512, 16
// of AVX2. The plain build has none to fill and is compiled sooner with fewer forms.
#if defined(__AVX2__)
constexpr int row_block = 6;
constexpr int widest_block = lanes == 16 ? 8 : 6;  // where it saves a second pass over K and V
#else
constexpr int row_block = 3;
constexpr int widest_block = 3;
#endif
constexpr int block_columns(int rows) { return lanes == 16 && rows <= row_block ? 4 : 2; }

// The constants of one attention op.
struct Attention {
  int heads;
  int kv_heads;
  int head_dim;              // a multiple of 16
  int block_size;            // tokens of a KV block, a multiple of 16
  int64_t kv_block_bytes;    // from one pool block to the next
  int64_t partial_rows = 0;  // room for so many partial results, see attention_partial_rows
};

// q.k in pairs of bf16 needs both in bf16 and the instruction; otherwise both are widened, which is exact.
template <class Q, class KV>
constexpr bool dots_pairs = native_dot && std::is_same_v<Q, Bf16> && std::is_same_v<KV, Bf16>;

// Where the tile's groups of 16 tokens lie. Only those that some row sees are set, the others are never looked at.
template <class KV>
struct KvTile {
  const KV* keys[tile_groups];    // dim 0 of the group's first token, in K
  const KV* values[tile_groups];  // the same in V
};

// 2^x for x <= 0; 0 below -126, so no denormals come out; NaN for NaN. Within 1 ulp: a minimax polynomial on [-1/2,
// 1/2] whose error is 2^-28.5, and exactly 1 at 0.
ERN_INLINE F32 exp2_of(F32 x) {
  const F32 clamped = max(splat(-127.0f), x);  // -inf would become inf - inf
  const F32 n = round(clamped);
  const F32 f = clamped - n;
  F32 series = splat(0x1.470b4ap-13f);
  series = fma(series, f, splat(0x1.5f7276p-10f));
  series = fma(series, f, splat(0x1.3b270ep-7f));
  series = fma(series, f, splat(0x1.c6ae72p-5f));
  series = fma(series, f, splat(0x1.ebfbe2p-3f));
  series = fma(series, f, splat(0x1.62e432p-1f));
  series = fma(series, f, splat(1.0f));
  return pick_less(x, splat(-126.0f), zero(), scale_by_power_of_2(series, n));
}

// Up to `Rows` query rows of one kv head with what they carry from tile to tile. A row's result so far is acc / mass,
// relative to 2^peak.
template <Attention problem, class Q, class KV, int Rows>
struct AttentionRows {
  static constexpr int head_dim = problem.head_dim;
  static constexpr int pack = sizeof(KV) == 2 ? 2 : 1;
  static constexpr bool pairs = dots_pairs<Q, KV>;
  static_assert(head_dim % 16 == 0);

  // Rows side by side, so that what is broadcast together lies together: [dim / 2][row][2] of bf16, or [dim][row] of
  // f32.
  alignas(64) std::conditional_t<pairs, Bf16, float> query[Rows * head_dim];
  alignas(64) float acc[Rows * head_dim];       // sum of p * v
  alignas(64) float mass[Rows * lanes];         // sum of p, each lane its own tokens
  alignas(64) float peak[Rows];                 // the largest score so far, as a power of 2
  alignas(64) float p[widest_block * kv_tile];  // of the rows at hand: scores, then weights
  float to_log2;                                // what turns q.k into the exponent of a power of 2

  void set_query(int row, const Q* from) {
    constexpr int step = pairs ? 2 : 1;
    for (int dim = 0; dim < head_dim; dim += step) {
      auto* to = query + dim * Rows + row * step;
      if constexpr (pairs) {
        std::memcpy(to, from + dim, 2 * sizeof(Bf16));
      } else {
        *to = to_f32(from[dim]);
      }
    }
  }

  void clear(int rows) {
    for (int i = 0; i < rows * head_dim; i += lanes) store(acc + i, zero());
    for (int row = 0; row < rows; ++row) {
      store(mass + row * lanes, zero());
      peak[row] = -__builtin_inff();
    }
  }

  // Rows first .. first + rows - 1 take in the tile's tokens 0 .. visible - 1.
  void take(int first, int rows, const KvTile<KV>& tile, int visible) {
    for (; rows >= row_block; rows -= row_block, first += row_block)
      take_block<row_block, false>(first, tile, visible, tile);
    take_rest<row_block - 1>(first, rows, tile, visible);
  }

  // The same for `Count` rows. With Stream they also fetch `next` meanwhile: these rows are all that read the tile, so
  // memory is what they wait for, and the hardware does not see across blocks.
  template <int Count, bool Stream>
  ERN_INLINE void take_group(int first, const KvTile<KV>& tile, int visible, const KvTile<KV>& next) {
    constexpr int blocks = (Count + widest_block - 1) / widest_block;
    constexpr int here = (Count + blocks - 1) / blocks;  // even parts: 10 rows go as 5 and 5
    take_block<here, Stream>(first, tile, visible, next);
    if constexpr (here < Count) take_group<Count - here, false>(first + here, tile, visible, next);
  }

 private:
  template <int R>
  ERN_INLINE void take_rest(int first, int rows, const KvTile<KV>& tile, int visible) {
    if (rows == R) return take_block<R, false>(first, tile, visible, tile);
    if constexpr (R > 1) take_rest<R - 1>(first, rows, tile, visible);
  }

  template <int R, bool Stream>
  [[gnu::noinline]] void take_block(int first, const KvTile<KV>& tile, int visible, const KvTile<KV>& next) {
    const int groups = (visible + kv_group - 1) / kv_group;
    constexpr int together = block_columns(R) * lanes / kv_group;
    int group = 0;
    for (; group + together <= groups; group += together) score<R, together, Stream>(first, tile, group, next);
    for (; group < groups; ++group) score<R, 1, Stream>(first, tile, group, next);

    alignas(64) float past[16] = {};
    soften<R>(first, visible, past);

    constexpr int columns = block_columns(R), step = columns * lanes;
    int dim = 0;
    for (; dim + step <= head_dim; dim += step) gather<R, columns, Stream>(first, dim, tile, visible, past, next);
    for (; dim < head_dim; dim += lanes) gather<R, 1, Stream>(first, dim, tile, visible, past, next);
  }

  // p[r][token] = q.k of R rows and `Groups` groups of tokens.
  template <int R, int Groups, bool Stream>
  ERN_INLINE void score(int first, const KvTile<KV>& tile, int group, const KvTile<KV>& next) {
    constexpr int per_group = kv_group / lanes, columns = Groups * per_group;
    F32 sum[R][columns];
    const KV* keys[columns];
    const KV* ahead[columns];
    ERN_UNROLL for (int c = 0; c < columns; ++c) {
      keys[c] = tile.keys[group + c / per_group] + c % per_group * lanes * pack;
      ahead[c] = next.keys[group + c / per_group] + c % per_group * lanes * pack;
      ERN_UNROLL for (int r = 0; r < R; ++r) sum[r][c] = zero();
    }
    const auto* x = query + first * (pairs ? 2 : 1);
    for (int dim = 0; dim < head_dim; dim += pack, x += Rows * pack) {
      const int64_t at = int64_t{dim} * problem.block_size;
      if constexpr (Stream) {
        ERN_UNROLL for (int c = 0; c < columns; ++c) prefetch(ahead[c] + at);
      }
      if constexpr (pairs) {
        Pairs k[columns];
        ERN_UNROLL for (int c = 0; c < columns; ++c) k[c] = load_pairs(keys[c] + at);
        ERN_UNROLL for (int r = 0; r < R; ++r) {
          const Pairs q = splat_pair(x + 2 * r);
          ERN_UNROLL for (int c = 0; c < columns; ++c) sum[r][c] = dot_native(sum[r][c], k[c], q);
        }
      } else {
        ERN_UNROLL for (int half = 0; half < pack; ++half) {
          F32 k[columns];
          ERN_UNROLL for (int c = 0; c < columns; ++c) k[c] = key(keys[c] + at, half);
          ERN_UNROLL for (int r = 0; r < R; ++r) {
            const F32 q = splat(x[half * Rows + r]);
            ERN_UNROLL for (int c = 0; c < columns; ++c) sum[r][c] = fma(k[c], q, sum[r][c]);
          }
        }
      }
    }
    ERN_UNROLL for (int r = 0; r < R; ++r) {
      ERN_UNROLL for (int c = 0; c < columns; ++c) store(p + r * kv_tile + group * kv_group + c * lanes, sum[r][c]);
    }
  }

  // One dim of `lanes` tokens; of a pair, the even or the odd one.
  ERN_INLINE static F32 key(const Bf16* at, int half) {
    return half == 0 ? even(load_pairs(at)) : odd(load_pairs(at));
  }
  ERN_INLINE static F32 key(const float* at, int) { return load(at); }

  // Scores become weights 2^(score - peak), 0 from token `visible` on. past[r]: by what the row's earlier sums shrink.
  template <int R>
  ERN_INLINE void soften(int first, int visible, float* past) {
    constexpr int columns = kv_tile / lanes;
    const float count[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const F32 lane = load(count), scale = splat(to_log2);
    alignas(64) float fallen[16] = {};  // old peak minus new
    float total[R * lanes];
    for (int r = 0; r < R; ++r) {
      float* row = p + r * kv_tile;
      F32 s[columns];
      ERN_UNROLL for (int c = 0; c < columns; ++c) {
        s[c] = load(row + c * lanes) * scale;
        if (visible < kv_tile) {
          const F32 end = splat(static_cast<float>(visible - c * lanes));
          s[c] = pick_less(lane, end, s[c], splat(-__builtin_inff()));
        }
      }
      F32 top = s[0];
      ERN_UNROLL for (int c = 1; c < columns; ++c) top = max(s[c], top);
      const float before = peak[first + r], here = max_of(top);
      const float now = before > here ? before : here;
      fallen[r] = before - now;
      peak[first + r] = now;
      F32 sum_of_p = zero();
      ERN_UNROLL for (int c = 0; c < columns; ++c) {
        const F32 weight = exp2_of(s[c] - splat(now));
        store(row + c * lanes, weight);
        sum_of_p = sum_of_p + weight;
      }
      store(total + r * lanes, sum_of_p);
    }
    for (int i = 0; i < R; i += lanes) store(past + i, exp2_of(load(fallen + i)));
    for (int r = 0; r < R; ++r) {
      float* m = mass + (first + r) * lanes;
      store(m, fma(load(m), splat(past[r]), load(total + r * lanes)));
    }
  }

  // acc = acc * past + p.v, for `Columns` vectors of dims from `dim` on. Stops at `visible`: what lies behind may be
  // anything, and 0 * NaN would not be 0.
  template <int R, int Columns, bool Stream>
  ERN_INLINE void gather(int first, int dim, const KvTile<KV>& tile, int visible, const float* past,
                         const KvTile<KV>& next) {
    F32 sum[R][Columns];
    float* to = acc + first * head_dim + dim;
    ERN_UNROLL for (int r = 0; r < R; ++r) {
      const F32 shrink = splat(past[r]);
      ERN_UNROLL for (int c = 0; c < Columns; ++c) sum[r][c] = load(to + r * head_dim + c * lanes) * shrink;
    }
    const float* weight = p;
    for (int group = 0; group * kv_group < visible; ++group) {
      const KV* v = tile.values[group] + dim;
      const KV* ahead = next.values[group] + dim;
      const int left = visible - group * kv_group;
      const int count = left < kv_group ? left : kv_group;
      for (int token = 0; token < count; ++token, v += head_dim, ahead += head_dim, ++weight) {
        if constexpr (Stream) {
          ERN_UNROLL for (int byte = 0; byte < Columns * lanes * static_cast<int>(sizeof(KV)); byte += 64) {
            prefetch(reinterpret_cast<const char*>(ahead) + byte);
          }
        }
        F32 value[Columns];
        ERN_UNROLL for (int c = 0; c < Columns; ++c) value[c] = load(v + c * lanes);
        ERN_UNROLL for (int r = 0; r < R; ++r) {
          const F32 w = splat(weight[r * kv_tile]);
          ERN_UNROLL for (int c = 0; c < Columns; ++c) sum[r][c] = fma(w, value[c], sum[r][c]);
        }
      }
    }
    ERN_UNROLL for (int r = 0; r < R; ++r) {
      ERN_UNROLL for (int c = 0; c < Columns; ++c) store(to + r * head_dim + c * lanes, sum[r][c]);
    }
  }
};

}  // namespace
}  // namespace ern::cpu
