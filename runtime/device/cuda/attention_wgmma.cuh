// attention for many new tokens a sequence, on sm_90a: out[t, h] = sum over j of softmax_j(scale * q[t, h] . k[j, g]) * v[j, g],
// g = h / (heads / kv_heads), over the cache entries 0 .. position of t. No fusion. head_dim 128; attention_prefill.cuh has the others.
//
//   q          Bf16 [T, heads * 128], rotated; out: Bf16 [T, heads * 128]
//   kv         Bf16, this layer's part of pool block 0, layout kv_rows; block b is b * kv_block_bytes further
//   block_table  int32 [S, step->block_stride]: the blocks of each sequence in cache order
//   query_start  int32 [S + 1]: rows query_start[s] .. query_start[s + 1] - 1 of q are sequence s, the newest tokens of its cache
//   context    int32 [S]: tokens in the cache, these rows included. So row r stands at context[s] - (query_start[s + 1] - r).
//
// Launch: 384 threads; grid (heads, ceil(T / 128)); attention_wgmma_shared bytes of dynamic shared memory. The last rows, which see most, go first.
// q and kv come by tensor maps with 128-byte swizzle:
//   q   [T, heads * 128]                                 boxes of 64 dims x 128 rows
//   kv  [blocks, 2 * kv_heads * block_size, 128]         boxes of 64 dims x run rows of one block, run = min(block_size, 128)
// A block takes 128 rows of one head and goes through the sequences that they belong to, one after the other, by tiles of 128 cache entries.
//   thread   one thread of warpgroup 0 copies Q, then K and V of each tile to a stage; warpgroups 1 and 2 have 64 rows each: S = Q . K^T, softmax in
//            registers, O += P . V with P in registers. The scores of a tile are issued before the values of the one before, so that its softmax runs
//            beside a product; with `turns` the two warpgroups issue their products in turns, so that the softmax of one runs beside those of the other
//   shared   Q as two tiles [128 rows][64 dims]; 3 stages x (K, then V), each as two tiles [128 entries][64 dims], 16 KiB; a full and an empty barrier a
//            stage, one for Q
// K is read K-major. V is read with its dims along the rows of memory (transposed): atoms of 8 entries x 64 dims, 1024 bytes apart
// along the entries, 16 KiB along the dims. What the cache holds behind a sequence's end may be anything: its scores are put aside, its V is cleared.
// Softmax in f32 (base 2), p rounded to bf16. Reference op: attention. After FlashAttention-2 and -3 (Dao; Shah et al.).
#pragma once

#include "attention_decode.cuh"
#include "tma.cuh"
#include "wgmma.cuh"

namespace ern::cuda {

struct WgmmaAttention {
  int heads;
  KvAppend cache;
  bool turns = true;

