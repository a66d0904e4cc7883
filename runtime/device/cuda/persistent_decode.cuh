// persistent_decode: a whole decode step of a dense model in one launch, for at most 8 sequences: embedding, then for each layer norm and qkv,
// rotation and append to the cache, attention, o and the residual, norm, gate|up and SwiGLU, down and the residual, at last norm, head, argmax.
//
// Time is what the weights' bytes take, if copies never stop. So each block streams its rows of every weight, in the order of use, through a ring in
// shared memory, without regard to what they will be multiplied with: weights depend on nothing. What does depend travels between blocks as
// data that says itself whether it is there (exchange.cuh): no flag, no fence, no barrier of the grid. Everything is read where it lies: weights in
// the layouts of linear.cuh and linear_swiglu.cuh, the cache as attention_decode.cuh has it.
//
//   blocks    hidden / 8. Block b owns rows 8 b .. 8 b + 7 of the residual stream, whose values never leave its registers (f32), and takes groups
//             of 8 rows of each weight: of o and down its own, of the others an even share, in turns from layer to layer where it is not whole
//   warps     8 that multiply, each a part of k of all rows; 3 that finish (add the parts, scale, rotate, activate, publish); 1 that copies
//   ring      p.stages stages of 8 * hidden Bf16; a bulk copy a stage. A warp takes its part of a product's rows from there to registers while it
//             waits for activations: the ring is filled again early, and products need no shared memory once the activations are there
//   pace      activations travel through the L2 that the weights come through, and stand in its queues. So few copies are under way, and
//             they start p.pace clocks apart: as much as the memory gives, in no bursts
//   x         a warp polls its operands straight from the exchange: its k of each row, 16 bytes a lane (mma_block in kernel.cuh)
//   norm      x * weight is rounded to bf16 and travels with the sum of its squares; 1 / rms multiplies finished sums (as in product.cuh)
//   attention where contexts are short a unit is (sequence, head): one block, all entries. Else (sequence, kv head, share of the entries), and a
//             merge. 128 entries at a time: a warp has the scores of 16 of them, then all entries' values of 16 dims
//   order     f32; of k in a warp ascending in turns of chains, then warps: a row's bits depend neither on other rows nor on how many there are,
//             but on whether the longest context of the step is shared out
//
// Launch: blocks of Persistent<p>::threads threads, Persistent<p>::shared_bytes of dynamic shared memory, cooperative: blocks wait for one another,
// so all must run at once, one a multiprocessor. The cooperative attribute makes the driver start all or none, whatever else is on the
// device (another engine, another stream); a device with fewer multiprocessors than blocks refuses it. No programmatic dependence.
// Workspace: Persistent<p>::workspace_bytes, aligned to 256, zero before the first launch; launches that share it follow one another.
// sm_90a and later of its kind. Reference ops: those of a decode step.
#pragma once

#include "argmax.cuh"
#include "attention_decode.cuh"
#include "exchange.cuh"
#include "linear_swiglu.cuh"
#include "tma.cuh"

// What a block notes of its progress; benchmarks define it.
#ifndef ERN_STAMP
#define ERN_STAMP(what, layer)
#endif

namespace ern::cuda {

struct PersistentDecode {
  int layers;
  int hidden;
  int heads;
  int ffn;
  int vocab;
  KvAppend cache;
  int group;  // gate and up come in turns of that many rows
  float eps;
  float scale;  // of scores
  int spatial_pairs = 0;
  int tokens = 1;           // most sequences of a step: 1, 2, 4 or 8
  int halves = 1;           // 2: a stage is half as large
  int stages = 12;          // of the ring
  int under_way = 2;        // stages whose copies are under way at a time. What an activation waits for on its way through L2 grows with them
  int head_under_way = 4;   // the same where nothing travels
  int whole_context = 512;  // longer contexts are shared out
  int pace = 0;             // clocks from the start of one copy to the next's, at least, but in the head
  bool eager = false;       // polls all its operands at once, else one of them until it is there
  int copies = 2;           // of what all blocks read
  int64_t spin_limit = 0;   // polls after which a wait counts as hung and traps; 0: never
};

// One layer's weights and cache, as in linear.cuh, linear_swiglu.cuh, attention_decode.cuh.
struct PersistentLayer {
  const Bf16* attention_norm;
  const Bf16* qkv;
  const Bf16* o;
  const Bf16* ffn_norm;
  const Bf16* up;
  const Bf16* down;
  Bf16* kv;
};

// Pointers only: a launch's arguments are this struct, in this order.
template <int layers>
struct PersistentArguments {
  const int32_t* ids;
  const int32_t* positions;    // [S, 3]
  const int32_t* slots;        // [S]
  const int32_t* block_table;  // [S, step->block_stride]
  const int32_t* context;      // [S], the new entry included
  float* logits;               // [S, vocab]
  int32_t* next;               // [S]
  const Bf16* embedding;       // [vocab, hidden]
  const Bf16* norm;
  const Bf16* head;            // [vocab, hidden]
  PersistentLayer layer[layers];
};

// --- the kernel -----------------------------------------------------------------------------------------------------------

template <PersistentDecode p>
struct Persistent {
  static constexpr int rows = 8;  // of a group
  static constexpr int warps = 8, finishers = 3, threads = (warps + finishers + 1) * warp_size, finish_threads = finishers * warp_size;
  static constexpr int blocks = p.hidden / rows, hidden = p.hidden, tokens = p.tokens;
  static constexpr int heads = p.heads, kv_heads = p.cache.kv_heads, head_dim = p.cache.head_dim, heads_of_kv = heads / kv_heads;
  static constexpr int q_width = heads * head_dim, qkv_width = (heads + 2 * kv_heads) * head_dim;
  static constexpr int stage_elements = rows * hidden / p.halves, stage_bytes = stage_elements * 2, ring_bytes = p.stages * stage_bytes;
  static_assert(hidden % (warps * k_block * 2) == 0 && q_width % hidden == 0 && p.ffn % hidden == 0 && p.vocab % rows == 0);
  static_assert(head_dim == 16 * warps && heads % kv_heads == 0 && heads_of_kv <= 8 && p.cache.block_size % 16 == 0);
  static_assert(tokens == 1 || tokens == 2 || tokens == 4 || tokens == 8);
  static_assert(tokens * heads <= blocks && p.group % rows == 0 && p.ffn % p.group == 0);

