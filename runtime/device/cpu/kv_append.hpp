// op         kv_append: writes K and V of new tokens into the paged cache; no fusion
// k, v       In [rows, .]: kv_heads * head_dim columns, rows k_stride and v_stride apart; In is float or Bf16
// slots      int32 [rows]: block * block_size + offset of each token
// kv         KV: this layer's part of pool block 0, layout kv_block; block b lies b * kv_block_bytes further; float, or
//            Bf16 rounded to nearest even
// work       (token, kv head), contiguous
// reference  src/reference kv_append
//
// Also here: how one head of one token is written, which rope_kv_append.hpp shares.
#pragma once

#include <cstdint>
#include <cstring>

#include "../layout/kv_block.hpp"
#include "kernel.hpp"
#include "simd.hpp"

namespace ern::cpu {
namespace {

// One layer's cache as tokens are written to it.
template <int kv_heads, int head_dim, int block_size, class KV>
struct KvWriter {
  static constexpr int pack = sizeof(KV) == 2 ? 2 : 1;
  using Block = layout::KvBlock<kv_heads, head_dim, block_size, pack>;
  static_assert(head_dim % 16 == 0);

  KV* layer;
  int64_t block_bytes;

  ERN_INLINE KV* block(int32_t slot) const {
    return reinterpret_cast<KV*>(reinterpret_cast<char*>(layer) + slot / block_size * block_bytes);
  }

  // Dims lie block_size apart: each 32-bit word, a pair of bf16 or an f32, goes to a line of its own.
  ERN_INLINE void key(int32_t slot, int kv_head, const KV* from) const {
    KV* to = block(slot) + Block::key(kv_head, slot % block_size, 0);
    for (int dim = 0; dim < head_dim; dim += pack) std::memcpy(to + int64_t{dim} * block_size, from + dim, 4);
  }

  template <class In>
  ERN_INLINE void value(int32_t slot, int kv_head, const In* from) const {
    KV* to = block(slot) + Block::value(kv_head, slot % block_size, 0);
    for (int dim = 0; dim < head_dim; dim += lanes) store(to + dim, load(from + dim));
  }
};

struct KvAppend {
  int kv_heads;
  int head_dim;  // a multiple of 16
  int block_size;
  int64_t kv_block_bytes;
  int64_t k_stride;
  int64_t v_stride;
};

template <KvAppend problem, class In, class KV>
void kv_append(int rows, const In* k, const In* v, const int32_t* slots, KV* kv, Team& team) {
  const KvWriter<problem.kv_heads, problem.head_dim, problem.block_size, KV> writer{kv, problem.kv_block_bytes};
  const Range mine = share(int64_t{rows} * problem.kv_heads, team);
  for (int64_t i = mine.begin; i < mine.end; ++i) {
    const int64_t token = i / problem.kv_heads;
    const int head = static_cast<int>(i % problem.kv_heads);
    const In* from = k + token * problem.k_stride + head * problem.head_dim;
    alignas(64) KV key[problem.head_dim];
    for (int dim = 0; dim < problem.head_dim; dim += lanes) store(key + dim, load(from + dim));
    writer.key(slots[token], head, key);
    writer.value(slots[token], head, v + token * problem.v_stride + head * problem.head_dim);
  }
}

}  // namespace
}  // namespace ern::cpu
