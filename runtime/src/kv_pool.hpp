// The KV cache as blocks of a fixed number of tokens: who holds which block, and which blocks hold a prefix that may be
// used again. Knows tokens and memory, nothing of sequences or of what is in a block.
//
// A block is *held* (references > 0), *cached* (no references, but its contents are published) or *empty*. Held blocks
// are written only by the one sequence that allocated them, and only past what was published; so whoever shares a block
// shares what never changes again.
//
// Published blocks form a tree: a block's parent is the block of the tokens before it. A node is named by a serial
// number that is never used again, and a child is found by (serial of the parent, its own tokens), compared token by
// token: equal nodes mean equal prefixes from the first token on, whatever the hash does. For the engine's thread
// alone.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <unordered_map>
#include <vector>

#include "memory.hpp"
#include "status.hpp"

namespace ern {

class KvPool {
 public:
  static constexpr uint64_t root = 0;  // the serial number of the empty prefix

  // `bytes` of each block. Memory is reserved, not touched.
  static Result<KvPool> create(int32_t blocks, int32_t block_size, uint64_t block_bytes);
  // The account alone, for blocks that lie elsewhere: `copy(to, from)` copies one there.
  static KvPool over(int32_t blocks, int32_t block_size, std::function<void(int32_t to, int32_t from)> copy);

  std::byte* base() const { return memory_.data(); }
  int32_t block_size() const { return block_size_; }
  int32_t blocks() const { return static_cast<int32_t>(blocks_.size()); }
  // Blocks that allocate() can give: empty and cached ones.
  int32_t free_blocks() const { return static_cast<int32_t>(empty_.size()) + cached_; }
  int32_t cached_blocks() const { return cached_; }

  // A block with one reference, -1 if all are held. Empty ones first; then the cached one that was not used for longest
  // is forgotten.
  int32_t allocate();
  void retain(int32_t block);
  // The last reference makes it cached or empty. Release the blocks of a sequence from the last to the first, so that a
  // prefix outlives what follows it.
  void release(int32_t block);

  // A block whose tokens are all computed, under the node of the tokens before it. Gives the serial of the node for
  // these tokens, which is another block's if one was published before: then this block stays as it is.
  uint64_t publish(int32_t block, uint64_t parent, std::span<const int32_t> tokens);
  // The same for a last block that is not full, when its sequence is about to release it.
  void publish_partial(int32_t block, uint64_t parent, std::span<const int32_t> tokens);

  struct Match {
    std::vector<int32_t> blocks;    // each with a reference for the caller
    std::vector<uint64_t> serials;  // of the whole blocks among them
    int64_t tokens = 0;             // computed tokens that they hold
  };
  // The longest cached prefix of `tokens` in whole blocks, at most `limit` tokens of it. These blocks are shared.
  Match match(std::span<const int32_t> tokens, int64_t limit);
  // Goes on from what `match` gave for the same arguments: the block that continues furthest is copied, since the
  // sequence will write behind what agrees.
  void match_partly(std::span<const int32_t> tokens, int64_t limit, Match& match);

 private:
  struct Block {
    int32_t references = 0;
    int32_t filled = 0;          // published tokens; 0: not published
    uint64_t serial = 0;         // of the node; 0 for partial blocks, which have no children
    uint64_t parent = 0;
    uint64_t key = 0;            // in by_tokens_
    int32_t newer = -1, older = -1;        // neighbours among the cached blocks
    int32_t next_child = -1, previous_child = -1;  // neighbours among the children of `parent`
  };

  KvPool() = default;
  std::span<const int32_t> tokens_of(int32_t block) const {
    return {tokens_.data() + static_cast<size_t>(block) * block_size_, static_cast<size_t>(blocks_[block].filled)};
  }
  void put_under(int32_t block, uint64_t parent, std::span<const int32_t> tokens);
  void forget(int32_t block);
  void cache(int32_t block);
  void uncache(int32_t block);

  Mapping memory_;
  std::function<void(int32_t to, int32_t from)> copy_;
  int32_t block_size_ = 0;
  std::vector<Block> blocks_;
  std::vector<int32_t> tokens_;  // [blocks, block_size]: what is published
  std::vector<int32_t> empty_;   // taken from the back; low numbers last, so memory is touched from the start
  int32_t oldest_ = -1, newest_ = -1, cached_ = 0;
  uint64_t last_serial_ = root;
  std::unordered_map<uint64_t, int32_t> by_tokens_;    // hash of (parent, tokens) -> whole block
  std::unordered_map<uint64_t, int32_t> first_child_;  // serial -> the child published last
};

}  // namespace ern