  static constexpr int rows = 128, entries = 128, stages = 3, threads = 384, head_dim = 128;
  static constexpr int half_tile = entries * 64;  // elements of [entries][64 dims]
  static constexpr int query_bytes = rows * head_dim * 2, stage_bytes = 4 * half_tile * 2;
};

constexpr int attention_wgmma_shared = 1024 + WgmmaAttention::query_bytes + WgmmaAttention::stages * (WgmmaAttention::stage_bytes + 16) + 8;

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// d[64, 128] = (add ? d : 0) + a[64, 16] . b[16, 128], a in registers as mma() has it, the 128 of b along memory.
ERN_DEVICE void multiply_values(float (&d)[64], const uint32_t (&a)[4], uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
        "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
        "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
        "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
        "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
        "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int32_t>(add)));
}

// V's operand: [entries][128 dims] as two tiles of 64 dims. 16 entries further are 2048 bytes further.
ERN_DEVICE uint64_t value_operand(const void* tile) {
  constexpr uint64_t along_entries = uint64_t{1024 / 16} << 32, along_dims = uint64_t{WgmmaAttention::half_tile * 2 / 16} << 16;
  return uint64_t{1} << 62 | along_entries | along_dims | ((shared_address(tile) & 0x3ffff) >> 4);
}

// What this thread wrote to shared memory by ordinary stores holds for the products that are started after the next barrier.
ERN_DEVICE void fence_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// 2^x, 0 for what is smaller than any normal number.
ERN_DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

#endif

template <WgmmaAttention problem>
ERN_DEVICE void attention_wgmma(const Step* step, const TensorMap* q_map, const TensorMap* kv_map, const int32_t* block_table, const int32_t* query_start,
                                const int32_t* context, float scale, Bf16* out) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  constexpr int head_dim = problem.head_dim, heads = problem.heads, kv_heads = problem.cache.kv_heads, block_size = problem.cache.block_size;
  constexpr int entries = problem.entries, stages = problem.stages, half_tile = problem.half_tile;
  constexpr int run = block_size < entries ? block_size : entries, runs = entries / run;  // entries of a tile that lie together
  constexpr int first_turn = 1, own_barrier = 3;  // numbers of barriers; one for each warpgroup
  static_assert(problem.cache.head_dim == head_dim && heads % kv_heads == 0 && run % 8 == 0 && entries % run == 0 && block_size % run == 0);
  extern __shared__ unsigned char dynamic_shared_memory[];
  unsigned char* const aligned = dynamic_shared_memory + (1024 - shared_address(dynamic_shared_memory) % 1024) % 1024;
  Bf16* const query = reinterpret_cast<Bf16*>(aligned);                      // [2 halves of the dims][rows][64]
  Bf16* const ring = reinterpret_cast<Bf16*>(aligned + problem.query_bytes);  // [stages][K, V][2 halves of the dims][entries][64]
  Barrier* const full = reinterpret_cast<Barrier*>(aligned + problem.query_bytes + stages * problem.stage_bytes);
  Barrier* const empty = full + stages;
  Barrier* const query_full = empty + stages;

  if (threadIdx.x == 0) {
    prefetch_map(q_map);
    prefetch_map(kv_map);
    for (int i = 0; i < stages; ++i) full[i].init(1), empty[i].init(2);
    query_full->init(1);
    fence_barriers();
  }
  __syncthreads();
  start_dependents();
  wait_for_inputs();
  const int head = static_cast<int>(blockIdx.x), kv_head = head / (heads / kv_heads);
  const int tokens = step->tokens, row_blocks = (tokens + problem.rows - 1) / problem.rows;
  if (static_cast<int>(blockIdx.y) >= row_blocks) return;
  const int block_first = (row_blocks - 1 - static_cast<int>(blockIdx.y)) * problem.rows;
  const int block_last = block_first + problem.rows < tokens ? block_first + problem.rows : tokens;  // one behind
  const int warpgroup = static_cast<int>(threadIdx.x) / warpgroup_size, thread = static_cast<int>(threadIdx.x) % warpgroup_size;

  // Calls fn(sequence, first of its rows here, last, entries before row 0, tiles) for each sequence that has rows here.
  const auto for_each_sequence = [&](const auto& fn) {
    for (int sequence = 0; sequence < step->sequences; ++sequence) {
      const int start = query_start[sequence], end = query_start[sequence + 1];
      if (end <= block_first || start >= block_last) continue;
      const int offset = context[sequence] - end;  // row r stands at r + offset
      const int first = start > block_first ? start : block_first, last = (end < block_last ? end : block_last) - 1;
      fn(sequence, first, last, offset, (last + offset + entries) / entries);
    }
  };

