// attention where each sequence has one new token: out[s, h] = sum over j of softmax_j(scale * q[s, h] . k[j, g]) * v[j, g],
// g = h / (heads / kv_heads), over all context[s] entries of the cache. With problem.fused also the rotation of q and k and the append
// of k and v in front (rope_kv_append), so that a step needs no launch between projection and attention.
//
//   q          Bf16 [S, heads * head_dim], rotated; with problem.fused instead qkv float [S, (heads + 2 kv_heads) * head_dim]
//   positions, slots, frequencies   as in rope.cuh; if problem.fused, else not read
//   kv         Bf16, this layer's part of pool block 0, layout kv_rows; block b is b * kv_block_bytes further
//   block_table  int32 [S, step->block_stride]: the blocks of each sequence in cache order
//   context    int32 [S]: tokens in the cache, the new one included
//   out        Bf16 [S, heads * head_dim]
//   workspace  attention_workspace(problem, S) bytes, aligned to 16; not read where problem.splits is 1
//   arrivals   kv_heads * problem.cluster counters a sequence, 0 before the first launch; each launch leaves them 0. Not read with one split
//
// Launch: problem.warps warps; grid (problem.cluster * problem.splits, kv_heads, S), in clusters of problem.cluster blocks (sm_90; 1 elsewhere).
// A context is cut into splits, so many as its length says: 1, or at most problem.splits. A cluster is one split of one (sequence, kv
// head): its blocks' warps take tiles of 16 cache entries in turns, all query heads of the group at once, and results are merged in the block's, then in the
// cluster's shared memory. Splits meet in the workspace, where the block of each rank that is last to arrive merges what its rank has. A short
// context, up to 16 * warps * least entries, is one block's and needs no second merge. heads / kv_heads <= 8.
//   scores  S^T[16 entries, 8 heads] = K . Q^T: rows of K come straight from memory (mma_block in kernel.cuh)
//   values  O^T[dims, 8 heads] += V^T . P^T: a lane loads 8 dims of 4 entries; a 2x2 transpose of bf16 makes the operand; row `group` of
//           product j is dim 8 * group + 2 j, row `group` + 8 the dim after it. P^T is S^T turned over by movmatrix.
//   shared  part[warps][8][head_dim + 4] f32, peak and mass of each; rotated q, fresh k and v
// A warp's first K and V are loaded before the wait for inputs, and its next tiles are on their way to L2: entries of earlier steps stand still.
// Softmax in f32 (base 2), p rounded to bf16. One order for a given context, whatever else is in the step.
// Reference ops: rope_kv_append, attention.
#pragma once

#include "cluster.cuh"
#include "rope.cuh"

