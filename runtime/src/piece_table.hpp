// From a piece's text to its id: one flat hash table whose entries point into SentencePieceModel::text. No string is copied and nothing is
// allocated per piece, which is most of why 100 000 of them load in a few milliseconds.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "sentencepiece.hpp"
#include "status.hpp"

namespace ern {

// 64 bits from a short string: 16 bytes at a time, folded through a full 64 x 64 multiplication. Not for secrets, nor against an adversary: the
// table is bounded in another way (see build).
inline uint64_t hash_bytes(const char* p, size_t n) {
  __extension__ using uint128 = unsigned __int128;
  const auto fold = [](uint64_t a, uint64_t b) {
    const uint128 product = static_cast<uint128>(a ^ 0x9E3779B97F4A7C15u) * (b ^ 0xD1B54A32D192ED03u);
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  };
  const auto load8 = [](const char* q) { uint64_t v; std::memcpy(&v, q, 8); return v; };
  const auto load4 = [](const char* q) { uint32_t v; std::memcpy(&v, q, 4); return static_cast<uint64_t>(v); };
  uint64_t seed = n;
  for (; n > 16; p += 16, n -= 16) seed = fold(seed ^ load8(p), load8(p + 8));
  if (n >= 8) return fold(seed ^ load8(p), load8(p + n - 8));
  if (n >= 4) return fold(seed ^ load4(p), load4(p + n - 4));
  if (n == 0) return fold(seed, 0);
  const auto byte = [p](size_t i) { return static_cast<uint64_t>(static_cast<unsigned char>(p[i])); };
  return fold(seed ^ (byte(0) | byte(n / 2) << 8 | byte(n - 1) << 16), 0);
}

class PieceTable {
 public:
  // Fails with `corrupt` if two pieces read the same. The model must outlive the table and stay where it is.
  Status build(const SentencePieceModel& model);

  // The id of the piece of any type that reads so, or -1.
  int32_t find(std::string_view text) const {
    if (text.size() > longest_) return -1;
    const uint64_t hash = hash_bytes(text.data(), text.size());
    for (uint64_t i = hash >> shift_;; i = (i + 1) & mask_) {
      const Slot& slot = slots_[i];
      if (slot.id < 0) return -1;
      if (slot.tag != static_cast<uint32_t>(hash)) continue;
      const Piece& piece = pieces_[slot.id];
      if (piece.size == text.size() && std::memcmp(text_ + piece.at, text.data(), text.size()) == 0) return slot.id;
    }
  }
  size_t longest() const { return longest_; }

 private:
  struct Slot {
    uint32_t tag = 0;  // low half of the hash; the place comes from its top bits
    int32_t id = -1;   // -1: free
  };
  std::vector<Slot> slots_;  // a power of two, under half full, so a search always ends
  const Piece* pieces_ = nullptr;
  const char* text_ = nullptr;
  uint64_t mask_ = 0;
  int shift_ = 0;
  size_t longest_ = 0;  // bytes
};

}  // namespace ern