  if (warpgroup == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    if (threadIdx.x != 0) return;
    query_full->arrive_expecting(problem.query_bytes);
    for (int half = 0; half < 2; ++half) copy_tile(query + half * half_tile, q_map, head * head_dim + half * 64, block_first, *query_full);
    Ring<stages> at;
    for_each_sequence([&](int sequence, int, int last, int offset, int tiles) {
      const int32_t* const table = block_table + static_cast<int64_t>(sequence) * step->block_stride;
      const int total = last + offset + 1;
      for (int tile = 0; tile < tiles; ++tile, at.next()) {
        int32_t blocks[runs];
#pragma unroll
        for (int r = 0; r < runs; ++r) {
          const int place = tile * entries + r * run;
          blocks[r] = table[(place < total ? place : 0) / block_size];
        }
        empty[at.stage].wait(at.parity ^ 1);
        full[at.stage].arrive_expecting(problem.stage_bytes);
        Bf16* const keys = ring + at.stage * 4 * half_tile;
#pragma unroll
        for (int r = 0; r < runs; ++r) {
          const int row = kv_head * block_size + (tile * entries + r * run) % block_size;
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            Bf16* const to = keys + half * half_tile + r * run * 64;
            copy_tile(to, kv_map, half * 64, row, blocks[r], full[at.stage]);
            copy_tile(to + 2 * half_tile, kv_map, half * 64, kv_heads * block_size + row, blocks[r], full[at.stage]);
          }
        }
      }
    });
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
    Ring<stages> at;
    const int consumer = warpgroup - 1, lane = thread % warp_size, group = lane / 4, quad = lane % 4;
    const int group_first = block_first + consumer * 64;  // of this warpgroup's rows
    const int row_low = group_first + thread / warp_size * 16 + group;
    const float to_base2 = scale * log2_e;
    const uint64_t queries = wgmma_operand(query + consumer * 64 * 64);
    // Both warpgroups call these once a tile, whether they have rows that see it or not.
    const auto take_turn = [&] {
      if (problem.turns) barrier_sync(first_turn + consumer, 2 * warpgroup_size);
    };
    const auto give_turn = [&] {
      if (problem.turns) barrier_arrive(first_turn + 1 - consumer, 2 * warpgroup_size);
    };
    if (consumer == 1) give_turn();
    query_full->wait(0);

    for_each_sequence([&](int, int first_row, int last_row, int offset, int tiles) {
      float peak[2] = {-__builtin_inff(), -__builtin_inff()}, mass[2] = {0, 0};
      float acc[64], score[64];
      uint32_t p[32];
#pragma unroll
      for (int i = 0; i < 64; ++i) acc[i] = 0;
      // Tiles that some row of this warpgroup sees something of; the others it only hands back.
      const int group_last = group_first + 63 < last_row ? group_first + 63 : last_row;
      const bool has_rows = group_last >= first_row && group_last >= group_first;
      const int seen_tiles = has_rows ? (group_last + offset + entries) / entries : 0;
      const bool cut = first_row > group_first || last_row < group_first + 63;  // not all rows are of the sequence
      const int whole = (first_row > group_first ? first_row : group_first) + offset + 1;  // entries that all rows see

      const auto keys_of = [&](int stage) { return ring + stage * 4 * half_tile; };
      const auto wait_for_tile = [&](int tile) {
        full[at.stage].wait(at.parity);
        const int behind = last_row + offset + 1 - tile * entries;  // the first entry that is not the sequence's
        if (behind < entries) {
          if (thread >= behind) {
            Bf16* const values = keys_of(at.stage) + 2 * half_tile + thread * 64;
#pragma unroll
            for (int i = 0; i < 16; ++i) *reinterpret_cast<uint4*>(values + i / 8 * half_tile + i % 8 * 8) = {0, 0, 0, 0};
          }
          fence_shared();
          barrier_sync(own_barrier + consumer, warpgroup_size);
        }
      };
      const auto start_scores = [&](int stage) {
        wgmma_hold(score);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < head_dim / wgmma_k; ++i) {
          Wgmma<128>::multiply(score, queries + i / 4 * (half_tile * 2 / 16) + i % 4 * wgmma_next_k,
                               wgmma_operand(keys_of(stage) + i / 4 * half_tile) + i % 4 * wgmma_next_k, i > 0);
        }
        wgmma_commit();
      };
      const auto start_values = [&](int stage) {
        wgmma_hold(acc);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < entries / wgmma_k; ++i) {
          const uint32_t a[4] = {p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3]};
          multiply_values(acc, a, value_operand(keys_of(stage) + 2 * half_tile) + i * (16 * 128 / 16), true);
        }
        wgmma_commit();
      };
      // Scores to powers of two in place; peak and mass move on; what came before is to be multiplied by `shrink`.
      float shrink[2];
      const auto softmax = [&](int tile) {
        const int first = tile * entries;
        const bool edge = cut || first + entries > whole;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int row = row_low + 8 * h;
          const int seen = row >= first_row && row <= last_row ? row + offset + 1 - first : 0;
          float top = peak[h];
#pragma unroll
          for (int j = 0; j < 16; ++j) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
              float& s = score[4 * j + 2 * h + i];
              if (edge && j * 8 + 2 * quad + i >= seen) s = -__builtin_inff();
              top = fmaxf(top, s);
            }
          }
          top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
          top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
          const float finite = top == -__builtin_inff() ? 0 : top * to_base2;
          shrink[h] = exp2_fast(peak[h] * to_base2 - finite);
          peak[h] = top;
          float sum[2] = {0, 0};