  // Shares of a weight: groups of 8 rows, pairs of them for gate|up.
  struct Share {
    int first, count;
  };
  static constexpr int most_of(int groups) { return static_cast<int>(ceil_div(groups, blocks)); }
  static ERN_DEVICE Share share(int groups, int turn) {
    const int b = (static_cast<int>(blockIdx.x) + turn) % blocks, first = groups * b / blocks;
    return {first, groups * (b + 1) / blocks - first};
  }
  static constexpr int qkv_groups = qkv_width / rows, up_pairs = p.ffn / rows, head_groups = p.vocab / rows;
  static constexpr int qkv_most = most_of(qkv_groups), up_most = most_of(up_pairs);
  static constexpr int most_rows = (qkv_most + 1) / 2 * 16 > up_most * 16 ? (qkv_most + 1) / 2 * 16 : up_most * 16;  // that one product has sums of

  // One set of the exchange, in words. Eight values of each token, which one block publishes, have a line of their own: [tokens][8] Bf16, in x
  // then the sum of their squares for each token, f32. What all blocks read may be there several times.
  static constexpr int line = 32, x_line = tokens < 8 ? line : 2 * line, copies = p.copies;
  struct Exchange {
    static constexpr int64_t x = 0, x_copy = int64_t{blocks} * x_line, x_each = copies * x_copy;  // times the norm's weight, not yet scaled
    static constexpr int64_t qkv = x + (2 * p.layers + 1) * x_each, qkv_each = int64_t{qkv_groups} * line;  // rotated
    static constexpr int64_t attended = qkv + p.layers * qkv_each, attended_copy = int64_t{q_width} / rows * line;
    static constexpr int64_t attended_each = copies * attended_copy;
    static constexpr int64_t act = attended + p.layers * attended_each, act_copy = int64_t{p.ffn} / rows * line, act_each = copies * act_copy;
    static constexpr int64_t best = act + p.layers * act_each;  // {value, id} of each block, for each token
    static constexpr int64_t words = ceil_div(best + int64_t{tokens} * blocks * 2, 64) * 64;
  };
  // Parts of attention over long contexts, tagged: [block][head of kv][warp], each 16 dims and, in a line of their own, what they are relative to
  // and their mass.
  static constexpr int part = 32;  // of 8 bytes
  static constexpr int64_t parts_words = int64_t{blocks} * 8 * warps * part * 2, header_words = 64;
  static constexpr int64_t workspace_bytes = 4 * (header_words + parts_words + 2 * Exchange::words);

  static constexpr int chunk = 16 * warps, most_slots = 128;
  struct Shared {
    Barrier full[p.stages], empty[p.stages];       // of the ring
    Barrier sums_full[2], sums_empty[2];
    float sums[2][warps][most_rows][tokens];
    float squares[2][warps][tokens];               // of what each warp's k belongs to
    float peak[warps][8], mass[warps][8];
    alignas(16) Bf16 query[8][head_dim + 32];      // a pitch free of bank conflicts
    uint32_t chance[warps][2][warp_size];          // softmax of 16 entries each, not yet divided, as operands
    Best row_best[tokens][16];
    int32_t slots[most_slots];                     // of every 16 entries that this block attends to
  };
  static constexpr int kv_bytes = 2 * chunk * head_dim * 2;  // keys, then values of a chunk
  static constexpr int shared_bytes = ring_bytes + kv_bytes + static_cast<int>(sizeof(Shared));
  static_assert(shared_bytes <= 227 * 1024, "fewer stages");

  const Step* const step;
  const PersistentArguments<p.layers>& given;
  const RopeFrequencies<head_dim>& frequencies;
  unsigned char* const ring;
  unsigned char* const kv_chunk;
  Shared& shared;
  uint32_t* exchange;                    // this step's set
  uint64_t* parts;
  uint32_t first_tag;
  const int block = static_cast<int>(blockIdx.x), lane = lane_id(), warp = warp_id(), group = lane / 4, quad = lane % 4;
  const uint32_t never = threadIdx.x / threads;  // 0, which the compiler doesn't know
  int count = 0;                         // sequences
  // What this block attends to: heads first_head .. first_head + taken - 1 of one kv head, over chunks rank, rank + shares, ... of 128 entries.
  // taken is 0 for none.
  struct Unit {
    int sequence = 0, first_head = 0, taken = 0, rank = 0, shares = 1;
    int known = 0;                       // entries of earlier steps
  };
  Unit unit;
  bool whole = true;                     // a unit has all entries
  Ring<p.stages> place;
  Ring<p.stages> oldest;                 // of the copies under way
  int under_way = 0;
  uint32_t last_copy = 0;
  int sums_turn = 0;                     // products so far

  // --- waiting ---

  static ERN_DEVICE void count_spin(int64_t& spins) {
    if constexpr (p.spin_limit > 0) {
      if (++spins > p.spin_limit) __trap();
    }
  }
  static ERN_DEVICE void wait(Barrier& barrier, int parity) {
    if constexpr (p.spin_limit == 0) {
      barrier.wait(parity);
    } else {
      for (int64_t spins = 0;; count_spin(spins)) {
        uint32_t done;
        asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                     : "=r"(done)
                     : "r"(shared_address(&barrier)), "r"(parity)
                     : "memory");
        if (done) return;
      }
    }
  }
  static ERN_DEVICE uint32_t poll(const uint32_t* at) {
    uint32_t v;
    for (int64_t spins = 0; (v = load_relaxed(at)) == absent;) count_spin(spins);
    return v;
  }

  // --- the copying warp ---

