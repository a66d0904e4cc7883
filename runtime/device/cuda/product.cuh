// The product of a few rows of activations with a weight that is read once: what linear, linear_swiglu, head_argmax and the
// experts do in a decode step. Time is what the weight's bytes take, so everything serves keeping copies in flight.
//
//   x       X [rows, K]        row-major; Bf16, or float with a norm in front (see Norm)
//   weight  Bf16 [., K]        row-major, K a multiple of 8, rows aligned to 16 bytes
//
// A block goes through tiles of 16 weight rows (8, where those give too few blocks): two runs of up to 8 rows, "low" and "high". Its
// warps share out K in spans; a warp copies its spans of the tile's rows to stages of its own in shared memory (bulk copies on sm_90, else
// cp.async) and needs no other warp until the sums meet. Tokens are the 8 columns of a tensor-core product (mma_block in kernel.cuh), so 8
// cost what one costs; token_tiles products share each weight; more rows than 8 * token_tiles go round again.
//   thread   warp w: spans w, w + warps, ...; lane i < 16 copies row i; lane 4 g + q multiplies rows g and g + 8, k 8 q .. 8 q + 7 of a block
//   ring     `stages` spans of a warp in shared memory; a stage is filled again as soon as it is read, over the borders of tiles;
//            the first fill comes before the wait for inputs
//   shared   dynamic, product_shared<K, tiling>() bytes: stages [warps][stages][rows][span + 32] Bf16, whose pitch keeps reads free of bank
//            conflicts; then sums [buffers][warps][rows][8 * token_tiles + 1] f32, squares [buffers][warps][8 * token_tiles] f32, barriers
//   order    f32; a warp's k ascending in blocks of 32, then warps ascending: a row's bits don't depend on other rows
#pragma once

#include "kernel.cuh"

namespace ern::cuda {

struct ProductTiling {
  int rows = 16;        // weight rows of a tile: 8 or 16
  int warps = 4;
  int span = 256;       // k of a stage, a multiple of 64
  int stages = 1;       // of each warp
  int token_tiles = 1;  // of 8 rows of x
  bool once = false;    // the launch has a block a tile and no more rows than tokens(): no code for going round
  int residents = 4;    // blocks a multiprocessor that registers leave room for: who waits for inputs has its weights there already

  constexpr int threads() const { return warps * warp_size; }
  constexpr int tokens() const { return 8 * token_tiles; }
  constexpr int pitch() const { return span + 32; }
  constexpr int stage_bytes() const { return rows * pitch() * 2; }
  constexpr int buffers() const { return token_tiles == 1 ? 2 : 1; }  // of sums: with two, one barrier a tile
  constexpr int sums_bytes() const { return buffers() * warps * (rows * (tokens() + 1) + tokens()) * 4; }
  constexpr int shared_bytes() const { return warps * stages * (stage_bytes() + 8) + sums_bytes(); }
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
  static constexpr int warps = tiling.warps, span = tiling.span, stages = tiling.stages, tokens = tiling.tokens();
  static constexpr int spans = static_cast<int>(ceil_div(K, span)), turns = static_cast<int>(ceil_div(spans, warps));  // of a warp
  static constexpr int blocks = span / k_block;
  static constexpr bool normed = sizeof(X) == 4, exact = K % span == 0;
  static constexpr int pitch = tokens + 1, buffers = tiling.buffers();
  static_assert(tiling.rows == 8 || tiling.rows == 16);
  static_assert(K % lane_k == 0 && span % 64 == 0);
  static_assert(!tiling.once || stages <= turns);

  const int lane = lane_id(), warp = warp_id(), group = lane / 4, quad = lane % 4;
  Bf16* const ring;         // this warp's stages
  float* const all_sums;    // [buffers][warps][rows][pitch]
  float* const all_squares;  // [buffers][warps][tokens]
  uint64_t* const barriers;  // this warp's
  int stage = 0, parity = 0, buffer = 0;

  // `memory`: dynamic shared memory, aligned to 16 bytes. Every thread calls it.
  ERN_DEVICE explicit Product(unsigned char* memory)
      : ring(reinterpret_cast<Bf16*>(memory + warp_id() * stages * tiling.stage_bytes())),
        all_sums(reinterpret_cast<float*>(memory + warps * stages * tiling.stage_bytes())),
        all_squares(all_sums + buffers * warps * tiling.rows * pitch),
        barriers(reinterpret_cast<uint64_t*>(all_squares + buffers * warps * tokens) + warp_id() * stages) {
#if __CUDA_ARCH__ >= 900
    if (lane == 0) {
      for (int i = 0; i < stages; ++i) asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barriers + i)) : "memory");
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncwarp();
#endif
  }

  // Starts the copy of this warp's `turn`-th span of a tile into stage `to`.
  ERN_DEVICE void copy(const TileRows& rows, int turn, int to) {
    const int k = (turn * warps + warp) * span;
    Bf16* const at = ring + to * (tiling.stage_bytes() / 2);
    if (spans % warps == 0 || k < K) {
      const int count = exact || K - k >= span ? span : K - k;
#if __CUDA_ARCH__ >= 900
      const uint32_t barrier = shared_address(barriers + to);
      if (lane == 0) {
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"((rows.low_rows + rows.high_rows) * count * 2)
                     : "memory");
      }
      __syncwarp();
      if (lane < 8 ? lane < rows.low_rows : lane - 8 < rows.high_rows) {
        const Bf16* const from = (lane < 8 ? rows.low + static_cast<int64_t>(lane) * K : rows.high + static_cast<int64_t>(lane - 8) * K) + k;
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(
                shared_address(at + lane * tiling.pitch())),
            "l"(from), "r"(count * 2), "r"(barrier), "l"(evict_first)
            : "memory");
      }
