// The product of a few rows of activations with a weight that is read once: what linear, linear_swiglu, head_argmax and the
// experts do in a decode step. Time is what the weight's bytes take, so everything serves keeping copies in flight.
//
//   x       X [rows, K]        row-major; Bf16, or float with a norm in front (see Norm)
//   weight  Bf16 [., K]        row-major, K a multiple of 8, rows aligned to 16 bytes
//
// A block goes through tiles of 8, 16, 32 or 48 weight rows: products of 16 rows (or 8) each, two runs of up to 8, "low" and "high". One
// thread copies a tile, or a part of it, `span` of its k, to a stage in shared memory, a bulk copy a row (sm_90; cp.async by all
// threads elsewhere). The warps share out the k of a stage. Tokens are the 8 columns of a tensor-core product (mma_block in kernel.cuh),
// so 8 cost what one costs; token_tiles products share each weight; more rows than tokens() go round again.
//   thread   warp w: blocks of 32 k w * each .. (w + 1) * each - 1 of a stage; lane 4 g + q: rows g and g + 8, k 8 q .. 8 q + 7 of a block
//   x        in registers, loaded once for all tiles, if it fits there (`held`); else from L2 for each. A float x is normed on the way:
//            a warp reads its k of each row in whole lines, scales, rounds and turns it over in shared memory
//   ring     `stages` parts; one is filled again as soon as all warps have read it, over the borders of tiles; the first fill comes before
//            the wait for inputs
//   shared   dynamic, tiling.shared_bytes(K, normed): stages [stages][rows][pitch] Bf16. With tiling.pitched a row is a copy of its own, and the pitch
//            keeps reads free of bank conflicts; else rows lie as in memory, 8 of them (with span 0) are one copy, and lanes of odd rows read two
//            blocks in the other order, which keeps them free of conflicts too. A barrier a stage; with a norm x [warps][tokens][each * 32 + 8] Bf16;
//            sums [buffers][warps][rows][tokens + 1] f32, squares [warps][tokens] f32
//   order    f32; a warp's k ascending in blocks of 32 (with token_tiles 1 and one product, even and odd blocks apart), then warps, four sums
//            apart: with one tiling a row's bits depend neither on other rows nor on how many there are; another tiling has other bits
#pragma once

#include "kernel.cuh"

namespace ern::cuda {

struct ProductTiling {
  int rows = 16;        // weight rows of a tile: 8, 16, 32 or 48
  int warps = 8;
  int span = 0;         // k of a stage, a multiple of 8; 0: all
  int stages = 1;
  int token_tiles = 1;  // of 8 rows of x
  bool once = false;    // the launch has a block a tile and no more rows than tokens(): no code for going round
  int residents = 2;    // blocks a multiprocessor that registers leave room for: who waits for inputs has its weights there already
  int columns = 8;      // with token_tiles 1: rows of x that are taken at a time, 1 .. 8; fewer take less shared memory
  bool pitched = true;  // a copy a row, to rows a pitch apart