  ERN_DEVICE void copy_group(const Bf16* weight, int64_t first_row, int k, int most = p.under_way, uint32_t pace = p.pace) {
    const Bf16* const from = weight + first_row * k;
    for (int part = 0; part < k / hidden * p.halves; ++part) {
      wait(shared.empty[place.stage], place.parity ^ 1);
      for (; under_way >= most; --under_way) wait(shared.full[oldest.stage], oldest.parity), oldest.next();
      ++under_way;
      while (pace > 0 && static_cast<uint32_t>(clock64()) - last_copy < pace) {
      }
      last_copy = static_cast<uint32_t>(clock64());
      Barrier& full = shared.full[place.stage];
      full.arrive_expecting(stage_bytes);
      asm volatile(
          "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(
              shared_address(ring) + place.stage * stage_bytes),
          "l"(from + part * stage_elements), "r"(stage_bytes), "r"(shared_address(&full)), "l"(evict_first)
          : "memory");
      place.next();
    }
  }

  ERN_DEVICE void copy_all() {
    if (lane != 0) return;
    for (int l = 0; l < p.layers; ++l) {
      const PersistentLayer& layer = given.layer[l];
      const Share qkv = share(qkv_groups, l), up = share(up_pairs, l);
      for (int i = 0; i < qkv.count; ++i) copy_group(layer.qkv, (qkv.first + i) * rows, hidden);
      copy_group(layer.o, block * rows, q_width);
      for (int i = 0; i < up.count; ++i) {
        const int gate = gate_row<p.group>((up.first + i) * rows);
        copy_group(layer.up, gate, hidden);
        copy_group(layer.up, gate + p.group, hidden);
      }
      copy_group(layer.down, block * rows, p.ffn);
    }
    const Share head = share(head_groups, 0);
    for (int i = 0; i < head.count; ++i) copy_group(given.head, static_cast<int64_t>(head.first + i) * rows, hidden, p.head_under_way, 0);
  }

  // --- the multiplying warps ---

  // This warp's k of the groups of rows that come next in the ring, as operands; hands their stages back. Rows lie a multiple of 128 bytes apart,
  // so lanes of odd rows read the second block of 32 k first: 8 lanes then read 128 different bytes of the banks.
  template <int k, int most>
  ERN_DEVICE void take_groups(uint4 (&to)[most][k / (warps * k_block)], int groups) {
    constexpr int stages = k / hidden * p.halves, each = k / (warps * k_block);
    const int in_group = (group * k + warp * (k / warps) + quad * lane_k) * 2, odd = group & 1;
    Ring<p.stages> next = place;
#pragma unroll
    for (int g = 0; g < most; ++g) {
      const int first = next.stage * stage_bytes + in_group;
      if (g < groups) {
#pragma unroll
        for (int i = 0; i < stages; ++i) wait(shared.full[next.stage], next.parity), next.next();
      }
#pragma unroll
      for (int i = 0; i < each; ++i) {
        int offset = first + (i ^ odd) * k_block * 2;
        if (stages > 1 && offset >= ring_bytes) offset -= ring_bytes;
        to[g][i] = g < groups ? *reinterpret_cast<const uint4*>(ring + offset) : uint4{0, 0, 0, 0};
      }
    }
#pragma unroll
    for (int g = 0; g < most; ++g) {
#pragma unroll
      for (int i = 0; i < each; i += 2) {
        const uint4 a = to[g][i], b = to[g][i + 1];
        to[g][i] = {odd ? b.x : a.x, odd ? b.y : a.y, odd ? b.z : a.z, odd ? b.w : a.w};
        to[g][i + 1] = {odd ? a.x : b.x, odd ? a.y : b.y, odd ? a.z : b.z, odd ? a.w : b.w};
      }
    }
    // The reads must be over, not only under way, when the copy engine may write there: so where to arrive depends on what each has read.
    // (A fence of the async proxy does it too, in 500 clocks.)
    uint32_t read = 0;
#pragma unroll
    for (int g = 0; g < most; ++g) {
#pragma unroll
      for (int i = 0; i < each; ++i) read ^= to[g][i].x;
    }
    Barrier* const empty = shared.empty + (read & never);
    __syncwarp();
    for (; place.stage != next.stage || place.parity != next.parity; place.next()) {
      if (lane == 0) empty[place.stage].arrive();
    }
  }

  // This warp's k of all rows of an activation, as operands, when they are there.
  // `ask` brings what else is wanted, with the last of it.
  template <int k, int words, class Ask>
  ERN_DEVICE void poll_operands(uint4 (&x)[k / (warps * k_block)], const uint32_t* lines, const Ask& ask) const {
    constexpr int each = k / (warps * k_block);
    const uint32_t* const at = lines + (warp * (k / warps / rows) + quad) * words + group * 4;
    const bool mine = group < count;
#pragma unroll
    for (int i = 0; i < each; ++i) x[i] = {0, 0, 0, 0};
    int64_t spins = 0;
    if constexpr (!p.eager) {
      for (;; count_spin(spins)) {
        if (mine) x[each - 1] = load_relaxed4(at + (each - 1) * 4 * words);
        if (!__any_sync(~0u, mine && least(x[each - 1]) == absent)) break;
      }
    }
    for (;; count_spin(spins)) {
      uint32_t low = all_there;
      if (mine) {
#pragma unroll
        for (int i = 0; i < (p.eager ? each : each - 1); ++i) x[i] = load_relaxed4(at + i * 4 * words);
      }
      ask();
#pragma unroll
      for (int i = 0; i < each; ++i) low = min(low, least(x[i]));
      if (!__any_sync(~0u, mine && low == absent)) break;
    }
  }

  // The squares that come with x, in two steps: products come between.
  struct Squares {
    uint32_t of[hidden / (warps * k_block)];
  };
  ERN_DEVICE void ask_squares(Squares& squares, const uint32_t* lines) const {
#pragma unroll
    for (int i = 0; i < hidden / (warps * k_block); ++i) {
      const uint32_t* const at = lines + (warp * (hidden / warps / rows) + quad + i * 4) * x_line + tokens * 4;
      squares.of[i] = group < count ? load_relaxed(at + group) : present(0.0f);
    }
  }
  // Their sum over this warp's k, of token `group`, for the finishing warps, with the sums of the product that follows.
  ERN_DEVICE void put_squares(Squares& squares, const uint32_t* lines, int norm) {
    float sum = 0;
    for (int64_t spins = 0;; count_spin(spins)) {
      uint32_t low = all_there;
#pragma unroll
      for (uint32_t of : squares.of) low = min(low, of);
      if (!__any_sync(~0u, low == absent)) break;
      ask_squares(squares, lines);
    }
#pragma unroll
    for (uint32_t of : squares.of) sum += __uint_as_float(of);
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    if (quad == 0 && group < tokens) shared.squares[norm & 1][warp][group] = sum;
  }

  // Products of up to `most` groups, two of them each, and the parts of their sums for the finishing warps.
  // before_sums() comes between the two.
  template <int most, int each, class BeforeSums>
  ERN_DEVICE void multiply(const uint4 (&w)[most][each], const uint4 (&x)[each], int groups, const BeforeSums& before_sums) {
    constexpr int tiles = (most + 1) / 2, chains = tiles == 1 ? 4 : 2;
    float acc[tiles][chains][4] = {};
    constexpr uint4 zero{0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < each; ++i) {
#pragma unroll
      for (int t = 0; t < tiles; ++t) {
        if (2 * t >= groups) continue;
        mma_block(acc[t][i % chains], w[2 * t][i], 2 * t + 1 < most ? w[2 * t + 1 < most ? 2 * t + 1 : 0][i] : zero, x[i]);
      }
    }
    before_sums();
    const int buffer = sums_turn & 1;
    wait(shared.sums_empty[buffer], (sums_turn >> 1 & 1) ^ 1);
#pragma unroll
    for (int t = 0; t < tiles; ++t) {
      float(*const to)[tokens] = shared.sums[buffer][warp] + 16 * t;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float sum = acc[t][0][i] + acc[t][1][i];
        if constexpr (chains == 4) sum += acc[t][2][i] + acc[t][3][i];
        if (tokens == 8 || 2 * quad + i % 2 < tokens) to[group + i / 2 * 8][2 * quad + i % 2] = sum;
      }
    }
    __syncwarp();
    if (lane == 0) shared.sums_full[buffer].arrive();
    ++sums_turn;
  }

  // The product of rows that were taken and an activation. `norm`: the number of the norm in front, or -1.
  template <int k, int most, bool normed>
  ERN_DEVICE void product(const uint4 (&w)[most][k / (warps * k_block)], const uint32_t* lines, int groups, int norm, int layer, int what) {
    constexpr int each = k / (warps * k_block);
    uint4 x[each];
    ERN_STAMP(what + 1, layer);
    Squares squares;
    poll_operands<k, normed ? x_line : line>(x, lines, [&] {
      if (normed) ask_squares(squares, lines);
    });
    ERN_STAMP(what + 2, layer);
    multiply<most, each>(w, x, groups, [&] {
      if (normed) put_squares(squares, lines, norm);
    });
    ERN_STAMP(what + 3, layer);
  }
  template <int k, int most, bool normed>
  ERN_DEVICE void take_and_multiply(const uint32_t* lines, int groups, int norm, int layer, int what) {
    uint4 w[most][k / (warps * k_block)];
    ERN_STAMP(what, layer);
    take_groups<k, most>(w, groups);
    product<k, most, normed>(w, lines, groups, norm, layer, what);
  }

  // The same number, but the compiler may not know: what follows from it is computed where it is used, not once before all layers and then kept
  // in memory.
  static ERN_DEVICE int again(int number) {
    asm volatile("" : "+r"(number));
    return number;
  }

  static ERN_DEVICE void meet_warps() { asm volatile("bar.sync 1, %0;" ::"n"(warps * warp_size) : "memory"); }

  // Shares of a sequence that have an entry.
  ERN_DEVICE int all_shares() const { return blocks / (count * kv_heads); }
  ERN_DEVICE int shares_of(int sequence) const {
    const int chunks = (given.context[sequence] + chunk - 1) / chunk, all = all_shares();
    return chunks < all ? chunks : all;
  }

  ERN_DEVICE int32_t slot_of(int entry) const {
    constexpr int block_size = p.cache.block_size;
    const int32_t* const table = given.block_table + static_cast<int64_t>(unit.sequence) * step->block_stride;
    return table[entry / block_size] * block_size + entry % block_size;
  }
  // Of the 16 entries from `tile` of a chunk, this block's chunk number `turn`.
  ERN_DEVICE int32_t slot_at(int turn, int tile) const {
    const int i = turn * warps + tile;
    return i < most_slots ? shared.slots[i] : slot_of((unit.rank + turn * unit.shares) * chunk + tile * 16);
  }

  // The warps that multiply.
  ERN_DEVICE void choose_unit() {
    int longest = 0;
    for (int i = 0; i < count; ++i) longest = max(longest, given.context[i]);
    whole = longest <= p.whole_context;
    if (whole) {
      const int spread = blocks / (count * heads), at = block / spread;
      if (block % spread == 0 && at < count * heads) unit = {at / heads, at % heads, 1, 0, 1, 0};
    } else {
      const int at = block / all_shares(), rank = block % all_shares();
      if (at < count * kv_heads && rank < shares_of(at / kv_heads)) {
        unit = {at / kv_heads, at % kv_heads * heads_of_kv, heads_of_kv, rank, shares_of(at / kv_heads), 0};
      }
    }
    if (unit.taken == 0) return;
    unit.known = given.context[unit.sequence] - 1;
    for (int i = static_cast<int>(threadIdx.x); i < most_slots; i += warps * warp_size) {
      const int entry = (unit.rank + i / warps * unit.shares) * chunk + i % warps * 16;
      shared.slots[i] = entry <= unit.known ? slot_of(entry) : 0;
    }
  }

  // Columns of products are heads.
  struct Attended {
    float acc[4];            // dims 16 warp + 2 group, of columns 2 quad and 2 quad + 1; the same of the dim after it. Not yet divided by mass
    float peak[2], mass[2];  // of columns 2 quad and 2 quad + 1
  };
  // 16 bytes of an entry of the chunk: those that lanes read at a time lie in different banks.
  ERN_DEVICE unsigned char* key_at(int entry, int piece) const { return kv_chunk + entry * head_dim * 2 + (piece ^ (entry & 1) * 4) * 16; }
  ERN_DEVICE unsigned char* value_at(int entry, int piece) const {
    return kv_chunk + (chunk + entry) * head_dim * 2 + (piece ^ (entry / 2 & 3) * 2) * 16;
  }

  static ERN_DEVICE void copy_16(void* to, const Bf16* from, int bytes) {  // the first `bytes` of 16, then zeros
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes) : "memory");
  }

  // Starts the copies of this warp's 16 entries of a chunk; zeros where there are none yet. For the first chunk long before it is needed: entries
  // of earlier steps stand still.
  // Part 0, 1 or 2 of 3, or all (-1): where every block fetches one, all at once would keep activations waiting.
  ERN_DEVICE void fetch_chunk(int layer, int turn, int part) {
    const int lane = again(this->lane), warp = again(this->warp);
    const int first = (unit.rank + turn * unit.shares) * chunk + warp * 16, kv_head = unit.first_head / heads_of_kv;
    const KvCache<p.cache> cache{given.layer[layer].kv};
    const int32_t slot = slot_at(turn, warp);
    const Bf16 *const keys = cache.key(slot, kv_head, 0), *const values = cache.value(slot, kv_head, 0);
    constexpr int pieces = head_dim / 8, turns = 16 * pieces / warp_size;
    const int begin = part < 0 ? 0 : turns * part / 3, end = part < 0 ? turns : turns * (part + 1) / 3;
#pragma unroll
    for (int i = 0; i < turns; ++i) {
      if (i < begin || i >= end) continue;
      const int at = i * warp_size + lane, entry = at / pieces, piece = at % pieces, bytes = first + entry < unit.known ? 16 : 0;
      copy_16(key_at(warp * 16 + entry, piece), keys + at * 8, bytes);
      copy_16(value_at(warp * 16 + entry, piece), values + at * 8, bytes);
    }
  }

  // The first chunk has been fetched before.
  ERN_DEVICE Attended attend(int layer) {
    constexpr int k_blocks = head_dim / k_block, head_lines = head_dim / rows;
    const int lane = again(this->lane), warp = again(this->warp), group = lane / 4, quad = lane % 4;
    const int kv_head = unit.first_head / heads_of_kv, known = unit.known;
    const uint32_t* const lines = exchange + Exchange::qkv + layer * Exchange::qkv_each + unit.sequence * 4;
    const uint32_t* const q = lines + ((unit.first_head + warp) * head_lines + lane / 2) * line + lane % 2 * 2;  // of head `warp`, 4 dims
    const uint32_t* const fresh_key = lines + ((heads + kv_head) * head_lines + quad) * line;
    const uint32_t* const fresh_value = lines + ((heads + kv_heads + kv_head) * head_lines + warp * 2 + group / 4) * line + group % 4;
    const float to_base2 = p.scale * log2_e;

    uint4 query[k_blocks];
    Attended out{{0, 0, 0, 0}, {-__builtin_inff(), -__builtin_inff()}, {0, 0}};
    for (int turn = 0, first = unit.rank * chunk; first <= known; ++turn, first += unit.shares * chunk) {
      ERN_STAMP(19, layer);
      if (turn > 0) {
        meet_warps();  // the chunk before has been read
        fetch_chunk(layer, turn, -1);
      }
      asm volatile("cp.async.wait_all;" ::: "memory");
      __syncwarp();
      // Entry `group` and `group` + 8 of this warp's 16, 8 dims of each 32.
      const int own = first + warp * 16;
      uint4 key_low[k_blocks], key_high[k_blocks];
#pragma unroll
      for (int b = 0; b < k_blocks; ++b) {
        key_low[b] = *reinterpret_cast<const uint4*>(key_at(warp * 16 + group, b * 4 + quad));
        key_high[b] = *reinterpret_cast<const uint4*>(key_at(warp * 16 + group + 8, b * 4 + quad));
      }
      // What this step brings: the query, once, and the new entry if it is in this chunk. One wait for all of it.
      const int newest = known - first;
      uint32_t word = 0;  // of the new value: this warp's dims
      const bool ask = turn == 0 && warp < unit.taken, here = newest < chunk, own_tile = here && newest / 16 == warp;
      const bool low = own_tile && newest % 16 == group, high = own_tile && newest % 16 == group + 8;
      if (turn == 0 || here) {
        uint2 four{0, 0};
        for (int64_t spins = 0;; count_spin(spins)) {
          uint32_t least_word = all_there;
          if (ask) four = load_relaxed2(q), least_word = min(four.x, four.y);
          if (here) word = load_relaxed(fresh_value), least_word = min(least_word, word);
          if (low) {
#pragma unroll
            for (int b = 0; b < k_blocks; ++b) key_low[b] = load_relaxed4(fresh_key + b * 4 * line);
#pragma unroll
            for (int b = 0; b < k_blocks; ++b) least_word = min(least_word, least(key_low[b]));
          }
          if (high) {
#pragma unroll
            for (int b = 0; b < k_blocks; ++b) key_high[b] = load_relaxed4(fresh_key + b * 4 * line);
#pragma unroll
            for (int b = 0; b < k_blocks; ++b) least_word = min(least_word, least(key_high[b]));
          }
          if (!__any_sync(~0u, least_word == absent)) break;
        }
        if (turn == 0) {
          *reinterpret_cast<uint2*>(&shared.query[warp][lane * 4]) = four;  // zeros where there is no head
          meet_warps();
#pragma unroll
          for (int b = 0; b < k_blocks; ++b) query[b] = *reinterpret_cast<const uint4*>(&shared.query[group][b * k_block + quad * lane_k]);
        }
      }
      ERN_STAMP(20, layer);
      float score[2][4] = {};
#pragma unroll
      for (int b = 0; b < k_blocks; ++b) mma_block(score[b % 2], key_low[b], key_high[b], query[b]);
      float s[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) s[i] = own + group + i / 2 * 8 <= known ? (score[0][i] + score[1][i]) * to_base2 : -__builtin_inff();
      float top[2] = {group_max(fmaxf(s[0], s[2])), group_max(fmaxf(s[1], s[3]))};
      if (group == 0) *reinterpret_cast<float2*>(shared.peak[warp] + 2 * quad) = {top[0], top[1]};
      meet_warps();
      // Entries 2 quad, + 1, + 8, + 9 of every 16, this warp's dims 2 group and 2 group + 1.
      uint32_t value[warps][4];
#pragma unroll
      for (int t = 0; t < warps; ++t) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int entry = t * 16 + 2 * quad + i % 2 + i / 2 * 8;
          value[t][i] = entry == newest ? word : *reinterpret_cast<const uint32_t*>(value_at(entry, warp * 2 + group / 4) + group % 4 * 4);
        }
      }
