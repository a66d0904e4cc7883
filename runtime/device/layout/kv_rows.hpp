// The KV cache of one layer in one block of `BlockSize` tokens, as the CUDA kernels read it: K, then V, each
//   [kv_head][block_size][head_dim]
// so that a token's head is one run of bytes and both are read alike (the CPU's form is in kv_block.hpp). Only index arithmetic lives
// here: what a pool block is made of (all layers, one after the other) is the plan's, which block a token is in the block table's.
#pragma once

#include <cstdint>

namespace ern::layout {

template <int KvHeads, int HeadDim, int BlockSize>
struct KvRows {
  static constexpr int64_t head_elements = int64_t{BlockSize} * HeadDim;
  static constexpr int64_t value_start = KvHeads * head_elements;  // V begins here
  static constexpr int64_t elements = 2 * value_start;             // of one layer in one block

  static constexpr int64_t key(int kv_head, int token, int dim) {
    return kv_head * head_elements + int64_t{token} * HeadDim + dim;
  }
  static constexpr int64_t value(int kv_head, int token, int dim) { return value_start + key(kv_head, token, dim); }
};

}  // namespace ern::layout
