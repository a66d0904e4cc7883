#include "kv_pool.hpp"

#include <algorithm>
#include <cstring>
#include <new>

#include "random.hpp"

namespace ern {
namespace {

// Candidates looked at for a partial continuation: the most recent ones, so a lookup stays short however many prompts
// begin alike.
constexpr int most_candidates = 64;

uint64_t hash_tokens(uint64_t parent, std::span<const int32_t> tokens) {
  uint64_t hash = mix64(parent + 0x9E3779B97F4A7C15u);
  for (const int32_t token : tokens) hash = mix64(hash ^ static_cast<uint32_t>(token));
  return hash;
}

int64_t common_prefix(std::span<const int32_t> a, std::span<const int32_t> b) {
  const size_t size = std::min(a.size(), b.size());
  size_t i = 0;
  while (i < size && a[i] == b[i]) ++i;
  return static_cast<int64_t>(i);
}

}  // namespace

Result<KvPool> KvPool::create(int32_t blocks, int32_t block_size, uint64_t block_bytes) {
  if (block_bytes > (uint64_t{1} << 47) / static_cast<uint64_t>(blocks))
    return Status{Code::out_of_memory, "KV cache: more than an address space"};
  // Pages come as they are used, so nothing else would say that they can't all come.
  const uint64_t bytes = block_bytes * static_cast<uint64_t>(blocks), room = available_memory();
  if (bytes > room) {
    return Status{Code::out_of_memory, "the KV cache takes " + std::to_string(bytes >> 20) +
                                           " MiB, and this process can take " + std::to_string(room >> 20) + " MiB"};
  }
  auto memory = Mapping::anonymous(bytes, "KV cache");
  if (!memory.ok()) return memory.status();
  std::byte* const base = memory.value().data();
  KvPool pool = over(blocks, block_size, [base, block_bytes](int32_t to, int32_t from) {
    std::memcpy(base + static_cast<uint64_t>(to) * block_bytes, base + static_cast<uint64_t>(from) * block_bytes, block_bytes);
  });
  pool.memory_ = std::move(memory.value());
  return pool;
}

KvPool KvPool::over(int32_t blocks, int32_t block_size, std::function<void(int32_t to, int32_t from)> copy) {
  KvPool pool;
  pool.copy_ = std::move(copy);
  pool.block_size_ = block_size;
  pool.blocks_.resize(static_cast<size_t>(blocks));
  pool.tokens_.resize(static_cast<size_t>(blocks) * static_cast<size_t>(block_size));
  // With these nothing is allocated on the way of a step but the nodes of the two tables.
  pool.empty_.reserve(static_cast<size_t>(blocks));
  pool.by_tokens_.reserve(static_cast<size_t>(blocks));
  pool.first_child_.reserve(static_cast<size_t>(blocks));
  for (int32_t block = blocks - 1; block >= 0; --block) pool.empty_.push_back(block);
  return pool;
}

int32_t KvPool::allocate() {
  int32_t block = -1;
  if (!empty_.empty()) {
    block = empty_.back();
    empty_.pop_back();
  } else if (oldest_ >= 0) {
    block = oldest_;
    uncache(block);
    forget(block);
  } else {
    return -1;
  }
  blocks_[block].references = 1;
  return block;
}

void KvPool::retain(int32_t block) {
  if (blocks_[block].references++ == 0) uncache(block);
}

void KvPool::release(int32_t block) {
  if (--blocks_[block].references > 0) return;
  if (blocks_[block].filled > 0) cache(block);
  else empty_.push_back(block);
}

uint64_t KvPool::publish(int32_t block, uint64_t parent, std::span<const int32_t> tokens) {
  const uint64_t key = hash_tokens(parent, tokens);
  const auto [entry, added] = by_tokens_.try_emplace(key, block);
  if (!added) {
    const Block& other = blocks_[entry->second];
    if (other.parent == parent && std::ranges::equal(tokens_of(entry->second), tokens)) return other.serial;
    // Two prefixes of one hash. The newer one takes the place; the older one can't be found as a whole block any more,
    // but is otherwise as it was.
    entry->second = block;
  }
  put_under(block, parent, tokens);
  blocks_[block].key = key;
  return blocks_[block].serial = ++last_serial_;
}

void KvPool::publish_partial(int32_t block, uint64_t parent, std::span<const int32_t> tokens) {
  int candidates = 0;
  const auto first = first_child_.find(parent);
  for (int32_t child = first == first_child_.end() ? -1 : first->second; child >= 0 && candidates < most_candidates;
       child = blocks_[child].next_child, ++candidates) {
    if (common_prefix(tokens_of(child), tokens) == static_cast<int64_t>(tokens.size()))
      return;  // all of it can be had from there
  }
  try {
    put_under(block, parent, tokens);
  } catch (const std::bad_alloc&) {
    // A prefix less to find: no harm, and the caller is about to free memory.
  }
}

void KvPool::put_under(int32_t block, uint64_t parent, std::span<const int32_t> tokens) {
  const auto entry = first_child_.try_emplace(parent, -1).first;
  Block& node = blocks_[block];
  node.parent = parent;
  node.filled = static_cast<int32_t>(tokens.size());
  std::ranges::copy(tokens, tokens_.begin() + static_cast<int64_t>(block) * block_size_);
  node.previous_child = -1;
  node.next_child = entry->second;
  if (node.next_child >= 0) blocks_[node.next_child].previous_child = block;
  entry->second = block;
}

// Takes a block out of the tree. Its children can't be found from here on; they age and are forgotten in turn.
void KvPool::forget(int32_t block) {
  Block& node = blocks_[block];
  if (node.serial != 0) {
    const auto entry = by_tokens_.find(node.key);
    if (entry != by_tokens_.end() && entry->second == block) by_tokens_.erase(entry);
  }
  if (node.next_child >= 0) blocks_[node.next_child].previous_child = node.previous_child;
  if (node.previous_child >= 0) {
    blocks_[node.previous_child].next_child = node.next_child;
  } else if (node.next_child >= 0) {
    first_child_[node.parent] = node.next_child;
  } else {
    first_child_.erase(node.parent);
  }
  node = Block{};
}

void KvPool::cache(int32_t block) {
  Block& node = blocks_[block];
  node.older = newest_;
  node.newer = -1;
  (newest_ >= 0 ? blocks_[newest_].newer : oldest_) = block;
  newest_ = block;
  ++cached_;
}

void KvPool::uncache(int32_t block) {
  Block& node = blocks_[block];
  (node.newer >= 0 ? blocks_[node.newer].older : newest_) = node.older;
  (node.older >= 0 ? blocks_[node.older].newer : oldest_) = node.newer;
  node.newer = node.older = -1;
  --cached_;
}

KvPool::Match KvPool::match(std::span<const int32_t> tokens, int64_t limit) {
  Match match;
  limit = std::min(limit, static_cast<int64_t>(tokens.size()));
  match.blocks.reserve(static_cast<size_t>(limit / block_size_ + 1));
  match.serials.reserve(match.blocks.capacity());
  uint64_t parent = root;
  while (match.tokens + block_size_ <= limit) {
    const auto part = tokens.subspan(static_cast<size_t>(match.tokens), static_cast<size_t>(block_size_));
    const auto entry = by_tokens_.find(hash_tokens(parent, part));
    if (entry == by_tokens_.end()) break;
    const int32_t block = entry->second;
    if (blocks_[block].parent != parent || !std::ranges::equal(tokens_of(block), part)) break;
    retain(block);
    parent = blocks_[block].serial;
    match.blocks.push_back(block);
    match.serials.push_back(parent);
    match.tokens += block_size_;
  }
  return match;
}

void KvPool::match_partly(std::span<const int32_t> tokens, int64_t limit, Match& match) {
  const int64_t rest =
      std::min({limit - match.tokens, static_cast<int64_t>(tokens.size()) - match.tokens, int64_t{block_size_}});
  if (rest <= 0) return;
  tokens = tokens.subspan(static_cast<size_t>(match.tokens), static_cast<size_t>(rest));
  const uint64_t parent = match.serials.empty() ? root : match.serials.back();
  const auto first = first_child_.find(parent);
  if (first == first_child_.end()) return;
  int32_t best = -1;
  int64_t longest = 0;
  int candidates = 0;
  for (int32_t child = first->second; child >= 0 && candidates < most_candidates;
       child = blocks_[child].next_child, ++candidates) {
    const int64_t common = common_prefix(tokens_of(child), tokens);
    if (common > longest) longest = common, best = child;
  }
  if (best < 0) return;
  retain(best);  // or allocate() might take this very block
  const int32_t copy = allocate();
  if (copy >= 0) {
    copy_(copy, best);
    match.blocks.push_back(copy);
    match.tokens += longest;
  }
  release(best);
}

}  // namespace ern
