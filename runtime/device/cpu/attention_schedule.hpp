// How attention is cut into units that a thread takes whole: (sequence, kv head, query tile), and chunks of the cache
// where that alone would leave threads idle. Numbers only; what a unit computes is in attention.hpp.
#pragma once

#include "attention_tile.hpp"
#include "kernel.hpp"

namespace ern::cpu {
namespace {

constexpr int kv_chunk = 512;  // a multiple of kv_tile
static_assert(kv_chunk % kv_tile == 0);

// Tokens of a query tile: some 60 rows to amortise K and V, in whole register blocks where that works out.
constexpr int attention_query_tokens(int group) {
  for (int tokens = 64 / group; tokens > 0; --tokens) {
    if (tokens * group % row_block == 0) return tokens;
  }
  return group > 64 ? 1 : 64 / group;
}

struct AttentionUnit {
  int sequence;
  int kv_head;
  int first;     // the tile's first token, counted from the sequence's first of this step
  int tokens;    // of the tile
  int row;       // of q and out: the same token
  int position;  // of the first token
  int chunk;     // the first of the chunks to walk
  int chunks;
  int64_t partial;  // index of that sequence's first partial
};

// Enumerates the units of a step. Each thread has its own and asks with growing tickets.
template <Attention problem>
class AttentionUnits {
 public:
  static constexpr int query_tokens = attention_query_tokens(problem.heads / problem.kv_heads);

  AttentionUnits(const Step& step, const int32_t* start, const int32_t* context, int threads)
      : step_(step), start_(start), context_(context), split_(decide(threads)) {}

  bool split() const { return split_; }
  int rows(int s) const { return start_[s + 1] - start_[s]; }
  int chunks(int s) const { return (context_[s] + kv_chunk - 1) / kv_chunk; }
  int64_t partials(int s) const { return int64_t{rows(s)} * problem.heads * chunks(s); }

  bool find(int64_t ticket, AttentionUnit& unit) {
    while (sequence_ < step_.sequences && ticket - passed_ >= units(sequence_)) {
      passed_ += units(sequence_);
      partial_ += partials(sequence_);
      ++sequence_;
    }
    if (sequence_ == step_.sequences) return false;
    const int s = sequence_, all = chunks(s);
    int64_t index = ticket - passed_;
    const int chunk = split_ ? static_cast<int>(index % all) : 0;
    if (split_) index /= all;
    const int tile = tiles(s) - 1 - static_cast<int>(index % tiles(s));  // the last tokens see most: they go first
    const int first = tile * query_tokens;
    const int left = rows(s) - first;
    unit.sequence = s;
    unit.kv_head = static_cast<int>(index / tiles(s));
    unit.first = first;
    unit.tokens = left < query_tokens ? left : query_tokens;
    unit.row = start_[s] + first;
    unit.position = context_[s] - rows(s) + first;
    unit.chunk = chunk;
    unit.chunks = split_ ? 1 : all;
    unit.partial = partial_;
    return true;
  }

 private:
  int tiles(int s) const { return (rows(s) + query_tokens - 1) / query_tokens; }
  int64_t units(int s) const { return int64_t{tiles(s)} * problem.kv_heads * (split_ ? chunks(s) : 1); }

  // Splitting costs a barrier and a pass over the partials. It pays when whole units would keep the slowest thread busy
  // a quarter longer than its fair share; with many units the tickets even things out.
  bool decide(int threads) const {
    if (problem.partial_rows == 0 || threads == 1) return false;
    int64_t count = 0, needed = 0, work = 0, longest = 0;
    for (int s = 0; s < step_.sequences; ++s) {
      const int64_t here = int64_t{tiles(s)} * problem.kv_heads;
      count += here;
      needed += partials(s);
      work += here * context_[s];
      if (rows(s) > 0 && context_[s] > longest) longest = context_[s];
    }
    if (longest <= kv_chunk || count >= 4 * threads || needed > problem.partial_rows) return false;
    return (count + threads - 1) / threads * longest * threads * 4 > work * 5;
  }

  const Step& step_;
  const int32_t* start_;
  const int32_t* context_;
  const bool split_;
  int sequence_ = 0;
  int64_t passed_ = 0;   // units of the sequences before
  int64_t partial_ = 0;  // their partials
};

}  // namespace
}  // namespace ern::cpu
