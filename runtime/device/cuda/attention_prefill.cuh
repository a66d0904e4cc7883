// attention for any number of new tokens a sequence: out[t, h] = sum over j of softmax_j(scale * q[t, h] . k[j, g]) * v[j, g],
// g = h / (heads / kv_heads), over the cache entries 0 .. position of t. No fusion. Any arch from sm_80.
//
//   q          Bf16 [T, heads * head_dim], rotated; out: Bf16 [T, heads * head_dim]
//   kv         Bf16, this layer's part of pool block 0, layout kv_rows; block b is b * kv_block_bytes further
//   block_table  int32 [S, step->block_stride]: the blocks of each sequence in cache order
//   query_start  int32 [S + 1]: rows query_start[s] .. query_start[s + 1] - 1 of q are sequence s, the newest tokens of its cache
//   context    int32 [S]: tokens in the cache, these rows included. So row r stands at context[s] - (query_start[s + 1] - r).
//
// Launch: 128 threads; grid (ceil(T / 64), heads); attention_prefill_shared<problem>() bytes of dynamic shared memory.
// A block takes 64 rows of one head, a warp 16 of them, and goes through the sequences that the rows belong to, one after the
// other; tiles of 64 cache entries come through two buffers in shared memory (cp.async).
//   scores  S[16, 64] = Q . K^T, Q in registers, K from shared memory in permuted k (mma_block in kernel.cuh)
//   values  O[16, head_dim] += P . V, P from the scores' registers, V by ldmatrix.trans
//   shared  2 x (K [64][k_pitch], V [64][v_pitch]) Bf16; pitches keep both free of bank conflicts
// Softmax in f32 (base 2), p rounded to bf16. Reference op: attention.
#pragma once

#include "attention_decode.cuh"

namespace ern::cuda {

struct PrefillAttention {
  int heads;
  KvAppend cache;

  static constexpr int rows = 64, entries = 64, warps = 4;
  constexpr int k_pitch() const { return static_cast<int>(ceil_div(cache.head_dim, 64)) * 64 + 32; }
  constexpr int v_pitch() const { return cache.head_dim + 8; }
};

template <PrefillAttention problem>
constexpr int attention_prefill_shared() {
  return 2 * problem.entries * (problem.k_pitch() + problem.v_pitch()) * static_cast<int>(sizeof(Bf16));
}

// 16 bytes from global to shared memory; zeros where `in` is false.
ERN_DEVICE void copy_async(void* to, const void* from, bool in) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(in ? 16 : 0) : "memory");
}
ERN_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int pending>
ERN_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

ERN_DEVICE void load_transposed(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row)));
}

