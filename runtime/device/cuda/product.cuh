// The product of a few rows of activations with a weight that is read once: what linear, linear_swiglu, head_argmax and the
// experts do in a decode step. Time is what the weight's bytes take, so everything serves keeping copies in flight.
//
//   x       X [rows, K]        row-major; Bf16, or float with a norm in front (see Norm)
//   weight  Bf16 [., K]        row-major, K a multiple of 8, rows aligned to 16 bytes
//
// A block goes through tiles of 16 weight rows (8, where those give too few blocks): two runs of up to 8 rows, "low" and "high". One
// thread copies a tile, or a part of it, `span` of its k, to a stage in shared memory: whole rows lie together in memory, so that is one or two
// bulk copies (sm_90; cp.async by all threads elsewhere). The warps share out the k of a stage. Tokens are the 8 columns of a tensor-core product
// (mma_block in kernel.cuh), so 8 cost what one costs; token_tiles products share each weight; more rows than 8 * token_tiles go round again.
//   thread   warp w: blocks of 32 k w * each .. (w + 1) * each - 1 of a stage; lane 4 g + q: rows g and g + 8, k 8 q .. 8 q + 7 of a block
//   x        in registers, loaded once for all tiles, if it fits there (`held`); else from L2 for each
//   ring     `stages` parts; one is filled again as soon as all warps have read it, over the borders of tiles; the first fill comes before
//            the wait for inputs
//   shared   dynamic, tiling.shared_bytes(K): stages [stages][rows][span] Bf16, then sums [buffers][warps][rows][8 * token_tiles + 1] f32,
//            squares [buffers][warps][8 * token_tiles] f32, a barrier a stage
//   order    f32; a warp's k ascending in blocks of 32, then warps ascending: a row's bits don't depend on other rows
#pragma once

#include "kernel.cuh"

namespace ern::cuda {

struct ProductTiling {
  int rows = 16;        // weight rows of a tile: 8 or 16
  int warps = 8;
  int span = 0;         // k of a stage, a multiple of 8; 0: all
  int stages = 1;
  int token_tiles = 1;  // of 8 rows of x
  bool once = false;    // the launch has a block a tile and no more rows than tokens(): no code for going round
  int residents = 2;    // blocks a multiprocessor that registers leave room for: who waits for inputs has its weights there already

  constexpr int threads() const { return warps * warp_size; }
  constexpr int tokens() const { return 8 * token_tiles; }
  constexpr int span_of(int k) const { return span == 0 ? k : span; }
  constexpr int stage_bytes(int k) const { return rows * span_of(k) * 2; }
  constexpr int buffers() const { return token_tiles == 1 ? 2 : 1; }  // of sums: with two, one barrier a tile
  constexpr int sums_bytes() const { return buffers() * warps * (rows * (tokens() + 1) + tokens()) * 4; }
  constexpr int shared_bytes(int k) const { return stages * (stage_bytes(k) + 8) + sums_bytes(); }
};

// The norm that a float x goes through on its way into a product: x * weight is rounded to bf16, and 1 / rms, which is the
// same for all k, multiplies the finished sums. Rounded once like a normed row, but not the same bits.
struct Norm {
  bool on = false;
  float eps = 0;
};

// Eight k of a row of x as an operand; `squares` collects the squares of what is normed.
ERN_DEVICE uint4 load_operand(const Bf16* x, const Bf16*, float&) { return load_fresh(x); }
ERN_DEVICE uint4 load_operand(const float* x, const Bf16* norm, float& squares) {
  float v[8];
  load8(x, v);
  const uint4 scale = __ldg(reinterpret_cast<const uint4*>(norm));
  const uint32_t words[4] = {scale.x, scale.y, scale.z, scale.w};
#pragma unroll
  for (int i = 0; i < 8; ++i) squares += v[i] * v[i];
#pragma unroll
  for (int i = 0; i < 4; ++i) v[2 * i] *= low_bf16(words[i]), v[2 * i + 1] *= high_bf16(words[i]);
  return pack8(v);
}

// The rows of a tile: `low` has low_rows of them from row 0, `high` high_rows from row 8; rows behind the end of a weight are left out.
struct TileRows {
  const Bf16* low;
  const Bf16* high;
  int low_rows;
  int high_rows;
};

// Rows tile * height .. + height - 1 of a weight [n, k].
template <int n, int k, int height>
ERN_DEVICE TileRows rows_of_tile(const Bf16* weight, int tile) {
  const int first = tile * height, left = n - first;
  const Bf16* const low = weight + static_cast<int64_t>(first) * k;
  return {low, low + 8 * k, left < 8 ? left : 8, height == 8 ? 0 : left < 16 ? (left > 8 ? left - 8 : 0) : 8};
}

template <int K, ProductTiling tiling, class X>
struct Product {
  static constexpr int warps = tiling.warps, span = tiling.span_of(K), stages = tiling.stages, tokens = tiling.tokens();
  static constexpr int parts = static_cast<int>(ceil_div(K, span));                    // of a tile
  static constexpr int each = static_cast<int>(ceil_div(span, k_block * warps));       // blocks of 32 k of a warp in a part
  static constexpr bool normed = sizeof(X) == 4;
  static constexpr bool exact = K % span == 0 && span % (k_block * warps) == 0;        // no block is short or missing
  static constexpr bool held = parts * each * tiling.token_tiles <= 12;                // x stays in registers
  static constexpr bool fixed = tiling.once && stages == parts;                        // all copies are made in begin()
  static constexpr int pitch = tokens + 1, buffers = tiling.buffers(), stage_elements = tiling.rows * span;
  static_assert(tiling.rows == 8 || tiling.rows == 16);
  static_assert(K % lane_k == 0 && span % lane_k == 0 && span <= K);
  static_assert(!tiling.once || stages <= parts);