namespace ern::cuda {

struct DecodeAttention {
  int heads;
  KvAppend cache;
  bool fused = false;
  int spatial_pairs = 0;
  int cluster = 8;
  int warps = 8;
  int splits = 1;  // the most
  int least = 1;   // tiles of a warp before another block takes part
  bool idle_waits = false;
};

// Of a split: sums of its elements, then peak and mass of each head, f32.
constexpr int attention_split_floats(const DecodeAttention& problem) {
  return problem.heads / problem.cache.kv_heads * problem.cache.head_dim + 16;
}
constexpr int64_t attention_workspace(const DecodeAttention& problem, int64_t sequences) {
  return problem.splits == 1 ? 0 : sequences * problem.cache.kv_heads * problem.splits * attention_split_floats(problem) * 4;
}

constexpr float log2_e = 1.4426950408889634f;

// The transpose of an 8x8 matrix of bf16 that is spread over a warp, two of a row a lane.
ERN_DEVICE uint32_t transpose8(uint32_t x) {
  uint32_t y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

// The largest, and the sum, over the lanes that differ in `group` only.
ERN_DEVICE float group_max(float x) {
#pragma unroll
  for (int mask = 4; mask < warp_size; mask *= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, mask));
  return x;
}
ERN_DEVICE float group_sum(float x) {
#pragma unroll
  for (int mask = 4; mask < warp_size; mask *= 2) x += __shfl_xor_sync(~0u, x, mask);
  return x;
}

template <DecodeAttention problem, class Q>
ERN_DEVICE void attention_decode(const Step* step, const Q* q, const int32_t* positions, const int32_t* slots,
                                 const RopeFrequencies<problem.cache.head_dim>& frequencies, Bf16* kv, const int32_t* block_table,
                                 const int32_t* context, float scale, Bf16* out, float* workspace = nullptr, unsigned* arrivals = nullptr) {
  constexpr int head_dim = problem.cache.head_dim, kv_heads = problem.cache.kv_heads, heads = problem.heads;
  constexpr int block_size = problem.cache.block_size, group_heads = heads / kv_heads, warps = problem.warps, cluster = problem.cluster;
  constexpr int entries = 16;                                                 // of a tile
  constexpr int k_blocks = static_cast<int>(ceil_div(head_dim, k_block));     // of a row of K
  constexpr int v_blocks = static_cast<int>(ceil_div(head_dim, 64));          // of a row of V: 8 groups of 8 dims
  constexpr int pitch = head_dim + 4;
  static_assert(heads % kv_heads == 0 && group_heads <= 8 && head_dim % 8 == 0 && block_size % entries == 0);
  static_assert(problem.fused == (sizeof(Q) == 4));

  __shared__ __align__(16) float part[warps][8][pitch];
  __shared__ float part_peak[warps][8], part_mass[warps][8];
  __shared__ float peak_of_block[8], mass_of_block[8];
  __shared__ bool last;
  __shared__ __align__(16) Bf16 query_rows[problem.fused ? group_heads : 1][head_dim + 32];  // a pitch free of bank conflicts
  __shared__ __align__(16) Bf16 fresh_key[head_dim], fresh_value[head_dim];

  start_dependents();
  const int rank = static_cast<int>(blockIdx.x) % cluster, kv_head = static_cast<int>(blockIdx.y), sequence = static_cast<int>(blockIdx.z);
  // Blocks without work need not wait: the launch is not over before those that have some are, which wait.
  if (sequence >= step->sequences) return;
  const int lane = lane_id(), warp = warp_id(), group = lane / 4, quad = lane % 4;
  const KvCache<problem.cache> cache{kv};
  const int32_t* const table = block_table + static_cast<int64_t>(sequence) * step->block_stride;
  const int total = context[sequence], known = problem.fused ? total - 1 : total;  // entries; those that are in the cache already
  const int tiles = (total + entries - 1) / entries;
  constexpr int of_block = warps * problem.least;
  const int wanted = (tiles + of_block - 1) / of_block, ranks = wanted < cluster ? wanted : cluster;  // blocks of a cluster that take part
  // Splits, each a cluster's, once that leaves no warp without a tile; their tiles are dealt out as if all were one cluster.
  constexpr int at_once = warps * cluster, most_of_one = at_once * (problem.least > 2 ? problem.least : 2);
  const int some = (tiles + at_once - 1) / at_once;
  const int splits = tiles <= most_of_one ? 1 : some < problem.splits ? some : problem.splits;
  const int split = problem.splits == 1 ? 0 : static_cast<int>(blockIdx.x) / cluster;
  const int stride = warps * ranks * splits;
  if (split >= splits || (cluster > 1 && ranks == 1 && rank > 0)) {
    if (problem.idle_waits && split == 0) wait_for_inputs();
    return;
  }

  // K: rows `group` and `group` + 8, 8 dims of each block of 32. V: entries 2 quad, + 1, + 8, + 9, 8 dims of each block of 64.
  struct Tile {
    uint4 key_low[k_blocks], key_high[k_blocks], value[v_blocks][4];
  };
  const auto load_tile = [&](Tile& to, int tile) {
    const int first = tile * entries;
    const int32_t slot = table[first / block_size] * block_size + first % block_size;
    const Bf16* const key = cache.key(slot, kv_head, 0);
    const Bf16* const values = cache.value(slot, kv_head, 0);
#pragma unroll
    for (int b = 0; b < k_blocks; ++b) {
      const int dim = b * k_block + quad * lane_k;
      const bool in = head_dim % k_block == 0 || dim < head_dim;
      to.key_low[b] = in && first + group < known ? load_still(key + group * head_dim + dim) : uint4{0, 0, 0, 0};
      to.key_high[b] = in && first + group + 8 < known ? load_still(key + (group + 8) * head_dim + dim) : uint4{0, 0, 0, 0};
    }
#pragma unroll
    for (int b = 0; b < v_blocks; ++b) {
      const int dim = b * 64 + group * 8;
      const bool in = head_dim % 64 == 0 || dim < head_dim;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int entry = 2 * quad + i % 2 + i / 2 * 8;
        to.value[b][i] = in && first + entry < known ? load_still(values + entry * head_dim + dim) : uint4{0, 0, 0, 0};
      }
    }
  };
  int tile = rank < ranks ? (split * ranks + rank) * warps + warp : tiles;
  // What an earlier launch of this step appends is not there yet.
  if constexpr (!problem.fused) wait_for_inputs();
  Tile now;
  if (tile < tiles) load_tile(now, tile);
  // What follows of the cache is brought into L2 while others still work; entries of a tile lie together.
  const auto fetch_tile = [&](int later) {
#if __CUDA_ARCH__ >= 900
    if (lane < 2 && later < tiles) {
      const int first = later * entries;
      const int32_t slot = table[first / block_size] * block_size + first % block_size;
      asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(lane == 0 ? cache.key(slot, kv_head, 0) : cache.value(slot, kv_head, 0)),
                   "r"(entries * head_dim * 2)
                   : "memory");
    }
#endif
  };
  constexpr int fetched = 8;  // tiles ahead
  for (int i = 1; i < fetched; ++i) fetch_tile(tile + i * stride);
  const int newest = tiles - 1;  // the tile that the new entry belongs to
  uint4 query[k_blocks];         // Q^T: head `group`, the dims as in K
  constexpr int q_width = problem.fused ? (heads + 2 * kv_heads) * head_dim : heads * head_dim;
  const Q* const row = q + static_cast<int64_t>(sequence) * q_width;
  if constexpr (problem.fused) {
    // Each thread rotates 4 dims at a time of q, and in the block of the new entry of its key; they meet in shared memory.
    constexpr int threads = warps * warp_size, pieces = head_dim / 4;
    constexpr int q_turns = static_cast<int>(ceil_div(group_heads * pieces, threads)), new_turns = static_cast<int>(ceil_div(2 * pieces, threads));
    const int newest_at = newest / warps % (ranks * splits);
    const bool appends = rank == newest_at % ranks && newest_at / ranks == split, takes_part = rank < ranks;
    const int32_t* const position = positions + sequence * 3;
    const auto pair_turn = [&](int piece, int pair) {
      const int p = piece % pieces * 2 + pair;
      return turn_by(position[rope_coordinate(p, problem.spatial_pairs)], frequencies.of[p]);
    };
    Turn q_turn[q_turns][2], new_turn[new_turns][2];
#pragma unroll
    for (int i = 0; i < q_turns; ++i) {
      const int piece = static_cast<int>(threadIdx.x) + i * threads;
      if (piece < group_heads * pieces) q_turn[i][0] = pair_turn(piece, 0), q_turn[i][1] = pair_turn(piece, 1);
    }
#pragma unroll
    for (int i = 0; i < new_turns; ++i) {
      const int piece = static_cast<int>(threadIdx.x) + i * threads;
      new_turn[i][0] = new_turn[i][1] = {1, 0};
      if (piece < pieces) new_turn[i][0] = pair_turn(piece, 0), new_turn[i][1] = pair_turn(piece, 1);
    }
    const int32_t slot = slots[sequence];
    wait_for_inputs();
    if (takes_part) {
      float4 v[q_turns], fresh[new_turns];
#pragma unroll
      for (int i = 0; i < q_turns; ++i) {
        const int piece = static_cast<int>(threadIdx.x) + i * threads;
        if (piece < group_heads * pieces) v[i] = load_fresh4(row + kv_head * group_heads * head_dim + piece * 4);
      }
#pragma unroll
      for (int i = 0; i < new_turns; ++i) {
        const int piece = static_cast<int>(threadIdx.x) + i * threads;
        if (appends && piece < 2 * pieces) fresh[i] = load_fresh4(row + (heads + piece / pieces * kv_heads + kv_head) * head_dim + piece % pieces * 4);
      }
      const auto turned = [](const float4& x, const Turn (&t)[2]) {
        return uint2{pack_bf16(x.x * t[0].cosine - x.y * t[0].sine, x.y * t[0].cosine + x.x * t[0].sine),
                     pack_bf16(x.z * t[1].cosine - x.w * t[1].sine, x.w * t[1].cosine + x.z * t[1].sine)};
      };
#pragma unroll
      for (int i = 0; i < q_turns; ++i) {
        const int piece = static_cast<int>(threadIdx.x) + i * threads;
        if (piece < group_heads * pieces) *reinterpret_cast<uint2*>(query_rows[piece / pieces] + piece % pieces * 4) = turned(v[i], q_turn[i]);
      }
#pragma unroll
      for (int i = 0; i < new_turns; ++i) {
        const int piece = static_cast<int>(threadIdx.x) + i * threads, dim = piece % pieces * 4;
        if (!appends || piece >= 2 * pieces) continue;
        const uint2 x = turned(fresh[i], new_turn[i]);
        *reinterpret_cast<uint2*>((piece < pieces ? fresh_key : fresh_value) + dim) = x;
        *reinterpret_cast<uint2*>(piece < pieces ? cache.key(slot, kv_head, dim) : cache.value(slot, kv_head, dim)) = x;
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int b = 0; b < k_blocks; ++b) {
    const int dim = b * k_block + quad * lane_k;
    query[b] = {0, 0, 0, 0};
    if (rank >= ranks || group >= group_heads || (head_dim % k_block != 0 && dim >= head_dim)) continue;
    if constexpr (problem.fused) query[b] = *reinterpret_cast<const uint4*>(query_rows[group] + dim);
    else query[b] = load_fresh(row + (kv_head * group_heads + group) * head_dim + dim);
  }

  // Columns 2 quad and 2 quad + 1 are this lane's heads.
  const float to_base2 = scale * log2_e;
  float peak[2] = {-__builtin_inff(), -__builtin_inff()}, mass[2] = {0, 0};
  float acc[v_blocks * 4][4] = {};
  for (; tile < tiles; tile += stride) {
    const int first = tile * entries;
    if constexpr (problem.fused) {
      if (tile == newest) {
        const int newest_entry = known - first;
#pragma unroll
        for (int b = 0; b < k_blocks; ++b) {
          const int dim = b * k_block + quad * lane_k;
          if (head_dim % k_block != 0 && dim >= head_dim) continue;
          if (newest_entry == group) now.key_low[b] = *reinterpret_cast<const uint4*>(fresh_key + dim);
          if (newest_entry == group + 8) now.key_high[b] = *reinterpret_cast<const uint4*>(fresh_key + dim);
        }
#pragma unroll
        for (int b = 0; b < v_blocks; ++b) {
          const int dim = b * 64 + group * 8;
          if (head_dim % 64 != 0 && dim >= head_dim) continue;
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            if (newest_entry == 2 * quad + i % 2 + i / 2 * 8) now.value[b][i] = *reinterpret_cast<const uint4*>(fresh_value + dim);
          }
        }
      }
    }
    float score[4] = {};
#pragma unroll
    for (int b = 0; b < k_blocks; ++b) mma_block(score, now.key_low[b], now.key_high[b], query[b]);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      score[i] = first + group + i / 2 * 8 < total ? score[i] * to_base2 : -__builtin_inff();
    }
    float p[4];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float top = fmaxf(peak[h], group_max(fmaxf(score[h], score[2 + h])));  // finite: a tile has an entry
      const float shrink = exp2f(peak[h] - top);
      peak[h] = top;
      p[h] = exp2f(score[h] - top), p[2 + h] = exp2f(score[2 + h] - top);
      mass[h] = mass[h] * shrink + p[h] + p[2 + h];
#pragma unroll
      for (int j = 0; j < v_blocks * 4; ++j) acc[j][h] *= shrink, acc[j][2 + h] *= shrink;
    }
    const uint32_t p_low = transpose8(pack_bf16(p[0], p[1])), p_high = transpose8(pack_bf16(p[2], p[3]));
