#include "prefix_matcher.hpp"

namespace ern {
namespace {

uint64_t key_of(uint32_t node, char byte) { return ((static_cast<uint64_t>(node) << 8) | static_cast<unsigned char>(byte)) + 1; }

size_t place(uint64_t key, size_t capacity) { return static_cast<size_t>((key * 0x9E3779B97F4A7C15u) >> 32) & (capacity - 1); }

}  // namespace

// The edge with this key, or the free slot where it belongs.
PrefixMatcher::Edge* PrefixMatcher::slot(std::vector<Edge>& table, uint64_t key) {
  size_t i = place(key, table.size());
  while (table[i].key != 0 && table[i].key != key) i = (i + 1) & (table.size() - 1);
  return &table[i];
}

const PrefixMatcher::Edge* PrefixMatcher::find(uint64_t key) const {
  for (size_t i = place(key, edges_.size()); edges_[i].key != 0; i = (i + 1) & (edges_.size() - 1)) {
    if (edges_[i].key == key) return &edges_[i];
  }
  return nullptr;
}

void PrefixMatcher::grow() {
  std::vector<Edge> wider(edges_.empty() ? 64 : edges_.size() * 2);
  for (const Edge& edge : edges_) {
    if (edge.key != 0) *slot(wider, edge.key) = edge;
  }
  edges_ = std::move(wider);
}

void PrefixMatcher::add(std::string_view key, int32_t value) {
  const auto first = static_cast<unsigned char>(key[0]);
  root_[first / 64] |= uint64_t{1} << (first % 64);
  uint32_t node = 0;
  for (size_t i = 0; i < key.size(); i++) {
    if (count_ * 2 >= edges_.size()) grow();
    Edge* edge = slot(edges_, key_of(node, key[i]));
    if (edge->key == 0) {
      *edge = {key_of(node, key[i]), nodes_++, -1};
      count_++;
    }
    if (i + 1 == key.size()) edge->value = value;
    node = edge->child;
  }
}

PrefixMatcher::Match PrefixMatcher::walk(std::string_view text) const {
  Match best;
  uint32_t node = 0;
  for (size_t i = 0; i < text.size(); i++) {
    const Edge* edge = find(key_of(node, text[i]));
    if (edge == nullptr) break;
    if (edge->value >= 0) best = {static_cast<uint32_t>(i + 1), edge->value};
    node = edge->child;
  }
  return best;
}

}  // namespace ern
