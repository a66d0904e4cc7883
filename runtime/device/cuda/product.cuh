// The product of a few rows of activations with a weight that is read once: what linear, linear_swiglu, head_argmax and the
// experts do in a decode step. Time is what the weight's bytes take, so everything serves keeping loads in flight.
//
//   x       X [rows, K]        row-major; Bf16, or float with a norm in front (see Norm)
//   weight  Bf16 [., K]        row-major, K a multiple of 8, rows aligned to 16 bytes
//
// A block takes tiles of 16 weight rows (8, where those give too few blocks), its warps share out K. A lane loads 16 contiguous bytes
// of a row: 8 k of a tensor-core operand whose k are permuted (mma_block in kernel.cuh), so weights go from memory to the
// instruction without shared memory or shuffles, and 8 tokens cost what one costs. Tokens are the 8 columns of a product;
// token_tiles products share the weights in registers; more rows than 8 * token_tiles go round again.
//   thread   warp w: k blocks w * blocks .. (w + 1) * blocks - 1; lane 4 g + q: rows g and g + 8, k 8 q .. 8 q + 7 of each block
//   ring     `depth` k blocks of a warp in registers; a slot is loaded again as soon as it is used, over the borders of
//            tiles, and filled before the wait for inputs
//   shared   sums[2][warps][16][8 * token_tiles + 1] f32 (one buffer if token_tiles > 1), squares[warps][8 * token_tiles]
//   order    f32; a warp's k ascending in blocks of 32, then warps ascending: a row's bits don't depend on other rows
#pragma once

#include "kernel.cuh"

namespace ern::cuda {

struct ProductTiling {
  int rows = 16;        // weight rows of a tile: 8 or 16
  int warps = 8;
  int depth = 4;        // k blocks in flight a warp; divides blocks a warp
  int token_tiles = 1;  // of 8 rows of x
  bool once = false;    // the launch has a block a tile and no more rows than tokens(): no code for going round
  int residents = 2;    // blocks a multiprocessor that registers leave room for: who waits for inputs has its weights there already

  constexpr int threads() const { return warps * warp_size; }
  constexpr int tokens() const { return 8 * token_tiles; }
  // K blocks of one warp, a multiple of depth.
  constexpr int blocks(int k) const { return static_cast<int>(ceil_div(ceil_div(k, k_block * warps), depth) * depth); }
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

template <int K, ProductTiling tiling, class X>
struct Product {
  static constexpr int blocks = tiling.blocks(K), chunks = blocks / tiling.depth, tokens = tiling.tokens();
  static constexpr bool normed = sizeof(X) == 4;
  static constexpr int pitch = tokens + 1, buffers = tiling.token_tiles == 1 ? 2 : 1;
  static_assert(tiling.rows == 8 || tiling.rows == 16);
  static_assert(K % lane_k == 0);

  struct Shared {
    float sums[buffers][tiling.warps][16 * pitch];
    float squares[buffers][tiling.warps][tokens];
  };

  Shared& shared;
  const int lane = lane_id(), warp = warp_id(), group = lane / 4, quad = lane % 4;
  const int first_k = warp * blocks * k_block + quad * lane_k;
  int turn = 0;
  uint4 low[tiling.depth], high[tiling.depth];

  ERN_DEVICE explicit Product(Shared& memory) : shared(memory) {}

  static ERN_DEVICE bool inside(int k) { return K % (k_block * tiling.warps * tiling.depth) == 0 || k < K; }

  ERN_DEVICE void load(int slot, const Bf16* low_row, const Bf16* high_row, int k) {
    const bool in = inside(k);
    low[slot] = in ? load_weight(low_row + k) : uint4{0, 0, 0, 0};
    if constexpr (tiling.rows == 16) high[slot] = in ? load_weight(high_row + k) : uint4{0, 0, 0, 0};
    else high[slot] = uint4{0, 0, 0, 0};
  }

  // Fills the ring with the first blocks of this lane's two rows; may come before the wait.
  ERN_DEVICE void begin(const Bf16* low_row, const Bf16* high_row) {
#pragma unroll
    for (int i = 0; i < tiling.depth; ++i) load(i, low_row, high_row, first_k + i * k_block);
  }

  // One tile, whose first blocks are in the ring; leaves those of the next tile's rows there, if `more`. Rows 0 .. count - 1 of
  // x are row(0 .. count - 1), pointers; then each thread may call sum() for what it likes, until the next run().
  template <class RowOf>
  ERN_DEVICE void run(const Bf16* low_row, const Bf16* high_row, const Bf16* next_low, const Bf16* next_high, bool more, int count,
                      const RowOf& row, const Bf16* norm) {
    float acc[tiling.token_tiles][4] = {};
    float squares[tiling.token_tiles] = {};
    for (int chunk = 0; chunk < chunks; ++chunk) {
      const bool last = chunk + 1 == chunks;
      const int start = first_k + chunk * tiling.depth * k_block;
      const auto operand = [&](int tile, int k) {
        if (tile * 8 + group >= count || !inside(k)) return uint4{0, 0, 0, 0};
        return load_operand(row(tile * 8 + group) + k, norm + k, squares[tile]);
      };
      constexpr bool ahead = tiling.token_tiles == 1;  // all of a chunk's x before its first product
      uint4 x[tiling.depth];
      if constexpr (ahead) {
#pragma unroll
        for (int i = 0; i < tiling.depth; ++i) x[i] = operand(0, start + i * k_block);
      }
#pragma unroll
      for (int i = 0; i < tiling.depth; ++i) {
        const int k = start + i * k_block;
#pragma unroll
        for (int tile = 0; tile < tiling.token_tiles; ++tile) {
          mma_block(acc[tile], low[i], high[i], ahead ? x[i] : operand(tile, k));
        }
        if (!last) load(i, low_row, high_row, k + tiling.depth * k_block);
        else if (!tiling.once && more) load(i, next_low, next_high, first_k + i * k_block);
      }
    }
    turn = buffers == 2 ? turn ^ 1 : 0;
    if (buffers == 1) __syncthreads();
    float* const sums = shared.sums[turn][warp];
#pragma unroll
    for (int tile = 0; tile < tiling.token_tiles; ++tile) {
      float* const at = sums + group * pitch + tile * 8 + 2 * quad;
      at[0] = acc[tile][0], at[1] = acc[tile][1];
      if (tiling.rows == 16) at[8 * pitch] = acc[tile][2], at[8 * pitch + 1] = acc[tile][3];
      if constexpr (normed) {
        squares[tile] += __shfl_xor_sync(~0u, squares[tile], 1);
        squares[tile] += __shfl_xor_sync(~0u, squares[tile], 2);
        if (quad == 0) shared.squares[turn][warp][tile * 8 + group] = squares[tile];
      }
    }
    __syncthreads();
  }

  // Of the last tile: weight row 0 .. 15, row of x 0 .. count - 1.
  ERN_DEVICE float sum(int weight_row, int token) const {
    float total = 0;
#pragma unroll
    for (int w = 0; w < tiling.warps; ++w) total += shared.sums[turn][w][weight_row * pitch + token];
    return total;
  }

  // 1 / rms of a row of x; 1 without a norm.
  ERN_DEVICE float scale(int token, float eps) const {
    if constexpr (!normed) return 1;
    float total = 0;
#pragma unroll
    for (int w = 0; w < tiling.warps; ++w) total += shared.squares[turn][w][token];
    return rsqrtf(total / K + eps);
  }
};

}  // namespace ern::cuda
