// op         attention: out[t, h] = sum over j of softmax_j(scale * q[t, h] . k[j, g]) * v[j, g], g = h / (heads /
//            kv_heads), over the cache entries 0 .. position of t. Softmax in f32, p is not rounded. No fusion.
// q          Q [T, heads * head_dim], rotated; out: Out [T, heads * head_dim]; Q, KV and Out are float or Bf16
// kv         KV: this layer's part of pool block 0, layout kv_block; block b lies b * kv_block_bytes further
// table      int32 [S, step.block_stride]: the blocks of each sequence in cache order
// start      int32 [S + 1]: rows start[s] .. start[s + 1] - 1 of q are sequence s, the newest tokens of its cache
// context    int32 [S]: tokens in the cache, these rows included. So row r stands at context[s] - (start[s + 1] - r).
// partial    float [partial_rows * attention_partial(head_dim)], scratch; may be null where partial_rows is 0
// work       (kv head, query tile) of each sequence, whoever is free takes the next. A query tile is several tokens
//            times the heads that share the kv head, so K and V are read once for all of them. Where that leaves
//            threads idle and `partial` has room, also split by chunks of 512 cache entries, merged in one more phase.
// accumulate f32, in one order: online over tiles of 64 cache entries; every 512 the result is put aside and merged,
//            split or not. A token's bits do not depend on what else is in the step, on the chunk it came in, on the
//            block size or on the number of threads.
// reference  src/reference attention
#pragma once

#include "attention_schedule.hpp"
#include "attention_tile.hpp"

namespace ern::cpu {
namespace {

// One row's result over some cache entries: [peak, mass, padding, acc], see AttentionRows. Floats from one to the next:
constexpr int partial_head = 16;
constexpr int attention_partial(int head_dim) { return partial_head + head_dim; }

// What `partial_rows` must be for one sequence of `context` tokens, one new token, to be split over any number of
// threads.
constexpr int64_t attention_partial_rows(int64_t heads, int64_t context) {
  return heads * ((context + kv_chunk - 1) / kv_chunk);
}

// total takes in part; both are partials of one row, part over later entries.
template <int HeadDim>
void merge_partial(float* total, const float* part) {
  const float peak = total[0] > part[0] ? total[0] : part[0];
  alignas(64) float shrink[16] = {total[0] - peak, part[0] - peak};
  store(shrink, exp2_of(load(shrink)));
  total[0] = peak;
  total[1] = total[1] * shrink[0] + part[1] * shrink[1];
  for (int i = partial_head; i < partial_head + HeadDim; i += lanes) {
    store(total + i, fma(load(total + i), splat(shrink[0]), load(part + i) * splat(shrink[1])));
  }
}

template <int HeadDim, class Out>
void finish_partial(const float* total, Out* out) {
  const F32 mass = splat(total[1]);
  for (int i = 0; i < HeadDim; i += lanes) store(out + i, load(total + partial_head + i) / mass);
}

template <Attention problem, class Q, class KV, class Out>
struct AttentionWorker {
  using Block = layout::KvBlock<problem.kv_heads, problem.head_dim, problem.block_size, sizeof(KV) == 2 ? 2 : 1>;
  static constexpr int group = problem.heads / problem.kv_heads;
  static constexpr int max_rows = AttentionUnits<problem>::query_tokens * group;
  static constexpr int record = attention_partial(problem.head_dim);
  static_assert(problem.heads % problem.kv_heads == 0);

  AttentionRows<problem, Q, KV, max_rows> rows;
  alignas(64) float totals[max_rows * record];

  // Computes the unit's rows over its chunks. Split: each chunk's results go to `partial`; else they are merged here
  // and written to out.
  void run(const AttentionUnit& unit, bool split, int all_chunks, const Q* q, const char* kv, const int32_t* blocks,
           float* partial, Out* out) {
    const int64_t width = int64_t{problem.heads} * problem.head_dim,
                  column = int64_t{unit.kv_head} * group * problem.head_dim;
    for (int i = 0; i < unit.tokens * group; ++i) {
      rows.set_query(i, q + (unit.row + i / group) * width + column + i % group * problem.head_dim);
    }
    for (int chunk = unit.chunk; chunk < unit.chunk + unit.chunks; ++chunk) {
      const int begin = chunk * kv_chunk;
      walk(unit, begin, kv, blocks);
      for (int i = 0; i < unit.tokens * group; ++i) {
        const int token = i / group;
        if (unit.position + token < begin) continue;  // sees nothing of this chunk
        float* total = totals + i * record;
        if (split) {
          const int64_t row = int64_t{unit.first + token} * problem.heads + unit.kv_head * group + i % group;
          put_aside(i, partial + (unit.partial + row * all_chunks + chunk) * record);
        } else if (chunk == 0) {
          put_aside(i, total);
        } else {
          alignas(64) float part[record];
          put_aside(i, part);
          merge_partial<problem.head_dim>(total, part);
        }
      }
    }
    if (split) return;
    for (int i = 0; i < unit.tokens * group; ++i) {
      finish_partial<problem.head_dim>(totals + i * record,
                                       out + (unit.row + i / group) * width + column + i % group * problem.head_dim);
    }
  }