  const int lane = lane_id(), warp = warp_id(), group = lane / 4, quad = lane % 4;
  Bf16* const ring;
  float* const all_sums;     // [buffers][warps][rows][pitch]
  float* const all_squares;  // [buffers][warps][tokens]
  uint64_t* const barriers;
  int stage = 0, parity = 0, buffer = 0;
  uint4 x_held[held ? parts * each * tiling.token_tiles : 1];
  float squares[tiling.token_tiles];

  // `memory`: dynamic shared memory, aligned to 16 bytes. Every thread calls it; thread 0 may copy at once, others after a barrier.
  ERN_DEVICE explicit Product(unsigned char* memory)
      : ring(reinterpret_cast<Bf16*>(memory)),
        all_sums(reinterpret_cast<float*>(memory + stages * tiling.stage_bytes(K))),
        all_squares(all_sums + buffers * warps * tiling.rows * pitch),
        barriers(reinterpret_cast<uint64_t*>(all_squares + buffers * warps * tokens)) {
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x == 0) {
#pragma unroll
      for (int i = 0; i < stages; ++i) asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barriers + i)) : "memory");
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
#endif
  }

  static ERN_DEVICE void bulk_copy(Bf16* to, const Bf16* from, int bytes, uint64_t* barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(shared_address(to)),
        "l"(from), "r"(bytes), "r"(shared_address(barrier)), "l"(evict_first)
        : "memory");
  }

  // Starts the copy of part `part` of a tile into stage `to`. Every thread calls it.
  ERN_DEVICE void copy(const TileRows& rows, int part, int to) {
    Bf16* const at = ring + to * stage_elements;
    const int k = part * span, count = K % span == 0 || K - k >= span ? span : K - k;
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x == 0) {
      uint64_t* const barrier = barriers + to;
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
                   "r"((rows.low_rows + rows.high_rows) * count * 2)
                   : "memory");
      if constexpr (parts == 1) {
        bulk_copy(at, rows.low, rows.low_rows * K * 2, barrier);
        if (tiling.rows == 16 && rows.high_rows > 0) bulk_copy(at + 8 * K, rows.high, rows.high_rows * K * 2, barrier);
      } else {
        for (int i = 0; i < rows.low_rows; ++i) bulk_copy(at + i * span, rows.low + static_cast<int64_t>(i) * K + k, count * 2, barrier);
        for (int i = 0; i < rows.high_rows; ++i) bulk_copy(at + (8 + i) * span, rows.high + static_cast<int64_t>(i) * K + k, count * 2, barrier);
      }
    }
#else
    for (int i = static_cast<int>(threadIdx.x); i < tiling.rows * (span / 8); i += tiling.threads()) {
      const int row = i / (span / 8), column = i % (span / 8) * 8;
      const bool in = (row < 8 ? row < rows.low_rows : row - 8 < rows.high_rows) && column < count;
      const Bf16* const from = (row < 8 ? rows.low + static_cast<int64_t>(row) * K : rows.high + static_cast<int64_t>(row - 8) * K) + k + column;
      if (in) asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(at + row * span + column)), "l"(from) : "memory");
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
  }
  // Instead of a copy, where there is nothing left to copy.
  static ERN_DEVICE void copy_nothing() {
#if __CUDA_ARCH__ < 900
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
  }

  ERN_DEVICE void wait_for_stage() {
#if __CUDA_ARCH__ >= 900
    asm volatile(
        "{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra again;\n}" ::"r"(
            shared_address(barriers + stage)),
        "r"(parity)
        : "memory");
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(stages - 1) : "memory");
    __syncthreads();
