// op         rope_kv_append: rope on q and k (rope.hpp), then k and v into the paged cache (kv_append.hpp). Fuses two
//            ropes and the append: a token's angles are computed once, and rotated keys never pass through memory.
// q, k, v    float [rows, .]: heads * head_dim columns of q, kv_heads * head_dim of k and of v; rows q_stride, k_stride
//            and v_stride apart. Of a fused projection [rows, (heads + 2 kv_heads) * head_dim] they are three pointers.
// positions  int32 [rows, 3]: t, h, w; slots int32 [rows]: block * block_size + offset
// q_out      Q [rows, heads * head_dim], float or Bf16
// kv         KV: this layer's part of pool block 0, layout kv_block; block b is b * kv_block_bytes further; float, Bf16
// work       (token, kv head with the query heads that share it), contiguous
// accumulate as rope
// reference  src/reference rope, kv_append
#pragma once

#include "kv_append.hpp"
#include "rope.hpp"

namespace ern::cpu {
namespace {

struct RopeKvAppend {
  int heads;
  int kv_heads;
  int head_dim;  // a multiple of 16
  int block_size;
  int64_t kv_block_bytes;
  int64_t q_stride;
  int64_t k_stride;
  int64_t v_stride;
  int spatial_pairs = 0;  // see rope_coordinate
};

template <RopeKvAppend problem, class Q, class KV>
void rope_kv_append(int rows, const float* q, const float* k, const float* v, const int32_t* positions,
                    const int32_t* slots, const RopeFrequencies<problem.head_dim>& frequencies, Q* q_out, KV* kv,
                    Team& team) {
  constexpr int head_dim = problem.head_dim, group = problem.heads / problem.kv_heads;
  static_assert(problem.heads % problem.kv_heads == 0);
  const KvWriter<problem.kv_heads, head_dim, problem.block_size, KV> writer{kv, problem.kv_block_bytes};
  Rotation<head_dim> rotation;
  for_each_rotated(rows, problem.kv_heads, positions, frequencies, problem.spatial_pairs, rotation, team,
                   [&](int64_t token, int head) {
                     for (int i = head * group; i < (head + 1) * group; ++i) {
                       rotation.turn(q + token * problem.q_stride + i * head_dim,
                                     q_out + (token * problem.heads + i) * head_dim);
                     }
                     alignas(64) KV key[head_dim];
                     rotation.turn(k + token * problem.k_stride + head * head_dim, key);
                     writer.key(slots[token], head, key);
                     writer.value(slots[token], head, v + token * problem.v_stride + head * head_dim);
                   });
}

}  // namespace
}  // namespace ern::cpu