#pragma unroll
          for (int j = 0; j < 16; ++j) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
              float& s = score[4 * j + 2 * h + i];
              s = exp2_fast(fmaf(s, to_base2, -finite));
              sum[i] += s;
            }
          }
          mass[h] = mass[h] * shrink[h] + (sum[0] + sum[1]);
        }
      };
      const auto pack_p = [&] {
#pragma unroll
        for (int j = 0; j < 16; ++j) p[2 * j] = pack_bf16(score[4 * j], score[4 * j + 1]), p[2 * j + 1] = pack_bf16(score[4 * j + 2], score[4 * j + 3]);
      };

      if (seen_tiles > 0) {
        wait_for_tile(0);
        take_turn();
        start_scores(at.stage);
        give_turn();
        wgmma_wait<0>();
        wgmma_hold(score);
        softmax(0);
        pack_p();
        for (int tile = 1; tile < seen_tiles; ++tile) {
          const int behind = at.stage;
          at.next();
          wait_for_tile(tile);
          take_turn();
          start_scores(at.stage);
          start_values(behind);
          give_turn();
          wgmma_wait<1>();
          wgmma_hold(score);
          softmax(tile);
          // The assembler moves a wait for products up as far as it can, which is to the last branch: so there is one here.
          wgmma_hold(score);
          if (tile + 1 < seen_tiles) {
            Ring<stages> next = at;
            next.next();
            full[next.stage].wait(next.parity);
          }
          wgmma_wait<0>();
          wgmma_hold(acc);
          if (thread == 0) empty[behind].arrive();
#pragma unroll
          for (int j = 0; j < 16; ++j) {
            acc[4 * j] *= shrink[0], acc[4 * j + 1] *= shrink[0], acc[4 * j + 2] *= shrink[1], acc[4 * j + 3] *= shrink[1];
          }
          pack_p();
        }
        start_values(at.stage);
        wgmma_wait<0>();
        wgmma_hold(acc);
        if (thread == 0) empty[at.stage].arrive();
        at.next();
      }
      for (int tile = seen_tiles; tile < tiles; ++tile, at.next()) {
        full[at.stage].wait(at.parity);
        take_turn();
        give_turn();
        barrier_sync(own_barrier + consumer, warpgroup_size);  // no warp falls behind a stage by two phases
        if (thread == 0) empty[at.stage].arrive();
      }
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = row_low + 8 * h;
        mass[h] += __shfl_xor_sync(~0u, mass[h], 1);
        mass[h] += __shfl_xor_sync(~0u, mass[h], 2);
        const float scale_by = 1 / mass[h];
        Bf16* const to = out + (static_cast<int64_t>(row) * heads + head) * head_dim;
        // 16 bytes a lane: four pieces of 8 dims change hands within the quad.
#pragma unroll
        for (int piece = 0; piece < 16; piece += 4) {
          uint32_t words[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) words[i] = pack_bf16(acc[4 * (piece + i) + 2 * h] * scale_by, acc[4 * (piece + i) + 2 * h + 1] * scale_by);
          transpose_quad(words, quad);
          if (row >= first_row && row <= last_row) *reinterpret_cast<uint4*>(to + 8 * (piece + quad)) = {words[0], words[1], words[2], words[3]};
        }
      }
    });
    if (consumer == 0) take_turn();  // nobody leaves a barrier half full
  }
#endif
}

}  // namespace ern::cuda