#pragma unroll
      for (int i = 0; i < warps; ++i) {
        const float2 other = *reinterpret_cast<const float2*>(shared.peak[i] + 2 * quad);
        top[0] = fmaxf(top[0], other.x), top[1] = fmaxf(top[1], other.y);
      }
      ERN_STAMP(21, layer);
      float of[4], mass[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        top[h] = fmaxf(top[h], out.peak[h]);  // finite: a chunk has an entry
        of[h] = exp2f(s[h] - top[h]), of[2 + h] = exp2f(s[2 + h] - top[h]);
        mass[h] = group_sum(of[h] + of[2 + h]);
      }
      shared.chance[warp][0][lane] = transpose8(pack_bf16(of[0], of[1]));
      shared.chance[warp][1][lane] = transpose8(pack_bf16(of[2], of[3]));
      if (group == 0) *reinterpret_cast<float2*>(shared.mass[warp] + 2 * quad) = {mass[0], mass[1]};
      meet_warps();
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float shrink = exp2f(out.peak[h] - top[h]);
        out.peak[h] = top[h], out.mass[h] *= shrink, out.acc[h] *= shrink, out.acc[2 + h] *= shrink;
      }
      ERN_STAMP(22, layer);
      float more[4] = {};
#pragma unroll
      for (int t = 0; t < warps; ++t) {
        mma(t % 2 ? more : out.acc, __byte_perm(value[t][0], value[t][1], 0x5410), __byte_perm(value[t][0], value[t][1], 0x7632),
            __byte_perm(value[t][2], value[t][3], 0x5410), __byte_perm(value[t][2], value[t][3], 0x7632), shared.chance[t][0][lane],
            shared.chance[t][1][lane]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) out.acc[i] += more[i];
#pragma unroll
      for (int i = 0; i < warps; ++i) {
        const float2 other = *reinterpret_cast<const float2*>(shared.mass[i] + 2 * quad);
        out.mass[0] += other.x, out.mass[1] += other.y;
      }
    }
    return out;
  }

  // A word that is present, into all copies.
  static ERN_DEVICE void publish(uint32_t* to, int64_t copy, uint32_t word) {
#pragma unroll
    for (int i = 0; i < copies; ++i) store_relaxed(to + i * copy, word);
  }
  ERN_DEVICE void publish_attended(int layer, int sequence, int head, int dim, uint32_t word) const {  // dims dim and dim + 1
    uint32_t* const to = exchange + Exchange::attended + layer * Exchange::attended_each + (head * head_dim + dim) / rows * line;
    publish(to + sequence * 4 + dim % rows / 2, Exchange::attended_copy, present(word));
  }
  ERN_DEVICE int own_copy() const { return block % copies; }

  ERN_DEVICE void attention(int layer) {
    const uint32_t tag = first_tag + layer;
    if (unit.taken > 0) {
      const Attended a = attend(layer);
      if (whole && quad == 0) {
        publish_attended(layer, unit.sequence, unit.first_head, warp * 16 + 2 * group, pack_bf16(a.acc[0] / a.mass[0], a.acc[2] / a.mass[0]));
      }
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int column = 2 * quad + h;
        if (whole || column >= heads_of_kv) continue;
        uint64_t* const to = parts + ((block * 8 + column) * warps + warp) * part;
        store_tagged(to + 2 * group, a.acc[h], a.acc[2 + h], tag);
        if (group == 0) store_tagged(to + 16, a.peak[h], a.mass[h], tag);
      }
    }
    if (whole) return;
    // The merge: `across` lanes have two dims of a head, each some of the shares.
    constexpr int pairs = q_width / 2, across = tokens <= 2 ? warp_size : 2 * warp_size / tokens, at_once = warp_size / across;
    const int all = all_shares();
    for (int first = (block * warps + warp) * at_once; first < count * pairs; first += blocks * warps * at_once) {
      const int item = first + lane / across, sequence = item < count * pairs ? item / pairs : 0;
      const int head = item % pairs / (head_dim / 2), dim = item % (head_dim / 2) * 2;
      const int shares = item < count * pairs ? shares_of(sequence) : 0, unit_block = (sequence * kv_heads + head / heads_of_kv) * all;
      float peak = -__builtin_inff(), mass = 0, sum[2] = {0, 0};
      for (int i = lane % across; i < shares; i += across) {
        const uint64_t* const from = parts + (((unit_block + i) * 8 + head % heads_of_kv) * warps + dim / 16) * part;
        TaggedPair of, value;
        for (int64_t spins = 0;; count_spin(spins)) {
          of = load_tagged(from + 16, tag), value = load_tagged(from + dim % 16, tag);
          if (of.there && value.there) break;
        }
        const float top = fmaxf(peak, of.value[0]), before = exp2f(peak - top), now = exp2f(of.value[0] - top);
        peak = top, mass = mass * before + of.value[1] * now;
        sum[0] = sum[0] * before + value.value[0] * now, sum[1] = sum[1] * before + value.value[1] * now;
      }
      __syncwarp();
      float top = peak;
#pragma unroll
      for (int mask = across / 2; mask > 0; mask /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, mask));
      const float factor = shares > 0 ? exp2f(peak - top) : 0;
      mass *= factor, sum[0] *= factor, sum[1] *= factor;