 private:
  // The tile that begins with cache entry `at`. Groups from `end` on, which nobody sees, point at its first.
  static KvTile<KV> find(int kv_head, int at, int end, const char* kv, const int32_t* blocks) {
    KvTile<KV> tile;
    for (int g = 0; g < tile_groups; ++g) {
      const int entry = at + g * kv_group < end ? at + g * kv_group : at, token = entry % problem.block_size;
      const KV* block = reinterpret_cast<const KV*>(kv + blocks[entry / problem.block_size] * problem.kv_block_bytes);
      tile.keys[g] = block + Block::key(kv_head, token, 0);
      tile.values[g] = block + Block::value(kv_head, token, 0);
    }
    return tile;
  }

  // The rows' state after the cache entries of one chunk.
  void walk(const AttentionUnit& unit, int begin, const char* kv, const int32_t* blocks) {
    rows.clear(unit.tokens * group);
    const int seen = unit.position + unit.tokens;  // entries that the last token sees
    const int end = begin + kv_chunk < seen ? begin + kv_chunk : seen;
    KvTile<KV> tile = find(unit.kv_head, begin, seen, kv, blocks), next = tile;
    for (int at = begin; at < end; at += kv_tile, tile = next) {
      if (at + kv_tile < seen) next = find(unit.kv_head, at + kv_tile, seen, kv, blocks);
      if (unit.tokens == 1) {
        const int visible = seen - at;
        rows.template take_group<group, true>(0, tile, visible < kv_tile ? visible : kv_tile, next);
      } else if (at + kv_tile <= unit.position + 1) {
        rows.take(0, unit.tokens * group, tile, kv_tile);
      } else {
        for (int token = 0; token < unit.tokens; ++token) {
          const int visible = unit.position + token + 1 - at;
          if (visible > 0)
            rows.template take_group<group, false>(token * group, tile, visible < kv_tile ? visible : kv_tile, tile);
        }
      }
    }
  }

  void put_aside(int row, float* to) const {
    to[0] = rows.peak[row];
    to[1] = sum(load(rows.mass + row * lanes));
    const float* acc = rows.acc + row * problem.head_dim;
    for (int i = 0; i < problem.head_dim; i += lanes) store(to + partial_head + i, load(acc + i));
  }
};

// The second phase of a split step: each row's partials, in the order of the cache.
template <Attention problem, class Out>
void merge_partials(const Step& step, const AttentionUnits<problem>& units, const int32_t* start,
                    const int32_t* context, float* partial, Out* out, const Team& team) {
  constexpr int record = attention_partial(problem.head_dim);
  const Range mine = share(int64_t{start[step.sequences]} * problem.heads, team);
  for (int s = 0; s < step.sequences; ++s) {
    const int64_t first = int64_t{start[s]} * problem.heads, last = int64_t{start[s + 1]} * problem.heads;
    for (int64_t row = mine.begin > first ? mine.begin : first; row < mine.end && row < last; ++row) {
      float* parts = partial + (row - first) * units.chunks(s) * record;
      const int64_t position = context[s] - (last - row + problem.heads - 1) / problem.heads;
      for (int chunk = 1; chunk <= position / kv_chunk; ++chunk)
        merge_partial<problem.head_dim>(parts, parts + chunk * record);
      finish_partial<problem.head_dim>(parts, out + row * problem.head_dim);
    }
    partial += units.partials(s) * record;
  }
}

template <Attention problem, class Q, class KV, class Out>
void attention(const Step& step, const Q* q, const KV* kv, const int32_t* table, const int32_t* start,
               const int32_t* context, float scale, float* partial, Out* out, Team& team) {
  AttentionUnits<problem> units(step, start, context, team.size);
  AttentionWorker<problem, Q, KV, Out> worker;
  worker.rows.to_log2 = static_cast<float>(scale * 1.44269504088896341);
  AttentionUnit unit;
  for (int mine = 0; units.find(team.size == 1 ? mine : team.take(), unit); ++mine) {
    const int32_t* blocks = table + int64_t{unit.sequence} * step.block_stride;
    worker.run(unit, units.split(), units.chunks(unit.sequence), q, reinterpret_cast<const char*>(kv), blocks, partial,
               out);
  }
  if (!units.split()) return;
  team.barrier();
  merge_partials(step, units, start, context, partial, out, team);
}

}  // namespace
}  // namespace ern::cpu
