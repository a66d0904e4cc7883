// The KV pool against a plain account of who holds what: random work, with every invariant checked after each step; and
// the rules of reuse one by one.
#include <cstring>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include "check.hpp"
#include "kv_pool.hpp"

using namespace ern;

namespace {

constexpr int32_t size = 4;

KvPool make(int32_t blocks) {
  auto pool = KvPool::create(blocks, size, 64);
  if (!pool.ok()) std::exit(2);
  return std::move(pool.value());
}

std::vector<int32_t> range(int32_t begin, int32_t count) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), begin);
  return tokens;
}

// A sequence that computed all of `tokens` and lets go.
void put(KvPool& pool, const std::vector<int32_t>& tokens) {
  KvPool::Match match = pool.match(tokens, static_cast<int64_t>(tokens.size()));
  std::vector<int32_t> blocks = match.blocks;
  std::vector<uint64_t> serials = match.serials;
  for (size_t at = blocks.size() * size; at < tokens.size(); at += size) {
    const int32_t block = pool.allocate();
    CHECK(block >= 0);
    blocks.push_back(block);
    const size_t count = std::min<size_t>(size, tokens.size() - at);
    const std::span<const int32_t> part(tokens.data() + at, count);
    // Contents that say what they are.
    std::memcpy(pool.base() + block * 64, part.data(), count * 4);
    const uint64_t parent = serials.empty() ? KvPool::root : serials.back();
    if (count == size) serials.push_back(pool.publish(block, parent, part));
    else pool.publish_partial(block, parent, part);
  }
  for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) pool.release(*block);
}

// What is found of `tokens`, whole blocks and the part after them; and that it holds these very tokens.
int64_t found(KvPool& pool, const std::vector<int32_t>& tokens, int64_t limit = 1000) {
  KvPool::Match match = pool.match(tokens, limit);
  pool.match_partly(tokens, limit, match);
  for (int64_t i = 0; i < match.tokens; ++i) {
    int32_t stored;
    std::memcpy(&stored, pool.base() + match.blocks[static_cast<size_t>(i / size)] * 64 + i % size * 4, 4);
    CHECK_EQUAL(stored, tokens[static_cast<size_t>(i)]);
  }
  for (auto block = match.blocks.rbegin(); block != match.blocks.rend(); ++block) pool.release(*block);
  return match.tokens;
}

void reuse() {
  KvPool pool = make(16);
  CHECK_EQUAL(found(pool, range(0, 20)), 0);
  put(pool, range(0, 10));
  CHECK_EQUAL(pool.free_blocks(), 16);
  CHECK_EQUAL(pool.cached_blocks(), 3);
  CHECK_EQUAL(found(pool, range(0, 20)), 10);
  CHECK_EQUAL(found(pool, range(0, 10)), 10);
  CHECK_EQUAL(found(pool, range(0, 10), 9), 9);
  CHECK_EQUAL(found(pool, range(0, 10), 8), 8);
  CHECK_EQUAL(found(pool, range(0, 10), 7), 7);  // a whole block, and a part of the next one copied
  CHECK_EQUAL(found(pool, range(0, 6)), 6);
  CHECK_EQUAL(found(pool, range(1, 10)), 0);     // the same tokens one place on are not the same prefix
  auto other = range(0, 10);
  other[5] = 99;
  CHECK_EQUAL(found(pool, other), 5);
  other[0] = 99;
  CHECK_EQUAL(found(pool, other), 0);
  // The same contents under another parent are another node.
  std::vector<int32_t> twice = range(50, 4);
  const auto tail = range(4, 4);
  twice.insert(twice.end(), tail.begin(), tail.end());
  CHECK_EQUAL(found(pool, twice), 0);
  put(pool, twice);
  CHECK_EQUAL(found(pool, twice), 8);
  CHECK_EQUAL(found(pool, range(0, 10)), 10);
}

void age() {
  KvPool pool = make(6);
  put(pool, range(0, 12));    // 3 blocks
  put(pool, range(100, 12));  // 3 blocks
  CHECK_EQUAL(pool.cached_blocks(), 6);
  CHECK_EQUAL(found(pool, range(0, 12)), 12);  // used: younger than the other now
  std::vector<int32_t> held;
  for (int i = 0; i < 3; ++i) held.push_back(pool.allocate());
  CHECK_EQUAL(found(pool, range(0, 12)), 12);
  CHECK_EQUAL(found(pool, range(100, 12)), 0);
  held.push_back(pool.allocate());
  CHECK_EQUAL(found(pool, range(0, 12)), 8);  // the end of a prefix goes before its start
  held.push_back(pool.allocate());
  held.push_back(pool.allocate());
  CHECK_EQUAL(pool.allocate(), -1);
  CHECK_EQUAL(pool.free_blocks(), 0);
  for (const int32_t block : held) pool.release(block);
  CHECK_EQUAL(pool.free_blocks(), 6);
  CHECK_EQUAL(pool.cached_blocks(), 0);
}

void sharing() {
  KvPool pool = make(4);
  put(pool, range(0, 8));
  const KvPool::Match first = pool.match(range(0, 8), 8), second = pool.match(range(0, 8), 8);
  CHECK_EQUAL(first.blocks, second.blocks);
  CHECK_EQUAL(pool.free_blocks(), 2);
  for (const int32_t block : first.blocks) pool.release(block);
  CHECK_EQUAL(pool.free_blocks(), 2);
  for (const int32_t block : second.blocks) pool.release(block);
  CHECK_EQUAL(pool.free_blocks(), 4);
  // Two that compute the same at once: the second one's block stays its own, and goes back empty.
  const int32_t a = pool.allocate(), b = pool.allocate();
  const auto tokens = range(30, 4);
  const uint64_t serial = pool.publish(a, KvPool::root, tokens);
  CHECK_EQUAL(pool.publish(b, KvPool::root, tokens), serial);
  pool.release(b);
  pool.release(a);
  CHECK_EQUAL(pool.free_blocks(), 4);
  CHECK_EQUAL(pool.cached_blocks(), 3);
}

void random_work() {
  std::mt19937 random(1);
  KvPool pool = make(24);
  std::map<int32_t, int> held;  // block -> references
  for (int step = 0; step < 20000; ++step) {
    switch (random() % 4) {
      case 0: {
        const int32_t block = pool.allocate();
        CHECK_EQUAL(block < 0, held.size() == 24);
        if (block >= 0) {
          CHECK(!held.contains(block));
          held[block] = 1;
        }
        break;
      }
      case 1:
        if (held.empty()) break;
        {
          auto it = std::next(held.begin(), static_cast<ptrdiff_t>(random() % held.size()));
          if (random() % 3 == 0) {
            pool.retain(it->first);
            ++it->second;
          } else {
            pool.release(it->first);
            if (--it->second == 0) held.erase(it);
          }
        }
        break;
      default: {
        // Few distinct tokens, so that prefixes meet.
        std::vector<int32_t> tokens(1 + random() % 14);
        for (int32_t& token : tokens) token = static_cast<int32_t>(random() % 2);
        if (pool.free_blocks() >= 4) put(pool, tokens);
        if (pool.free_blocks() >= 1) found(pool, tokens, static_cast<int64_t>(random() % 15));
      }
    }
    CHECK_EQUAL(pool.free_blocks(), 24 - static_cast<int32_t>(held.size()));
    CHECK(pool.cached_blocks() <= pool.free_blocks());
  }
}

}  // namespace

int main() {
  reuse();
  age();
  sharing();
  random_work();
  return check::result();
}