#pragma unroll
      for (int mask = across / 2; mask > 0; mask /= 2) {
        mass += __shfl_xor_sync(~0u, mass, mask), sum[0] += __shfl_xor_sync(~0u, sum[0], mask), sum[1] += __shfl_xor_sync(~0u, sum[1], mask);
      }
      if (lane % across == 0 && shares > 0) publish_attended(layer, sequence, head, dim, pack_bf16(sum[0] / mass, sum[1] / mass));
    }
  }

  ERN_DEVICE const uint32_t* x_lines(int norm) const { return exchange + Exchange::x + norm * Exchange::x_each + own_copy() * Exchange::x_copy; }

  ERN_DEVICE void multiply_all() {
    if (unit.taken > 0) fetch_chunk(0, 0, 0), fetch_chunk(0, 0, 1);
    for (int l = 0; l < p.layers; ++l) {
      {
        const int groups = share(qkv_groups, l).count;
        uint4 w[qkv_most][hidden / (warps * k_block)];
        ERN_STAMP(0, l);
        take_groups<hidden, qkv_most>(w, groups);
        if (unit.taken > 0) fetch_chunk(l, 0, 2);
        product<hidden, qkv_most, true>(w, x_lines(2 * l), groups, 2 * l, l, 0);
      }
      uint4 w[1][q_width / (warps * k_block)];
      take_groups<q_width, 1>(w, 1);
      ERN_STAMP(4, l);
      attention(l);
      ERN_STAMP(5, l);
      product<q_width, 1, false>(w, exchange + Exchange::attended + l * Exchange::attended_each + own_copy() * Exchange::attended_copy, 1, -1, l, 5);
      take_and_multiply<hidden, 2 * up_most, true>(x_lines(2 * l + 1), 2 * share(up_pairs, l).count, 2 * l + 1, l, 9);
      // All of this block's warps are done with the chunk: what `up` multiplied came after their part of o, and that after attention.
      if (unit.taken > 0 && l + 1 < p.layers) fetch_chunk(l + 1, 0, 0);
      take_and_multiply<p.ffn, 1, false>(exchange + Exchange::act + l * Exchange::act_each + own_copy() * Exchange::act_copy, 1, -1, l, 13);
      if (unit.taken > 0 && l + 1 < p.layers) fetch_chunk(l + 1, 0, 1);
    }
    constexpr int each = hidden / (warps * k_block);
    uint4 x[each];
    Squares squares;
    const uint32_t* const lines = x_lines(2 * p.layers);
    ERN_STAMP(17, p.layers - 1);
    poll_operands<hidden, x_line>(x, lines, [&] { ask_squares(squares, lines); });
    put_squares(squares, lines, 2 * p.layers);
    const int groups = share(head_groups, 0).count;
    for (int i = 0; i < groups; i += 2) {
      uint4 w[2][each];
      take_groups<hidden, 2>(w, groups - i);
      multiply<2, each>(w, x, 2, [] {});
    }
    ERN_STAMP(18, p.layers - 1);
  }

  // --- the finishing warps ---

  // Calls fn(row, token, turn, valid, sum) for what a thread of these warps has of the next product, in `turns` turns; sum(r) is row r's sum over the
  // warps. Rows of a token are next to each other, and all lanes call it. fetch(row, token, turn), for each, comes before the wait.
  template <int turns, class Fetch, class Fn>
  ERN_DEVICE void finish(int height, const Fetch& fetch, const Fn& fn) {
    const int thread = static_cast<int>(threadIdx.x) - warps * warp_size, buffer = sums_turn & 1;
#pragma unroll
    for (int turn = 0; turn < turns; ++turn) {
      const int i = thread + turn * finish_threads;
      if (i < height * count) fetch(i % height, i / height, turn);
    }
    wait(shared.sums_full[buffer], sums_turn >> 1 & 1);
#pragma unroll
    for (int turn = 0; turn < turns; ++turn) {
      const int i = thread + turn * finish_threads;
      const bool valid = i < height * count;
      const int row = valid ? i % height : 0, token = valid ? i / height : 0;
      fn(row, token, turn, valid, [&](int at) {
        float part[4] = {};
#pragma unroll
        for (int w = 0; w < warps; ++w) part[w % 4] += shared.sums[buffer][w][at][token];
        return (part[0] + part[1]) + (part[2] + part[3]);
      });
    }
    __syncwarp();
    if (lane == 0) shared.sums_empty[buffer].arrive();
    ++sums_turn;
  }
  static constexpr int turns_of(int height) { return static_cast<int>(ceil_div(height * tokens, finish_threads)); }

  // 1 / rms of a row of x before norm number `norm`, once the sums of its product are there.
  ERN_DEVICE float scale(int norm, int token) const {
    float part[4] = {};
#pragma unroll
    for (int w = 0; w < warps; ++w) part[w % 4] += shared.squares[norm & 1][w][token];
    return rsqrtf(((part[0] + part[1]) + (part[2] + part[3])) / hidden + p.eps);
  }

  // Rows of the residual stream, on their way into norm number `norm`.
  ERN_DEVICE void publish_x(int norm, int row, int token, bool valid, float x, float weight) {
    float square = x * x;
    const float scaled = x * weight, other = __shfl_xor_sync(~0u, scaled, 1);
    uint32_t* const to = exchange + Exchange::x + norm * Exchange::x_each + block * x_line;
    if (valid && row % 2 == 0) publish(to + token * 4 + row / 2, Exchange::x_copy, present(pack_bf16(scaled, other)));
#pragma unroll
    for (int mask = 1; mask < rows; mask *= 2) square += __shfl_xor_sync(~0u, square, mask);
    if (valid && row == 0) publish(to + tokens * 4 + token, Exchange::x_copy, present(square));
  }

  ERN_DEVICE void finish_qkv(int layer) {
    const Share own = share(qkv_groups, layer);
    constexpr int turns = turns_of(qkv_most * rows);
    const KvCache<p.cache> cache{given.layer[layer].kv};
    uint32_t* const to = exchange + Exchange::qkv + layer * Exchange::qkv_each;
    Turn angle[turns];
    int32_t slot[turns];
    const auto fetch = [&](int row, int token, int turn) {
      const int column = own.first * rows + row, pair = column % head_dim / 2;
      angle[turn] = {1, 0};
      if (column < (heads + kv_heads) * head_dim) {
        angle[turn] = turn_by(given.positions[token * 3 + rope_coordinate(pair, p.spatial_pairs)], frequencies.of[pair]);
      }
      slot[turn] = given.slots[token];
    };
    finish<turns>(own.count * rows, fetch, [&](int row, int token, int turn, bool valid, const auto& sum) {
      const int column = own.first * rows + row;
      const float mine = sum(row) * scale(2 * layer, token), other = __shfl_xor_sync(~0u, mine, 1);
      if (!valid || row % 2 != 0) return;
      const Turn a = angle[turn];
      const uint32_t word = pack_bf16(mine * a.cosine - other * a.sine, other * a.cosine + mine * a.sine);
      store_relaxed(to + column / rows * line + token * 4 + column % rows / 2, present(word));
      const int head = column / head_dim - heads, dim = column % head_dim;
      if (head < 0) return;
      Bf16* const entry = head < kv_heads ? cache.key(slot[turn], head, dim) : cache.value(slot[turn], head - kv_heads, dim);
      *reinterpret_cast<uint32_t*>(entry) = word;
    });
  }

  // Of o and of down; the thread's own value of the residual stream is in `x`.
  ERN_DEVICE void finish_residual(int norm, const Bf16* norm_weight, float& x) {
    static_assert(turns_of(rows) == 1);
    float weight = 0;
    finish<1>(
        rows, [&](int row, int, int) { weight = to_float(norm_weight[block * rows + row]); },
        [&](int row, int token, int, bool valid, const auto& sum) {
          x += valid ? sum(row) : 0;
          publish_x(norm, row, token, valid, x, weight);
        });
  }

  ERN_DEVICE void finish_up(int layer) {
    const Share own = share(up_pairs, layer);
    uint32_t* const to = exchange + Exchange::act + layer * Exchange::act_each;
    finish<turns_of(up_most * rows)>(
        own.count * rows, [](int, int, int) {},
        [&](int row, int token, int, bool valid, const auto& sum) {
          const int at = row / 8 * 16 + row % 8;
          const float factor = scale(2 * layer + 1, token), mine = silu(sum(at) * factor) * (sum(at + 8) * factor);
          const float other = __shfl_xor_sync(~0u, mine, 1);
          if (!valid || row % 2 != 0) return;
          publish(to + (own.first + row / rows) * line + token * 4 + row % rows / 2, Exchange::act_copy, present(pack_bf16(mine, other)));
        });
  }

  ERN_DEVICE void finish_head() {
    const Share own = share(head_groups, 0);
    constexpr int height = 16, turns = turns_of(height);
    const int thread = static_cast<int>(threadIdx.x) - warps * warp_size;
    Best best[turns];
#pragma unroll
    for (int i = 0; i < turns; ++i) best[i] = no_best();
    for (int first = 0; first < own.count; first += 2) {
      finish<turns>(
          height, [](int, int, int) {},
          [&](int row, int token, int turn, bool valid, const auto& sum) {
            if (!valid || first * rows + row >= own.count * rows) return;
            const int column = (own.first + first) * rows + row;
            const float value = sum(row) * scale(2 * p.layers, token);
            given.logits[static_cast<int64_t>(token) * p.vocab + column] = value;
            if (value > best[turn].value) best[turn] = {value, column};
          });
    }
#pragma unroll
    for (int turn = 0; turn < turns; ++turn) {
      const int i = thread + turn * finish_threads;
      if (i < height * count) shared.row_best[i / height][i % height] = best[turn];
    }
    meet_finishers();
    uint32_t* const all = exchange + Exchange::best;
    if (thread < count) {
      Best top = no_best();
      for (int i = 0; i < height; ++i) top = better(top, shared.row_best[thread][i]);
      uint32_t* const to = all + (thread * blocks + block) * 2;
      store_relaxed(to, present(top.value)), store_relaxed(to + 1, static_cast<uint32_t>(top.id) + 1);
    }
    if (block != 0) return;
    for (int token = warp - warps; token < count; token += finishers) {
      Best top = no_best();
      for (int i = lane; i < blocks; i += warp_size) {
        const uint32_t* const from = all + (token * blocks + i) * 2;
        const float value = __uint_as_float(poll(from));
        top = better(top, {value, static_cast<int32_t>(poll(from + 1) - 1)});
      }
      __syncwarp();
      top = warp_best(top);
      if (lane == 0) given.next[token] = id_of(top);
    }
  }
  static ERN_DEVICE void meet_finishers() { asm volatile("bar.sync 2, %0;" ::"n"(finish_threads) : "memory"); }

  ERN_DEVICE void finish_all() {
    const int thread = static_cast<int>(threadIdx.x) - warps * warp_size, row = thread % rows, token = thread / rows;
    float x = 0;
    {
      const bool valid = token < count;
      float weight = 0;
      if (valid) {
        x = to_float(given.embedding[static_cast<int64_t>(given.ids[token]) * hidden + block * rows + row]);
        weight = to_float(given.layer[0].attention_norm[block * rows + row]);
      }
      publish_x(0, row, token, valid, x, weight);
    }
    for (int l = 0; l < p.layers; ++l) {
      finish_qkv(l);
      finish_residual(2 * l + 1, given.layer[l].ffn_norm, x);
      finish_up(l);
      finish_residual(2 * l + 2, l + 1 < p.layers ? given.layer[l + 1].attention_norm : given.norm, x);
    }
    finish_head();
  }

  // --- all of it ---

  ERN_DEVICE Persistent(const Step* step, const PersistentArguments<p.layers>& arguments, const RopeFrequencies<head_dim>& frequencies,
                        uint32_t* workspace, unsigned char* memory)
      : step(step),
        given(arguments),
        frequencies(frequencies),
        ring(memory),
        kv_chunk(memory + ring_bytes),
        shared(*reinterpret_cast<Shared*>(memory + ring_bytes + kv_bytes)) {
    if (threadIdx.x == 0) {
      for (int i = 0; i < p.stages; ++i) shared.full[i].init(1), shared.empty[i].init(warps);
      for (int i = 0; i < 2; ++i) shared.sums_full[i].init(warps), shared.sums_empty[i].init(finishers);
      fence_barriers();
    }
    __syncthreads();
    // Registers: the third warpgroup leaves some to those that multiply. Who copies starts at once.
    if (warp < warps) {
      asm volatile("setmaxnreg.inc.sync.aligned.u32 208;");
      prepare(workspace);
      choose_unit();
      meet_warps();
      multiply_all();
    } else {
      asm volatile("setmaxnreg.dec.sync.aligned.u32 88;");
      if (warp == warps + finishers) {
        copy_all();
      } else {
        const uint32_t epoch = prepare(workspace);
        finish_all();
        // Every block's best is there, so every block has read the epoch.
        if (block == 0) {
          meet_finishers();
          if (threadIdx.x == warps * warp_size) *workspace = epoch;
        }
      }
    }
  }

  // Finds this step's set and clears the other. All warps but the one that copies.
  ERN_DEVICE uint32_t prepare(uint32_t* workspace) {
    const uint32_t epoch = load_relaxed(workspace) + 1;
    parts = reinterpret_cast<uint64_t*>(workspace + header_words);
    uint32_t* const sets = workspace + header_words + parts_words;
    exchange = sets + (epoch & 1 ? Exchange::words : 0);
    first_tag = epoch * p.layers;
    count = step->sequences;
    uint32_t* const other = sets + (epoch & 1 ? 0 : Exchange::words);
    const int64_t thread = block * (warps + finishers) * warp_size + threadIdx.x, all = blocks * (warps + finishers) * warp_size;
    const auto clear = [&](int64_t from, int64_t to, int step, int used) {
      for (int64_t i = from + thread * step; i < to; i += all * step) {
        for (int j = 0; j < used; j += 4) *reinterpret_cast<uint4*>(other + i + j) = {absent, absent, absent, absent};
      }
    };
    clear(Exchange::x, Exchange::qkv, x_line, tokens * 5);
    clear(Exchange::qkv, Exchange::best, line, tokens * 4);
    clear(Exchange::best, Exchange::words, 4, 4);
    return epoch;
  }
};

template <PersistentDecode p>
ERN_DEVICE void persistent_decode(const Step* step, const PersistentArguments<p.layers>& arguments,
                                  const RopeFrequencies<p.cache.head_dim>& frequencies, uint32_t* workspace) {
  Persistent<p>(step, arguments, frequencies, workspace, product_memory);
}

}  // namespace ern::cuda