  constexpr int threads() const { return warps * warp_size; }
  constexpr int tokens() const { return token_tiles == 1 ? columns : 8 * token_tiles; }
  constexpr int span_of(int k) const { return span == 0 ? k : span; }
  constexpr int stage_pitch(int k) const { return pitched ? static_cast<int>(ceil_div(span_of(k), 64)) * 64 + 32 : span_of(k); }
  constexpr int stage_bytes(int k) const { return rows * stage_pitch(k) * 2; }
  constexpr int buffers() const { return token_tiles == 1 && !once ? 2 : 1; }  // of sums: with two, one barrier a tile
  constexpr int products() const { return rows == 8 ? 1 : rows / 16; }
  // Of a warp: blocks of 32 k in a stage, and Bf16 from one row of x to the next where it is turned over.
  constexpr int each(int k) const { return static_cast<int>(ceil_div(span_of(k), k_block * warps)); }
  constexpr int turn_pitch(int k) const { return each(k) * k_block + 8; }
  constexpr int turned_bytes(int k, bool normed) const { return normed ? warps * tokens() * turn_pitch(k) * 2 : 0; }
  constexpr int sums_bytes() const { return buffers() * warps * rows * (tokens() + 1) * 4; }
  constexpr int shared_bytes(int k, bool normed) const {
    return stages * (stage_bytes(k) + 8) + turned_bytes(k, normed) + sums_bytes() + warps * tokens() * 4;
  }
};

// The norm that a float x goes through on its way into a product: x * weight is rounded to bf16, and 1 / rms, which is the
// same for all k, multiplies the finished sums. Rounded once like a normed row, but not the same bits.
struct Norm {
  bool on = false;
  float eps = 0;
};

// The rows of one product: `low` has low_rows of them from row 0, `high` high_rows from row 8; rows behind the end of a weight are left out.
struct TileRows {
  const Bf16* low;
  const Bf16* high;
  int low_rows;
  int high_rows;
  int stride = 0;  // elements from one row to the next; 0: K
};

// Rows first .. first + height - 1 of a weight [n, k], height 8 or 16.
template <int n, int k, int height>
ERN_DEVICE TileRows rows_from(const Bf16* weight, int first) {
  const int left = n - first;
  const Bf16* const low = weight + static_cast<int64_t>(first) * k;
  return {low, low + 8 * k, left < 0 ? 0 : left < 8 ? left : 8, height == 8 || left < 8 ? 0 : left < 16 ? left - 8 : 8};
}

template <int K, ProductTiling tiling, class X>
struct Product {
  static constexpr int warps = tiling.warps, span = tiling.span_of(K), stages = tiling.stages, tokens = tiling.tokens();
  static constexpr int parts = static_cast<int>(ceil_div(K, span));                    // of a tile
  static constexpr int each = tiling.each(K);                                          // blocks of 32 k of a warp in a part
  static constexpr bool normed = sizeof(X) == 4;
  static constexpr bool exact = K % span == 0 && span % (k_block * warps) == 0;        // no block is short or missing
  static constexpr bool held = parts * each * tiling.token_tiles <= 16;                // x stays in registers
  static constexpr bool fixed = tiling.once && stages == parts;                        // all copies are made in begin()
  static constexpr int pitch = tokens + 1, buffers = tiling.buffers(), products = tiling.products(), product_rows = tiling.rows / products;
  static constexpr int row_pitch = tiling.stage_pitch(K), stage_elements = tiling.rows * row_pitch;
  static constexpr bool swapped = row_pitch % 64 == 0;                                 // neighbouring rows would meet in the same banks
  static constexpr bool whole = !tiling.pitched && span == K;                          // rows of a stage lie as in memory
  // A float x comes in groups of 4 k a lane: of each part, the warp's each * 32 k.
  static constexpr int lines = static_cast<int>(ceil_div(each * k_block, 4 * warp_size)), turn_pitch = tiling.turn_pitch(K);
  static_assert(tiling.rows == 8 || tiling.rows % 16 == 0);
  static_assert(!normed || held, "more warps, so that x fits in registers");
  static_assert(K % lane_k == 0 && span % lane_k == 0 && span <= K);
  static_assert(!tiling.once || stages <= parts);
  static_assert(tiling.shared_bytes(K, normed) <= 227 * 1024, "more shared memory than a block of sm_90 can have");

  const int lane = lane_id(), warp = warp_id(), group = lane / 4, quad = lane % 4;
  Bf16* const ring;
  uint64_t* const barriers;
  Bf16* const turned;        // this warp's [tokens][turn_pitch]
  float* const all_sums;     // [buffers][warps][rows][pitch]
  float* const all_squares;  // [warps][tokens]
  int stage = 0, parity = 0, buffer = 0;
  uint4 x_held[held ? parts * each * tiling.token_tiles : 1];
  uint2 norm_held[normed ? parts * lines : 1];
  float squares[normed ? tokens : 1];  // of what this lane brought
  bool squares_due = false;

