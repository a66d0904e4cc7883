// draw: the next token of each sequence, on the device: the argmax that the head found, or a random draw where the row's DrawRow asks for one.
//
//   logits   float [S, stride]  the first Vocab of each row
//   argmax   int32 [S]          of each row, as head_argmax and argmax find it
//   rows     DrawRow [S]        how to draw; temperature 0: the argmax
//   allowed  uint32 [ceil(Vocab / 32)], bit i % 32 of word i / 32: id i may be drawn; nullptr: all may
//   next     int32 [S]          the tokens, for the step after this one; -1 for a row with nothing to draw from
//   host     int32 [S]          the same in pinned memory of the host
//
// The meaning is that of runtime/src/sampler.hpp, steps 1, 5 and 6: weights w = e^((z - max) / temperature), those below min_p go, the top_k largest stay,
// of these the smallest set whose share reaches top_p. Two things are the device's own: of weights that are equal at the border of top_k or top_p all stay, and the
// drawn number meets the tokens in the order of their ids. Weights are added up in integers, as multiples of 2^-36 (sm_80: 2^-30), so no order of additions shows, and a draw is a
// function of (row of logits, DrawRow) alone: the batch does not matter.
//
// The border is found on the bits of w, which sort as the numbers do: three rounds, each over 10 bits, of a histogram and a search from above.
// Launch: draw_threads threads, grid (cluster, S), in clusters of `cluster` blocks, which share out a row.
#pragma once

#include "cluster.cuh"
#include "synthetic.cuh"

namespace ern::cuda {

// DrawRow of runtime/src/cuda/cuda_executor.cpp.
struct DrawRow {
  float temperature, top_p, min_p;
  int32_t top_k;  // 0: off
  uint64_t seed, position;
};

constexpr int draw_threads = 1024;

namespace draw_detail {

constexpr int warps = draw_threads / warp_size, digit_bits = 10, bins = 1 << digit_bits, rounds = 3;

struct Memory {
  // Of this block, by digit. Shared memory adds 32 bits at once and 64 only in a loop: so a mass is two halves. Or low counts weights.
  uint32_t low[bins], high[bins];
  uint64_t total[bins];  // of the first block: of the whole row
  uint64_t warp_mass[warps];
  uint64_t block_mass;
  uint64_t above;  // of the first block: what the last round left, and found
  uint32_t digit;
};

constexpr int log2_floor(uint32_t x) { return x < 2 ? 0 : 1 + log2_floor(x / 2); }

// The row as this block sees it: its warps take neighbouring stretches of ids, in order over the cluster. A lane has every 32nd id of its warp's. Where
// they fit, all its weights stay in registers; else they are loaded and computed again for each round, `held` at a time.
template <int Cluster, int Vocab>
struct Row {
  static constexpr int stretch = static_cast<int>(ceil_div(ceil_div(Vocab, Cluster * warps), warp_size)), most_held = 16;
  // Halves of a mass, so wide that those of all ids of a block add up to 32 bits at most.
  static constexpr int half_bits = log2_floor(uint32_t{0xFFFFFFFF} / (stretch * draw_threads));
  static constexpr uint32_t half_mask = (1u << half_bits) - 1;
  static constexpr int held = stretch < most_held ? stretch : most_held, parts = static_cast<int>(ceil_div(stretch, held));

  const float* logits;
  const uint32_t* allowed;
  float max, scale, least;
  Memory& memory;
  int rank, begin;  // of the warp's stretch
  uint32_t keys[held];  // the weights' bits; 0: it can't be drawn

  ERN_DEVICE static uint64_t mass_of(uint32_t key) {
    // The largest weight is 1; its mass must fit too.
    const uint64_t mass = static_cast<uint64_t>(__uint_as_float(key) * static_cast<float>(uint64_t{1} << 2 * half_bits));
    const uint64_t most = (uint64_t{1} << 2 * half_bits) - 1;
    return mass < most ? mass : most;
  }

  ERN_DEVICE int id_of(int part, int i) const { return begin + (part * held + i) * warp_size + lane_id(); }