#pragma unroll
    for (int b = 0; b < v_blocks; ++b) {
      const uint32_t* const v[4] = {&now.value[b][0].x, &now.value[b][1].x, &now.value[b][2].x, &now.value[b][3].x};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        mma(acc[b * 4 + j], __byte_perm(v[0][j], v[1][j], 0x5410), __byte_perm(v[0][j], v[1][j], 0x7632),
            __byte_perm(v[2][j], v[3][j], 0x5410), __byte_perm(v[2][j], v[3][j], 0x7632), p_low, p_high);
      }
    }
    if (tile + stride < tiles) load_tile(now, tile + stride);
    fetch_tile(tile + fetched * stride);
  }

  // Each warp's part, then the block's in part[0].
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    mass[h] = group_sum(mass[h]);
    const int head = 2 * quad + h;
    if (group == 0) part_peak[warp][head] = peak[h], part_mass[warp][head] = mass[h];
#pragma unroll
    for (int b = 0; b < v_blocks; ++b) {
      const int dim = b * 64 + group * 8;
      if (head_dim % 64 != 0 && dim >= head_dim) continue;
      float* const at = part[warp][head] + dim;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float(&x)[4] = acc[b * 4 + half * 2];
        const float(&y)[4] = acc[b * 4 + half * 2 + 1];
        *reinterpret_cast<float4*>(at + half * 4) = {x[h], x[2 + h], y[h], y[2 + h]};
      }
    }
  }
  __syncthreads();
  const int left = tiles - (split * ranks + rank) * warps, active = left < warps ? left : warps;  // warps of this block that had a tile
  constexpr int elements = group_heads * head_dim;
  Bf16* const to = out + static_cast<int64_t>(sequence) * heads * head_dim + kv_head * elements;
  for (int i = static_cast<int>(threadIdx.x); i < elements; i += warps * warp_size) {
    const int head = i / head_dim, dim = i % head_dim;
    float top = -__builtin_inff();
    for (int w = 0; w < active; ++w) top = fmaxf(top, part_peak[w][head]);
    float sum = 0, total_mass = 0;
    for (int w = 0; w < active; ++w) {
      const float shrink = exp2f(part_peak[w][head] - top);
      sum += part[w][head][dim] * shrink;
      total_mass += part_mass[w][head] * shrink;
    }
    if (ranks == 1 && splits == 1) {
      to[i] = __float2bfloat16_rn(sum / total_mass);
    } else {
      part[0][head][dim] = sum;
      if (dim == 0) peak_of_block[head] = top, mass_of_block[head] = total_mass;
    }
  }
  if (cluster > 1 && ranks == 1) return;
  if (cluster > 1) cluster_barrier<cluster>();

  // The cluster's: each block finishes a share of the elements.
  constexpr int share = static_cast<int>(ceil_div(elements, cluster)), floats = attention_split_floats(problem);
  const int begin = rank * share, end = begin + share < elements ? begin + share : elements;
  float* const parts = workspace + (static_cast<int64_t>(sequence) * kv_heads + kv_head) * problem.splits * floats;
  if (cluster > 1 || splits > 1) {
    if (cluster == 1) __syncthreads();
    for (int i = begin + static_cast<int>(threadIdx.x); i < end; i += warps * warp_size) {
      const int head = i / head_dim, dim = i % head_dim;
      float peaks[cluster], top = -__builtin_inff();
#pragma unroll
      for (int r = 0; r < cluster; ++r) {
        peaks[r] = r < ranks ? load_from_rank<cluster>(peak_of_block + head, r) : -__builtin_inff();
        top = fmaxf(top, peaks[r]);
      }
      float sum = 0, total_mass = 0;
#pragma unroll
      for (int r = 0; r < cluster; ++r) {
        if (r >= ranks) continue;
        const float shrink = exp2f(peaks[r] - top);
        sum += load_from_rank<cluster>(part[0][head] + dim, r) * shrink;
        total_mass += load_from_rank<cluster>(mass_of_block + head, r) * shrink;
      }
      if (problem.splits == 1 || splits == 1) {
        to[i] = __float2bfloat16_rn(sum / total_mass);
      } else {
        __stcg(parts + split * floats + i, sum);
        // Who has a head's first element of a share writes what all ranks know.
        if (dim == 0 || i == begin) __stcg(parts + split * floats + elements + head, top), __stcg(parts + split * floats + elements + 8 + head, total_mass);
      }
    }
  }
  if constexpr (problem.splits > 1) {
    if (splits > 1) {
      // The splits': of all blocks of this rank the last one.
      __syncthreads();
      if (threadIdx.x == 0) {
        unsigned* const counter = arrivals + (sequence * kv_heads + kv_head) * cluster + rank;
        __threadfence();
        last = atomicAdd(counter, 1u) + 1 == static_cast<unsigned>(splits);
        if (last) *counter = 0;
        __threadfence();
      }
      __syncthreads();
      if (last) {
        for (int i = begin + static_cast<int>(threadIdx.x); i < end; i += warps * warp_size) {
          const int head = i / head_dim;
float top = -__builtin_inff(), sum = 0, total_mass = 0;
#pragma unroll 8
        for (int v = 0; v < splits; ++v) top = fmaxf(top, __ldcg(parts + v * floats + elements + head));
#pragma unroll 8
        for (int v = 0; v < splits; ++v) {
          const float* const from = parts + v * floats;
          const float shrink = exp2f(__ldcg(from + elements + head) - top);
          sum += __ldcg(from + i) * shrink, total_mass += __ldcg(from + elements + 8 + head) * shrink;
        }
        to[i] = __float2bfloat16_rn(sum / total_mass);
        }
      }
    }
  }
  if (cluster > 1) cluster_barrier<cluster>();  // nobody leaves while others read its shared memory
}

}  // namespace ern::cuda