template <PrefillAttention problem>
ERN_DEVICE void attention_prefill(const Step* step, const Bf16* q, Bf16* kv, const int32_t* block_table, const int32_t* query_start,
                                  const int32_t* context, float scale, Bf16* out) {
  constexpr int head_dim = problem.cache.head_dim, heads = problem.heads, kv_heads = problem.cache.kv_heads;
  constexpr int block_size = problem.cache.block_size, entries = problem.entries, k_pitch = problem.k_pitch(), v_pitch = problem.v_pitch();
  constexpr int threads = problem.warps * warp_size, chunks = head_dim / 8;  // of 16 bytes in a row
  constexpr int k_blocks = static_cast<int>(ceil_div(head_dim, k_block)), n_tiles = entries / 8, d_tiles = head_dim / 8;
  static_assert(head_dim % 16 == 0 && heads % kv_heads == 0);
  extern __shared__ __align__(16) unsigned char dynamic_shared[];
  Bf16* const keys = reinterpret_cast<Bf16*>(dynamic_shared);
  Bf16* const values = keys + 2 * entries * k_pitch;

  start_dependents();
  wait_for_inputs();
  const int head = static_cast<int>(blockIdx.y), kv_head = head / (heads / kv_heads);
  const int block_first = static_cast<int>(blockIdx.x) * problem.rows;
  if (block_first >= step->tokens) return;
  const int block_last = block_first + problem.rows < step->tokens ? block_first + problem.rows : step->tokens;
  const int lane = lane_id(), warp = warp_id(), group = lane / 4, quad = lane % 4;
  const KvCache<problem.cache> cache{kv};
  const float to_base2 = scale * log2_e;
  const int row_low = block_first + warp * 16 + group, row_high = row_low + 8;

  // Rows behind the end are computed from the last and not written.
  uint4 query_low[k_blocks], query_high[k_blocks];
#pragma unroll
  for (int b = 0; b < k_blocks; ++b) {
    const int dim = b * k_block + quad * lane_k;
    const bool in = head_dim % k_block == 0 || dim < head_dim;
    const auto load = [&](int row) {
      return in ? load_fresh(q + (static_cast<int64_t>(row < block_last ? row : block_last - 1) * heads + head) * head_dim + dim)
                : uint4{0, 0, 0, 0};
    };
    query_low[b] = load(row_low), query_high[b] = load(row_high);
  }
  if constexpr (k_pitch > head_dim + 32) {  // dims that K lacks must not be NaN
    for (int i = static_cast<int>(threadIdx.x); i < 2 * entries * k_pitch; i += threads) keys[i] = __float2bfloat16_rn(0);
    __syncthreads();
  }

  for (int sequence = 0; sequence < step->sequences; ++sequence) {
    const int start = query_start[sequence], end = query_start[sequence + 1];
    if (end <= block_first || start >= block_last) continue;
    const int32_t* const table = block_table + static_cast<int64_t>(sequence) * step->block_stride;
    const int offset = context[sequence] - end;  // row r stands at r + offset
    const int last_row = (end < block_last ? end : block_last) - 1;
    const int first_row = start > block_first ? start : block_first;
    const int total = last_row + offset + 1;  // entries that the last row sees
    const int tiles = (total + entries - 1) / entries;

    const auto load_tile = [&](int tile, int buffer) {
      Bf16* const k_to = keys + buffer * entries * k_pitch;
      Bf16* const v_to = values + buffer * entries * v_pitch;
      for (int i = static_cast<int>(threadIdx.x); i < entries * chunks; i += threads) {
        const int entry = i / chunks, chunk = i % chunks, place = tile * entries + entry;
        const bool in = place < total;
        const int at = in ? place : 0;
        const int32_t slot = table[at / block_size] * block_size + at % block_size;
        copy_async(k_to + entry * k_pitch + chunk * 8, cache.key(slot, kv_head, chunk * 8), in);
        copy_async(v_to + entry * v_pitch + chunk * 8, cache.value(slot, kv_head, chunk * 8), in);
      }
      commit_copies();
    };

    float peak[2] = {-__builtin_inff(), -__builtin_inff()}, mass[2] = {0, 0};
    float acc[d_tiles][4] = {};
    load_tile(0, 0);
    for (int tile = 0; tile < tiles; ++tile) {
      if (tile + 1 < tiles) {
        load_tile(tile + 1, (tile + 1) % 2);
        wait_copies<1>();
      } else {
        wait_copies<0>();
      }
      __syncthreads();
      const Bf16* const k_tile = keys + tile % 2 * entries * k_pitch;
      const Bf16* const v_tile = values + tile % 2 * entries * v_pitch;
      float score[n_tiles][4] = {};
#pragma unroll
      for (int n = 0; n < n_tiles; ++n) {
#pragma unroll
        for (int b = 0; b < k_blocks; ++b) {
          const uint4 k = *reinterpret_cast<const uint4*>(k_tile + (n * 8 + group) * k_pitch + b * k_block + quad * lane_k);
          mma_block(score[n], query_low[b], query_high[b], k);
        }
      }
      // A row sees entries up to its own place, or nothing if it is not of this sequence.
      const int first = tile * entries;
      const bool edge = first + entries > first_row + offset + 1 || first_row > block_first || last_row + 1 < block_first + problem.rows;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = h == 0 ? row_low : row_high;
        const int seen = row >= first_row && row <= last_row ? row + offset + 1 - first : 0;
        float top = peak[h];
#pragma unroll
        for (int n = 0; n < n_tiles; ++n) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            float& s = score[n][2 * h + i];
            s *= to_base2;
            if (edge && n * 8 + 2 * quad + i >= seen) s = -__builtin_inff();
            top = fmaxf(top, s);
          }
        }
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
        const float finite = top == -__builtin_inff() ? 0 : top;
        const float shrink = exp2f(peak[h] - finite);
        peak[h] = top;
        float sum = 0;
#pragma unroll
        for (int n = 0; n < n_tiles; ++n) {
#pragma unroll
          for (int i = 0; i < 2; ++i) sum += score[n][2 * h + i] = exp2f(score[n][2 * h + i] - finite);
        }
        mass[h] = mass[h] * shrink + sum;
#pragma unroll
        for (int d = 0; d < d_tiles; ++d) acc[d][2 * h] *= shrink, acc[d][2 * h + 1] *= shrink;
      }
#pragma unroll
      for (int n = 0; n < n_tiles; n += 2) {
        const uint32_t a0 = pack_bf16(score[n][0], score[n][1]), a1 = pack_bf16(score[n][2], score[n][3]);
        const uint32_t a2 = pack_bf16(score[n + 1][0], score[n + 1][1]), a3 = pack_bf16(score[n + 1][2], score[n + 1][3]);
#pragma unroll
        for (int d = 0; d < d_tiles; d += 2) {
          uint32_t v[4];  // entries 0 .. 7 and 8 .. 15 of dims d, then of dims d + 8
          load_transposed(v, v_tile + (n * 8 + lane % 16) * v_pitch + d * 8 + lane / 16 * 8);
          mma(acc[d], a0, a1, a2, a3, v[0], v[1]);
          mma(acc[d + 1], a0, a1, a2, a3, v[2], v[3]);
        }
      }
      __syncthreads();
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = h == 0 ? row_low : row_high;
      mass[h] += __shfl_xor_sync(~0u, mass[h], 1);
      mass[h] += __shfl_xor_sync(~0u, mass[h], 2);
      if (row < first_row || row > last_row) continue;
      uint32_t* const to = reinterpret_cast<uint32_t*>(out + (static_cast<int64_t>(row) * heads + head) * head_dim);
#pragma unroll
      for (int d = 0; d < d_tiles; ++d) to[d * 4 + quad] = pack_bf16(acc[d][2 * h] / mass[h], acc[d][2 * h + 1] / mass[h]);
    }
  }
}

}  // namespace ern::cuda