  ERN_DEVICE void load(int part) {
    float z[held];
#pragma unroll
    for (int i = 0; i < held; ++i) {
      const int id = id_of(part, i);
      const bool there = part * held + i < stretch && id < Vocab && (!allowed || (allowed[id / 32] >> (id % 32) & 1) != 0);
      z[i] = there ? __ldcg(logits + id) : -__builtin_inff();
    }
#pragma unroll
    for (int i = 0; i < held; ++i) {
      const float w = __expf((z[i] - max) * scale);
      // A NaN compares false.
      keys[i] = w >= least && w > 0 ? __float_as_uint(w) : 0;
    }
  }
  // work(key, part, i) for each of the lane's ids, in order.
  template <class Work>
  ERN_DEVICE void each(Work work) {
#pragma unroll 1
    for (int part = 0; part < parts; ++part) {
      if (parts > 1) load(part);
#pragma unroll
      for (int i = 0; i < held; ++i) work(keys[i], part, i);
    }
  }

  // Mass of the row from `weakest` on, and of what comes before this block and this warp.
  struct Masses {
    uint64_t total, before_block, before_warp;
  };
  ERN_DEVICE Masses masses(uint32_t weakest) {
    uint64_t mass = 0;
    each([&](uint32_t key, int, int) { mass += key >= weakest ? mass_of(key) : 0; });
#pragma unroll
    for (int mask = warp_size / 2; mask > 0; mask /= 2) mass += __shfl_xor_sync(~0u, mass, mask);
    if (lane_id() == 0) memory.warp_mass[warp_id()] = mass;
    __syncthreads();
    Masses result = {0, 0, 0};
    uint64_t block = 0;
    for (int i = 0; i < warps; ++i) {
      if (i == warp_id()) result.before_warp = block;
      block += memory.warp_mass[i];
    }
    if (threadIdx.x == 0) memory.block_mass = block;
    cluster_barrier<Cluster>();
    for (int r = 0; r < Cluster; ++r) {
      if (r == rank) result.before_block = result.total;
      result.total += load_from_rank<Cluster>(&memory.block_mass, r);
    }
    result.before_warp += result.before_block;
    cluster_barrier<Cluster>();  // before the masses are written again
    return result;
  }

  // The largest key from which on the weights reach `target` together: in number, or in mass. 0 if they never do.
  ERN_DEVICE uint32_t weakest_to_reach(uint64_t target, bool in_mass, uint32_t floor) {
    uint32_t prefix = 0;
    if (threadIdx.x == 0) memory.above = 0;
#pragma unroll 1
    for (int round = 0; round < rounds; ++round) {
      const int shift = (rounds - 1 - round) * digit_bits;
      const int bin = static_cast<int>(threadIdx.x);
      static_assert(bins == draw_threads);
      memory.low[bin] = memory.high[bin] = 0, memory.total[bin] = 0;
      cluster_barrier<Cluster>();
      each([&](uint32_t key, int, int) {
        if (key == 0 || key < floor || key >> (shift + digit_bits) != prefix) return;
        const uint64_t mass = mass_of(key);
        const uint32_t digit = key >> shift & (bins - 1);
        atomicAdd(&memory.low[digit], in_mass ? static_cast<uint32_t>(mass) & half_mask : 1u);
        if (in_mass) atomicAdd(&memory.high[digit], static_cast<uint32_t>(mass >> half_bits));
      });
      __syncthreads();
      const uint64_t sum = (static_cast<uint64_t>(memory.high[bin]) << half_bits) + memory.low[bin];
      if (sum != 0) add_to_rank<Cluster>(&memory.total[bin], 0, sum);
      cluster_barrier<Cluster>();
      if (rank == 0 && warp_id() == 0) search(target);
      cluster_barrier<Cluster>();
      prefix = prefix << digit_bits | load_from_rank<Cluster>(&memory.digit, 0);
    }
    cluster_barrier<Cluster>();  // before the digit is written again
    return prefix;
  }

