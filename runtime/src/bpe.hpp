// The merges of byte-pair encoding, as SentencePiece defines them: any two neighbours whose concatenation is a piece may merge; the best score goes
// first, on ties the leftmost. Knows no specials and no segments, and doesn't read files: it gets one text, whose spaces are spaces.
//
// What makes it fast: two characters side by side in a text can only end up in one piece if they are side by side in some piece of the vocabulary.
// So a text falls apart, before any merging, into runs (about words, as pieces begin with their space and never end with one). Runs don't
// influence each other. A short run is merged by scanning for the best pair, a long one (a megabyte of "a") through a heap, in O(n log n);
// and a run seen before in the same text is copied from where its ids already are.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "piece_table.hpp"
#include "prefix_matcher.hpp"
#include "sentencepiece.hpp"

namespace ern {

class Bpe {
 public:
  // `excluded[id]` (one flag a piece) takes pieces out: no text becomes them. Control, unknown and byte pieces are out already.
  // The model and its table must outlive this and stay where they are.
  void build(const SentencePieceModel& model, const PieceTable& table, const std::vector<bool>& excluded);

  // Appends the ids of `text`, which must be valid UTF-8. A character without a piece becomes its bytes' pieces.
  void encode(std::string_view text, std::vector<int32_t>& out) const;

 private:
  class Encoder;

  // Whether some piece holds these two code points side by side; may say yes when none does, which costs time and no more.
  bool may_join(uint32_t left, uint32_t right) const;
  void allow_join(uint32_t left, uint32_t right);
  uint32_t hashed_bit(uint32_t left, uint32_t right) const;

  const SentencePieceModel* model_ = nullptr;
  const PieceTable* table_ = nullptr;
  PrefixMatcher user_defined_;
  // By id: lower merges first, equal scores have equal ranks; `never` for what no text becomes by merging.
  std::vector<uint32_t> rank_;
  static constexpr uint32_t never = 0xFFFFFFFF;
  uint64_t ascii_joins_[128][2] = {};   // bit `right` of row `left`
  std::vector<uint64_t> other_joins_;   // a Bloom filter with one hash, for pairs that are not both ASCII
  int other_shift_ = 0;
};

}  // namespace ern