  // `memory`: dynamic shared memory, aligned to 16 bytes. Every thread calls it; thread 0 may copy at once, others after a barrier.
  ERN_DEVICE explicit Product(unsigned char* memory)
      : ring(reinterpret_cast<Bf16*>(memory)),
        barriers(reinterpret_cast<uint64_t*>(memory + stages * tiling.stage_bytes(K) + tiling.turned_bytes(K, normed))),
        turned(reinterpret_cast<Bf16*>(memory + stages * tiling.stage_bytes(K)) + warp * tokens * turn_pitch),
        all_sums(reinterpret_cast<float*>(barriers + stages)),
        all_squares(all_sums + buffers * warps * tiling.rows * pitch) {
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x == 0) {
#pragma unroll
      for (int i = 0; i < stages; ++i) asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barriers + i)) : "memory");
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncwarp();  // thread 0 alone goes on with them; racecheck sees its whole warp
#endif
  }

  static ERN_DEVICE void bulk_copy(Bf16* to, const Bf16* from, int bytes, uint64_t* barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(shared_address(to)),
        "l"(from), "r"(bytes), "r"(shared_address(barrier)), "l"(evict_first)
        : "memory");
  }

  // Starts the copy of part `part` of tile `tile` into stage `to`; source(tile, product) are its rows. Every thread calls it.
  template <class Source>
  ERN_DEVICE void copy(const Source& source, int tile, int part, int to) {
    const int k = part * span, count = K % span == 0 || K - k >= span ? span : K - k;
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x == 0) {
      uint64_t* const barrier = barriers + to;
      int all = 0;
#pragma unroll
      for (int p = 0; p < products; ++p) {
        const TileRows rows = source(tile, p);
        all += rows.low_rows + rows.high_rows;
      }
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(all * count * 2) : "memory");
#pragma unroll
      for (int p = 0; p < products; ++p) {
        const TileRows rows = source(tile, p);
        Bf16* const at = ring + to * stage_elements + p * product_rows * row_pitch;
        const int64_t stride = rows.stride == 0 ? K : rows.stride;
        if (whole && rows.stride == 0) {
          if (rows.low_rows > 0) bulk_copy(at, rows.low, rows.low_rows * K * 2, barrier);
          if (rows.high_rows > 0) bulk_copy(at + 8 * K, rows.high, rows.high_rows * K * 2, barrier);
          continue;
        }
        for (int i = 0; i < rows.low_rows; ++i) bulk_copy(at + i * row_pitch, rows.low + i * stride + k, count * 2, barrier);
        for (int i = 0; i < rows.high_rows; ++i) bulk_copy(at + (8 + i) * row_pitch, rows.high + i * stride + k, count * 2, barrier);
      }
    }
