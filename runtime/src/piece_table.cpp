#include "piece_table.hpp"

#include <algorithm>
#include <bit>
#include <string>

namespace ern {

Status PieceTable::build(const SentencePieceModel& model) {
  pieces_ = model.pieces.data();
  text_ = model.text.data();
  const size_t capacity = std::bit_ceil(std::max<size_t>(model.pieces.size() * 2 + 1, 16));
  slots_.assign(capacity, Slot());
  mask_ = capacity - 1;
  shift_ = 64 - std::countr_zero(capacity);
  longest_ = 0;
  // Honest pieces need under two steps each. A file whose pieces were made to collide would cost their square; it is refused instead.
  uint64_t steps_left = 1024 + 64 * static_cast<uint64_t>(model.pieces.size());
  for (size_t id = 0; id < model.pieces.size(); id++) {
    const std::string_view text = model.spelling(id);
    longest_ = std::max(longest_, text.size());
    const uint64_t hash = hash_bytes(text.data(), text.size());
    uint64_t i = hash >> shift_;
    for (; slots_[i].id >= 0; i = (i + 1) & mask_) {
      if (steps_left-- == 0) return {Code::corrupt, "tokenizer.model: its pieces are made to collide"};
      if (slots_[i].tag == static_cast<uint32_t>(hash) && model.spelling(static_cast<size_t>(slots_[i].id)) == text) {
        return {Code::corrupt, "tokenizer.model: pieces " + std::to_string(slots_[i].id) + " and " + std::to_string(id) + " are the same"};
      }
    }
    slots_[i] = {static_cast<uint32_t>(hash), static_cast<int32_t>(id)};
  }
  return {};
}

}  // namespace ern