#endif
  }

  // Fills the ring, which is empty, with the first parts of the tiles source(0), source(1), ... of which there are `total`; may come before
  // the wait. Every thread calls it.
  template <class Source>
  ERN_DEVICE void begin(const Source& source, int total) {
#pragma unroll
    for (int i = 0; i < stages; ++i) {
      if (i / parts < total) copy(source(i / parts), i % parts, (stage + i) % stages);
      else copy_nothing();
    }
    __syncthreads();
  }

  template <class RowOf>
  ERN_DEVICE uint4 operand(const RowOf& row, int count, const Bf16* norm, int token_tile, int part, int i) {
    const int in_part = (warp * each + i) * k_block + quad * lane_k, k = part * span + in_part;
    if (token_tile * 8 + group >= count || (!exact && (in_part >= span || k >= K))) return uint4{0, 0, 0, 0};
    return load_operand(row(token_tile * 8 + group) + k, norm + k, squares[token_tile]);
  }

  // Rows 0 .. count - 1 of x, row(0 .. count - 1), pointers, for the tiles that follow.
  template <class RowOf>
  ERN_DEVICE void load_x(const RowOf& row, int count, const Bf16* norm) {
    if constexpr (held) {
#pragma unroll
      for (int t = 0; t < tiling.token_tiles; ++t) squares[t] = 0;
#pragma unroll
      for (int i = 0; i < parts * each * tiling.token_tiles; ++i) {
        x_held[i] = operand(row, count, norm, i % tiling.token_tiles, i / tiling.token_tiles / each, i / tiling.token_tiles % each);
      }
    }
  }

  // Tile `index` of the source with the rows of load_x; leaves parts of what follows in the ring. Then each thread may call sum() for what it
  // likes, until the next run().
  template <class Source, class RowOf>
  ERN_DEVICE void run(const Source& source, int index, int total, int count, const RowOf& row, const Bf16* norm) {
    float acc[tiling.token_tiles][4] = {};
    if constexpr (!held) {
#pragma unroll
      for (int t = 0; t < tiling.token_tiles; ++t) squares[t] = 0;
    }
    const auto do_part = [&](int part) {
      wait_for_stage();
      const int first = warp * each * k_block + quad * lane_k;
      const Bf16* const low_row = ring + stage * stage_elements + group * span + first;
#pragma unroll
      for (int i = 0; i < each; ++i) {
        const bool in = exact || (first + i * k_block < span && part * span + first + i * k_block < K);
        const uint4 low = in ? *reinterpret_cast<const uint4*>(low_row + i * k_block) : uint4{0, 0, 0, 0};
        uint4 high = {0, 0, 0, 0};
        if constexpr (tiling.rows == 16) {
          if (in) high = *reinterpret_cast<const uint4*>(low_row + 8 * span + i * k_block);
        }
#pragma unroll
        for (int t = 0; t < tiling.token_tiles; ++t) {
          if constexpr (held) mma_block(acc[t], low, high, x_held[(part * each + i) * tiling.token_tiles + t]);
          else mma_block(acc[t], low, high, operand(row, count, norm, t, part, i));
        }
      }
      if (part + 1 < parts) next_part(source, index, total, part, true);
    };
    if constexpr (held) {
#pragma unroll
      for (int part = 0; part < parts; ++part) do_part(part);
    } else {
#pragma unroll 1
      for (int part = 0; part < parts; ++part) do_part(part);
    }
    buffer = buffers == 2 ? buffer ^ 1 : 0;
    if (buffers == 1) __syncthreads();
    float* const sums = all_sums + (buffer * warps + warp) * tiling.rows * pitch;
#pragma unroll
    for (int t = 0; t < tiling.token_tiles; ++t) {
      float* const at = sums + group * pitch + t * 8 + 2 * quad;
      at[0] = acc[t][0], at[1] = acc[t][1];
      if constexpr (tiling.rows == 16) at[8 * pitch] = acc[t][2], at[8 * pitch + 1] = acc[t][3];
      if constexpr (normed) {
        float s = squares[t];
        s += __shfl_xor_sync(~0u, s, 1);
        s += __shfl_xor_sync(~0u, s, 2);
        if (quad == 0) all_squares[(buffer * warps + warp) * tokens + t * 8 + group] = s;
      }
    }
    __syncthreads();
    next_part(source, index, total, parts - 1, false);
  }

  // On to the next stage; the one that was read is filled again.
  template <class Source>
  ERN_DEVICE void next_part(const Source& source, int index, int total, int part, bool sync) {
    if constexpr (!fixed) {
      if (sync) __syncthreads();
      const int ahead = part + stages, tile = index + ahead / parts;
      if (tiling.once ? ahead < parts : tile < total) copy(source(tile), ahead % parts, stage);
      else copy_nothing();
    }
    if (++stage == stages) stage = 0, parity ^= 1;
  }

  // Of the last tile: weight row 0 .. rows - 1, row of x 0 .. count - 1.
  ERN_DEVICE float sum(int weight_row, int token) const {
    float total = 0;
#pragma unroll
    for (int w = 0; w < warps; ++w) total += all_sums[((buffer * warps + w) * tiling.rows + weight_row) * pitch + token];
    return total;
  }

  // 1 / rms of a row of x; 1 without a norm.
  ERN_DEVICE float scale(int token, float eps) const {
    if constexpr (!normed) return 1;
    float total = 0;
#pragma unroll
    for (int w = 0; w < warps; ++w) total += all_squares[(buffer * warps + w) * tokens + token];
    return rsqrtf(total / K + eps);
  }
};

}  // namespace ern::cuda