#else
      for (int i = lane; i < tiling.rows * (span / 8); i += warp_size) {
        const int row = i / (span / 8), column = i % (span / 8) * 8;
        const bool in = (row < 8 ? row < rows.low_rows : row - 8 < rows.high_rows) && column < count;
        const Bf16* const from = (row < 8 ? rows.low + static_cast<int64_t>(row) * K : rows.high + static_cast<int64_t>(row - 8) * K) + k + column;
        if (in) asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(at + row * tiling.pitch() + column)), "l"(from) : "memory");
      }
#endif
    } else {
#if __CUDA_ARCH__ >= 900
      // No span in this turn: the stage's barrier moves on all the same.
      if (lane == 0) asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barriers + to)) : "memory");
#endif
    }
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
    __syncwarp();
#endif
  }

  // Fills the ring, which is empty, with the first spans of the tiles source(0), source(1), ... of which there are `total`; may come before the
  // wait.
  template <class Source>
  ERN_DEVICE void begin(const Source& source, int total) {
#pragma unroll
    for (int i = 0; i < stages; ++i) {
      if (i / turns < total) copy(source(i / turns), i % turns, (stage + i) % stages);
#if __CUDA_ARCH__ < 900
      else asm volatile("cp.async.commit_group;" ::: "memory");
#endif
    }
  }

  // Tile `index` of the source; leaves spans of what follows in the ring. Rows 0 .. count - 1 of x are row(0 .. count - 1), pointers. Then
  // each thread may call sum() for what it likes, until the next run().
  template <class Source, class RowOf>
  ERN_DEVICE void run(const Source& source, int index, int total, int count, const RowOf& row, const Bf16* norm) {
    float acc[tiling.token_tiles][4] = {};
    float squares[tiling.token_tiles] = {};
#pragma unroll 1
    for (int turn = 0; turn < turns; ++turn) {
      const int start = (turn * warps + warp) * span + quad * lane_k;
      if (spans % warps == 0 || (turn * warps + warp) < spans) {
        const auto operand = [&](int tile, int k) {
          if (tile * 8 + group >= count || (!exact && k >= K)) return uint4{0, 0, 0, 0};
          return load_operand(row(tile * 8 + group) + k, norm + k, squares[tile]);
        };
        constexpr bool ahead = tiling.token_tiles == 1;  // all of a span's x before its first product
        uint4 x[blocks];
        if constexpr (ahead) {
#pragma unroll
          for (int i = 0; i < blocks; ++i) x[i] = operand(0, start + i * k_block);
        }
        wait_for_stage();
        const Bf16* const low_row = ring + stage * (tiling.stage_bytes() / 2) + group * tiling.pitch() + quad * lane_k;
#pragma unroll
        for (int i = 0; i < blocks; ++i) {
          const int k = start + i * k_block;
          const bool in = exact || k < K;
          const uint4 low = in ? *reinterpret_cast<const uint4*>(low_row + i * k_block) : uint4{0, 0, 0, 0};
          uint4 high = {0, 0, 0, 0};
          if constexpr (tiling.rows == 16) {
            if (in) high = *reinterpret_cast<const uint4*>(low_row + 8 * tiling.pitch() + i * k_block);
          }
#pragma unroll
          for (int tile = 0; tile < tiling.token_tiles; ++tile) mma_block(acc[tile], low, high, ahead ? x[i] : operand(tile, k));
        }
        __syncwarp();
      }
      constexpr bool fixed = tiling.once && stages == turns;  // all copies are made in begin()
      if constexpr (!fixed) {
        const int ahead_turn = turn + stages, tile = index + ahead_turn / turns;
        if (tiling.once ? ahead_turn < turns : tile < total) copy(source(tile), ahead_turn % turns, stage);
#if __CUDA_ARCH__ < 900
        else asm volatile("cp.async.commit_group;" ::: "memory");
#endif
      }
      if (++stage == stages) stage = 0, parity ^= 1;
    }
    buffer = buffers == 2 ? buffer ^ 1 : 0;
    if (buffers == 1) __syncthreads();
    float* const sums = all_sums + (buffer * warps + warp) * tiling.rows * pitch;
#pragma unroll
    for (int tile = 0; tile < tiling.token_tiles; ++tile) {
      float* const at = sums + group * pitch + tile * 8 + 2 * quad;
      at[0] = acc[tile][0], at[1] = acc[tile][1];
      if constexpr (tiling.rows == 16) at[8 * pitch] = acc[tile][2], at[8 * pitch + 1] = acc[tile][3];
      if constexpr (normed) {
        squares[tile] += __shfl_xor_sync(~0u, squares[tile], 1);
        squares[tile] += __shfl_xor_sync(~0u, squares[tile], 2);
        if (quad == 0) all_squares[(buffer * warps + warp) * tokens + tile * 8 + group] = squares[tile];
      }
    }
    __syncthreads();
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