#else
#pragma unroll
    for (int p = 0; p < products; ++p) {
      const TileRows rows = source(tile, p);
      Bf16* const at = ring + to * stage_elements + p * product_rows * row_pitch;
      for (int i = static_cast<int>(threadIdx.x); i < product_rows * (span / 8); i += tiling.threads()) {
        const int row = i / (span / 8), column = i % (span / 8) * 8;
        const bool in = (row < 8 ? row < rows.low_rows : row - 8 < rows.high_rows) && column < count;
        const int64_t stride = rows.stride == 0 ? K : rows.stride;
        const Bf16* const from = (row < 8 ? rows.low + row * stride : rows.high + (row - 8) * stride) + k + column;
        if (in) asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(at + row * row_pitch + column)), "l"(from) : "memory");
      }
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

  // Fills the ring, which is empty, with the first parts of tiles 0, 1, ... of which there are `total`; may come before the wait. Every
  // thread calls it.
  template <class Source>
  ERN_DEVICE void begin(const Source& source, int total) {
#pragma unroll
    for (int i = 0; i < stages; ++i) {
      if (i / parts < total) copy(source, i / parts, i % parts, (stage + i) % stages);
      else copy_nothing();
    }
    __syncthreads();
  }

  // The first of 4 k that this lane brings of a float x, or -1.
  ERN_DEVICE int line_k(int part, int line) const {
    const int in_warp = (line * warp_size + lane) * 4, in_part = warp * each * k_block + in_warp, k = part * span + in_part;
    return in_warp < each * k_block && in_part < span && k < K ? k : -1;
  }

  // The norm's weight, for load_x; may come before the wait.
  ERN_DEVICE void load_norm(const Bf16* norm) {
    if constexpr (normed) {
#pragma unroll
      for (int i = 0; i < parts * lines; ++i) {
        const int k = line_k(i / lines, i % lines);
        norm_held[i] = k < 0 ? uint2{0, 0} : __ldg(reinterpret_cast<const uint2*>(norm + k));
      }
    }
  }

  template <class RowOf>
  ERN_DEVICE uint4 operand(const RowOf& row, int count, int token_tile, int part, int i) const {
    const int in_part = (warp * each + i) * k_block + quad * lane_k, k = part * span + in_part;
    if (token_tile * 8 + group >= count || (!exact && (in_part >= span || k >= K))) return uint4{0, 0, 0, 0};
    return load_fresh(row(token_tile * 8 + group) + k);
  }

  // Rows 0 .. count - 1 of x, row(0 .. count - 1), pointers, for the tiles that follow. Every thread calls it.
  template <class RowOf>
  ERN_DEVICE void load_x(const RowOf& row, int count) {
    if constexpr (normed) {
      if (!tiling.once) __syncthreads();  // the squares of before are read
#pragma unroll
      for (int t = 0; t < tokens; ++t) squares[t] = 0;
#pragma unroll
      for (int part = 0; part < parts; ++part) {
#pragma unroll
        for (int line = 0; line < lines; ++line) {
          const int k = line_k(part, line);
          const uint2 scale = norm_held[part * lines + line];
          Bf16* const to = turned + (line * warp_size + lane) * 4;
          constexpr int most = parts > 1 ? 4 : 8, together = tokens < most ? tokens : most;  // rows whose loads are under way at a time
#pragma unroll
          for (int first = 0; first < tokens; first += together) {
            float4 v[together];
#pragma unroll
            for (int t = 0; t < together; ++t) v[t] = first + t < count && k >= 0 ? load_fresh4(row(first + t) + k) : float4{0, 0, 0, 0};
#pragma unroll
            for (int t = 0; t < together; ++t) {
              if (first + t >= count || (line * warp_size + lane) * 4 >= each * k_block) continue;
              squares[first + t] += v[t].x * v[t].x + v[t].y * v[t].y + v[t].z * v[t].z + v[t].w * v[t].w;
              *reinterpret_cast<uint2*>(to + (first + t) * turn_pitch) = {pack_bf16(v[t].x * low_bf16(scale.x), v[t].y * high_bf16(scale.x)),
                                                                          pack_bf16(v[t].z * low_bf16(scale.y), v[t].w * high_bf16(scale.y))};
            }
          }
        }
        __syncwarp();
#pragma unroll
        for (int i = 0; i < each * tiling.token_tiles; ++i) {
          const int t = i % tiling.token_tiles * 8 + group;
          x_held[part * each * tiling.token_tiles + i] =
              t < count ? *reinterpret_cast<const uint4*>(turned + t * turn_pitch + i / tiling.token_tiles * k_block + quad * lane_k) : uint4{0, 0, 0, 0};
        }
        __syncwarp();
      }
      squares_due = true;
    } else if constexpr (held) {
#pragma unroll
      for (int i = 0; i < parts * each * tiling.token_tiles; ++i) {
        x_held[i] = operand(row, count, i % tiling.token_tiles, i / tiling.token_tiles / each, i / tiling.token_tiles % each);
      }
    }
  }

  // Tile `index` of `total` with the rows of load_x; leaves parts of what follows in the ring. Then each thread may call sum() for what it
  // likes, until the next run() or load_x().
  template <class Source, class RowOf>
  ERN_DEVICE void run(const Source& source, int index, int total, int count, const RowOf& row) {
    // Of products that wait for one another; two where registers allow it.
    constexpr int chains = tiling.token_tiles == 1 && products == 1 && parts * each < 16 ? 2 : 1;
    float acc[chains][products][tiling.token_tiles][4] = {};
    const auto do_part = [&](int part) {
      wait_for_stage();
      const int first = warp * each * k_block + quad * lane_k;
      const Bf16* const low_row = ring + stage * stage_elements + group * row_pitch + first;
      const auto weight_of = [&](int p, int i, int half) {
        const bool in = exact || (first + i * k_block < span && part * span + first + i * k_block < K);
        return in ? *reinterpret_cast<const uint4*>(low_row + (p * product_rows + half * 8) * row_pitch + i * k_block) : uint4{0, 0, 0, 0};
      };
      const auto multiply = [&](int i, const uint4 (&low)[products], const uint4 (&high)[products]) {
#pragma unroll
        for (int t = 0; t < tiling.token_tiles; ++t) {
          uint4 x;
          if constexpr (held) x = x_held[(part * each + i) * tiling.token_tiles + t];
          else x = operand(row, count, t, part, i);
#pragma unroll
          for (int p = 0; p < products; ++p) mma_block(acc[i % chains][p][t], low[p], high[p], x);
        }
      };
#pragma unroll
      for (int i = 0; i < each; i += swapped ? 2 : 1) {
        uint4 low[products], high[products];
        if (swapped && i + 1 < each) {
          const int odd = group % 2;
          uint4 next_low[products], next_high[products];
#pragma unroll
          for (int p = 0; p < products; ++p) {
            const uint4 a = weight_of(p, i + odd, 0), b = weight_of(p, i + 1 - odd, 0);
            low[p] = odd ? b : a, next_low[p] = odd ? a : b;
            high[p] = next_high[p] = {0, 0, 0, 0};
            if constexpr (product_rows == 16) {
              const uint4 c = weight_of(p, i + odd, 1), d = weight_of(p, i + 1 - odd, 1);
              high[p] = odd ? d : c, next_high[p] = odd ? c : d;
            }
          }
          multiply(i, low, high);
          multiply(i + 1, next_low, next_high);
          continue;
        }
#pragma unroll
        for (int p = 0; p < products; ++p) {
          low[p] = weight_of(p, i, 0);
          high[p] = product_rows == 16 ? weight_of(p, i, 1) : uint4{0, 0, 0, 0};
        }
        multiply(i, low, high);
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
    if constexpr (normed) {
      if (squares_due) {
#pragma unroll
        for (int t = 0; t < tokens; ++t) {
          if (t >= count) continue;
          const float sum = warp_sum(squares[t]);
          if (lane == 0) all_squares[warp * tokens + t] = sum;
        }
        squares_due = false;
      }
    }
    buffer = buffers == 2 ? buffer ^ 1 : 0;
    if (buffers == 1 && !tiling.once) __syncthreads();
    float* const sums = all_sums + (buffer * warps + warp) * tiling.rows * pitch;
#pragma unroll
    for (int p = 0; p < products; ++p) {
#pragma unroll
      for (int t = 0; t < tiling.token_tiles; ++t) {
        float* const at = sums + (p * product_rows + group) * pitch + t * 8 + 2 * quad;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (i >= 2 && product_rows == 8) continue;
          float sum = acc[0][p][t][i];
          if constexpr (chains == 2) sum += acc[1][p][t][i];
          if (tokens >= 8 || 2 * quad + i % 2 < tokens) at[i / 2 * 8 * pitch + i % 2] = sum;
        }
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
      if (tiling.once ? ahead < parts : tile < total) copy(source, tile, ahead % parts, stage);
      else copy_nothing();
    }
    if (++stage == stages) stage = 0, parity ^= 1;
  }

  // Over warps, as four sums that need not wait for one another.
  template <class At>
  static ERN_DEVICE float over_warps(const At& at) {
    float part[4] = {};
#pragma unroll
    for (int w = 0; w < warps; ++w) part[w % 4] += at(w);
    return (part[0] + part[1]) + (part[2] + part[3]);
  }

  // Of the last tile: weight row 0 .. rows - 1, row of x 0 .. count - 1.
  ERN_DEVICE float sum(int weight_row, int token) const {
    return over_warps([&](int w) { return all_sums[((buffer * warps + w) * tiling.rows + weight_row) * pitch + token]; });
  }

  // 1 / rms of a row of x; 1 without a norm.
  ERN_DEVICE float scale(int token, float eps) const {
    if constexpr (!normed) return 1;
    return rsqrtf(over_warps([&](int w) { return all_squares[w * tokens + token]; }) / K + eps);
  }
};

}  // namespace ern::cuda
