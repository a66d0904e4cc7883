// The KV cache of one layer in one block of `BlockSize` tokens: where each element of K and V lies, and which element
// lies where. Only index arithmetic lives here: what a pool block is made of (all layers, one after the other) is the
// plan's, which block a token is in is the block table's.
//
//   K part, then V part, counted in elements:
//     K  [kv_head][head_dim / Pack][block_size][Pack]    Pack = 2 for bf16, 1 for f32
//     V  [kv_head][block_size][head_dim]
//
// K is laid out for q.k: 16 tokens side by side make one vector, and with Pack = 2 each 32-bit lane holds two
// consecutive dims of one token, which is what vdpbf16ps multiplies. V is laid out for p.v: the dims of one token side
// by side. Both parts of one head are contiguous, so a worker that owns a head reads two streams.
#pragma once

#include <cstdint>

namespace ern::layout {
namespace {  // internal linkage: kernels are compiled for other instruction sets than the rest (see cpu/kernel.hpp)

struct KvPlace {
  bool is_value;  // false: in K
  int kv_head;
  int token;  // within the block
  int dim;
};

template <int KvHeads, int HeadDim, int BlockSize, int Pack>
struct KvBlock {
  static_assert(KvHeads > 0 && HeadDim > 0 && BlockSize > 0);
  static_assert(BlockSize % 16 == 0, "a vector of K is 16 tokens of one block");
  static_assert((Pack == 1 || Pack == 2) && HeadDim % Pack == 0);

  static constexpr int64_t head_elements = int64_t{BlockSize} * HeadDim;
  static constexpr int64_t value_start = KvHeads * head_elements;  // V begins here
  static constexpr int64_t elements = 2 * value_start;             // of one layer in one block
  static constexpr int64_t bytes = elements * (Pack == 2 ? 2 : 4);

  static constexpr int64_t key(int kv_head, int token, int dim) {
    return kv_head * head_elements + (int64_t{dim / Pack} * BlockSize + token) * Pack + dim % Pack;
  }

  static constexpr int64_t value(int kv_head, int token, int dim) {
    return value_start + kv_head * head_elements + int64_t{token} * HeadDim + dim;
  }

  static constexpr KvPlace at(int64_t offset) {
    const bool is_value = offset >= value_start;
    const int64_t in_part = is_value ? offset - value_start : offset;
    const int kv_head = static_cast<int>(in_part / head_elements);
    const int in_head = static_cast<int>(in_part % head_elements);
    if (is_value) return {true, kv_head, in_head / HeadDim, in_head % HeadDim};
    const int lane = in_head / Pack;  // [head_dim / Pack][block_size]
    return {false, kv_head, lane % BlockSize, lane / BlockSize * Pack + in_head % Pack};
  }
};

}  // namespace
}  // namespace ern::layout
