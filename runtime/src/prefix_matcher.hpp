// The longest of a set of strings that starts at a place in a text: user-defined pieces, and template tokens. A byte trie in one hash table.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace ern {

class PrefixMatcher {
 public:
  // `key` must not be empty; adding the same one twice keeps the later value. `value` >= 0.
  void add(std::string_view key, int32_t value);

  struct Match {
    uint32_t size = 0;  // 0: none
    int32_t value = -1;
  };
  Match longest(std::string_view text) const {
    // Most places can't start a match, and the first byte shows it.
    if (text.empty() || (root_[static_cast<unsigned char>(text[0]) / 64] >> (static_cast<unsigned char>(text[0]) % 64) & 1) == 0) return {};
    return walk(text);
  }
  bool empty() const { return count_ == 0; }

 private:
  // An edge of the trie: from `node` over a byte to `child`. Node 0 is the root; key = node * 256 + byte, shifted by one so that 0 means free.
  struct Edge {
    uint64_t key = 0;
    uint32_t child = 0;
    int32_t value = -1;  // of the string that ends at child
  };
  Match walk(std::string_view text) const;
  Edge* slot(std::vector<Edge>& table, uint64_t key);
  const Edge* find(uint64_t key) const;
  void grow();

  uint64_t root_[4] = {};
  std::vector<Edge> edges_;  // open addressing, a power of two, at most half full
  size_t count_ = 0;         // edges in use
  uint32_t nodes_ = 1;
};

}  // namespace ern