 private:
  // By one warp: the highest digit at which what lies above it, with its own, reaches the target; else the lowest.
  ERN_DEVICE void search(uint64_t target) const {
    constexpr int each = bins / warp_size;
    const int top = bins - each * lane_id();  // this lane has [top - each, top)
    uint64_t sum = 0;
    for (int i = 1; i <= each; ++i) sum += memory.total[top - i];
    uint64_t upto = sum;
#pragma unroll
    for (int step = 1; step < warp_size; step *= 2) {
      const uint64_t other = __shfl_up_sync(~0u, upto, step);
      if (lane_id() >= step) upto += other;
    }
    const uint64_t above = memory.above;
    const unsigned reached = __ballot_sync(~0u, above + upto >= target);
    const int chosen = reached != 0 ? __ffs(static_cast<int>(reached)) - 1 : warp_size - 1;
    if (lane_id() != chosen) return;
    uint64_t before = above + upto - sum;
    int bin = top - 1;
    while (bin > top - each && before + memory.total[bin] < target) before += memory.total[bin--];
    memory.above = before;
    memory.digit = static_cast<uint32_t>(bin);
  }
};

// The id at which the running mass of the row passes `target`, by the warp that has it.
template <class Row>
ERN_DEVICE int32_t id_at(Row& row, uint32_t weakest, uint64_t target) {
  int32_t found = -1;
  row.each([&](uint32_t key, int part, int i) {
    const uint64_t mass = key >= weakest ? Row::mass_of(key) : 0;
    uint64_t upto = mass;
#pragma unroll
    for (int step = 1; step < warp_size; step *= 2) {
      const uint64_t other = __shfl_up_sync(~0u, upto, step);
      if (lane_id() >= step) upto += other;
    }
    const unsigned passed = __ballot_sync(~0u, upto > target);
    if (found < 0 && passed != 0) found = row.id_of(part, i) - lane_id() + __ffs(static_cast<int>(passed)) - 1;
    target -= __shfl_sync(~0u, upto, warp_size - 1);  // wraps once it is found, when nothing looks at it any more
  });
  return found;
}

}  // namespace draw_detail

template <int Cluster, int Vocab>
ERN_DEVICE void draw(const Step* step, const float* logits, const int32_t* argmax, const DrawRow* rows, const uint32_t* allowed, int32_t* next,
                     int32_t* host, int64_t stride) {
  using namespace draw_detail;
  __shared__ Memory memory;
  start_dependents();
  wait_for_inputs();
  const int s = static_cast<int>(blockIdx.y), rank = static_cast<int>(blockIdx.x);
  if (s >= step->sequences) return;
  const DrawRow how = rows[s];
  const float* const row_logits = logits + s * stride;
  const int32_t best = __ldcg(argmax + s);
  const float max = __ldcg(row_logits + best);
  const bool first = rank == 0 && threadIdx.x == 0;
  // Nothing to choose, nothing to choose from, or infinitely sure.
  if (how.temperature == 0 || !(max > -__builtin_inff()) || max == __builtin_inff()) {
    if (first) next[s] = host[s] = how.temperature != 0 && !(max > -__builtin_inff()) ? -1 : best;
    return;
  }
  using Ids = Row<Cluster, Vocab>;
  Ids row = {row_logits, allowed, max, 1 / how.temperature, how.min_p, memory, rank, (rank * warps + warp_id()) * Ids::stretch * warp_size, {}};
  if (Ids::parts == 1) row.load(0);
  uint32_t weakest = 0;
  if (how.top_k > 0 && how.top_k < Vocab) weakest = row.weakest_to_reach(static_cast<uint64_t>(how.top_k), false, 0);
  auto masses = row.masses(weakest);
  if (how.top_p < 1 && masses.total > 0) {
    const uint64_t target = static_cast<uint64_t>(ceil(static_cast<double>(how.top_p) * static_cast<double>(masses.total)));
    const uint32_t border = row.weakest_to_reach(target > 0 ? target : 1, true, weakest);
    weakest = border > weakest ? border : weakest;
    masses = row.masses(weakest);
  }
  if (masses.total == 0) {
    if (first) next[s] = host[s] = -1;
    return;
  }
  // 53 bits in [0, 1): random_unit of runtime/src/random.hpp.
  const double unit = static_cast<double>(random64(how.seed, how.position) >> 11) * 0x1p-53;
  uint64_t target = static_cast<uint64_t>(unit * static_cast<double>(masses.total));
  if (target >= masses.total) target = masses.total - 1;
  const uint64_t mine = memory.warp_mass[warp_id()];
  if (target < masses.before_warp || target - masses.before_warp >= mine) return;
  const int32_t id = id_at(row, weakest, target - masses.before_warp);
  if (lane_id() == 0) next[s] = host[s] = id;
}

}  // namespace ern::cuda
