// draw: the next token of each sequence, on the device: the argmax that the head found, or a random draw where the row's DrawRow asks for one.
//
//   logits   float [S, stride]  the first `vocab` of each row
//   argmax   int32 [S]          of each row, as head_argmax and argmax find it
//   rows     DrawRow [S]        how to draw; temperature 0: the argmax
//   allowed  uint32 [ceil(vocab / 32)], bit i % 32 of word i / 32: id i may be drawn; nullptr: all may
//   next     int32 [S]          the tokens, for the step after this one; -1 for a row with nothing to draw from
//   host     int32 [S]          the same in pinned memory of the host
//
// The meaning is that of runtime/src/sampler.hpp, steps 1, 5 and 6: weights w = e^((z - max) / temperature), those below min_p go, the top_k largest stay,
// of these the smallest set whose share reaches top_p. Two things are the device's own: of weights that are equal at the border of top_k or top_p all stay, and the
// drawn number meets the tokens in the order of their ids. Weights are added up as multiples of 2^-40 in integers, so no order of additions shows, and a draw is a
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
constexpr float unit_of_mass = 1099511627776.0f;  // 2^40

struct Weight {
  uint32_t key;   // its bits
  uint64_t mass;  // 0: it can't be drawn
};

struct Memory {
  uint64_t histogram[bins];  // in the first block that of the whole row
  uint64_t warp_mass[warps];
  uint64_t block_mass;
  uint64_t above;  // of the first block: what the last round left, and found
  uint32_t digit;
};

// The row as this block sees it: its warps take neighbouring stretches of ids, in order over the cluster.
template <int Cluster>
struct Row {
  const float* logits;
  const uint32_t* allowed;
  int vocab;
  float max, scale, least;
  Memory& memory;
  int rank, begin, end;

  ERN_DEVICE Weight weight(int id) const {
    const float w = __expf((__ldcg(logits + id) - max) * scale);
    // A NaN compares false.
    const bool stays = w >= least && (!allowed || (allowed[id / 32] >> (id % 32) & 1) != 0);
    return {__float_as_uint(w), stays ? static_cast<uint64_t>(w * unit_of_mass) : 0};
  }

  // Mass of the row from `weakest` on, and of what comes before this block and this warp.
  struct Masses {
    uint64_t total, before_block, before_warp;
  };
  ERN_DEVICE Masses masses(uint32_t weakest) const {
    uint64_t mass = 0;
    for (int id = begin + lane_id(); id < end; id += warp_size) {
      const Weight w = weight(id);
      if (w.key >= weakest) mass += w.mass;
    }
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
  ERN_DEVICE uint32_t weakest_to_reach(uint64_t target, bool in_mass, uint32_t floor) const {
    uint32_t prefix = 0;
    if (threadIdx.x == 0) memory.above = 0;
    for (int round = 0; round < rounds; ++round) {
      const int shift = (rounds - 1 - round) * digit_bits;
      for (int i = static_cast<int>(threadIdx.x); i < bins; i += draw_threads) memory.histogram[i] = 0;
      cluster_barrier<Cluster>();
      for (int id = begin + lane_id(); id < end; id += warp_size) {
        const Weight w = weight(id);
        if (w.mass == 0 || w.key < floor || w.key >> (shift + digit_bits) != prefix) continue;
        atomicAdd(reinterpret_cast<unsigned long long*>(&memory.histogram[w.key >> shift & (bins - 1)]), in_mass ? w.mass : 1);
      }
      __syncthreads();
      if (rank > 0) {
        for (int i = static_cast<int>(threadIdx.x); i < bins; i += draw_threads)
          if (memory.histogram[i] != 0) add_to_rank<Cluster>(&memory.histogram[i], 0, memory.histogram[i]);
      }
      cluster_barrier<Cluster>();
      if (rank == 0 && warp_id() == 0) search(target);
      cluster_barrier<Cluster>();
      prefix = prefix << digit_bits | load_from_rank<Cluster>(&memory.digit, 0);
    }
    cluster_barrier<Cluster>();  // before the histogram and the digit are written again
    return prefix;
  }

 private:
  // By one warp: the highest digit at which what lies above it, with its own, reaches the target; else the lowest.
  ERN_DEVICE void search(uint64_t target) const {
    constexpr int each = bins / warp_size;
    const int top = bins - each * lane_id();  // this lane has [top - each, top)
    uint64_t sum = 0;
    for (int i = 1; i <= each; ++i) sum += memory.histogram[top - i];
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
    while (bin > top - each && before + memory.histogram[bin] < target) before += memory.histogram[bin--];
    memory.above = before;
    memory.digit = static_cast<uint32_t>(bin);
  }
};

// The id at which the running mass of the row passes `target`, by the warp that has it.
template <int Cluster>
ERN_DEVICE int32_t id_at(const Row<Cluster>& row, uint32_t weakest, uint64_t target) {
  for (int first = row.begin; first < row.end; first += warp_size) {
    const int id = first + lane_id();
    uint64_t mass = 0;
    if (id < row.end) {
      const Weight w = row.weight(id);
      if (w.key >= weakest) mass = w.mass;
    }
    uint64_t upto = mass;
#pragma unroll
    for (int step = 1; step < warp_size; step *= 2) {
      const uint64_t other = __shfl_up_sync(~0u, upto, step);
      if (lane_id() >= step) upto += other;
    }
    const unsigned passed = __ballot_sync(~0u, upto > target);
    if (passed != 0) return first + __ffs(static_cast<int>(passed)) - 1;
    target -= __shfl_sync(~0u, upto, warp_size - 1);
  }
  return -1;  // not reached: the warp's mass exceeds the target
}

}  // namespace draw_detail

template <int Cluster>
ERN_DEVICE void draw(const Step* step, const float* logits, const int32_t* argmax, const DrawRow* rows, const uint32_t* allowed, int32_t* next,
                     int32_t* host, int vocab, int64_t stride) {
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
  const int each = static_cast<int>(ceil_div(vocab, Cluster * warps)), begin = (rank * warps + warp_id()) * each;
  const Row<Cluster> row = {row_logits, allowed, vocab, max, 1 / how.temperature, how.min_p, memory,
                            rank,       begin < vocab ? begin : vocab, begin + each < vocab ? begin + each : vocab};
  uint32_t weakest = 0;
  if (how.top_k > 0 && how.top_k < vocab) weakest = row.weakest_to_reach(static_cast<uint64_t>(how.top_k), false, 0);
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
