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
// The border is found on the bits of w, which sort as the numbers do, in rounds of 9 of them: a histogram and a search from above. Mostly few ids are in question,
// which one round tells: if the largest key of each thread alone reaches the target from some key on, then the border is no lower. The first block gathers the ids from
// there on, if there are no more than most_few, and finishes the draw by itself; else all go on over the whole row.
// Blocks of a cluster read one another's histograms, counts and lists, and these are written in turns in two places, so that one barrier a round is enough.
// Launch: draw_threads threads, grid (cluster, S), in clusters of `cluster` blocks, which share out a row; draw_shared_bytes(cluster, Vocab) of dynamic shared memory,
// which `keys` is.
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

constexpr int draw_threads = 512;
constexpr int draw_held = 48;  // most weights of a thread in shared memory

// Of dynamic shared memory.
constexpr int draw_shared_bytes(int cluster, int vocab) {
  const int stretch = static_cast<int>(ceil_div(ceil_div(vocab, cluster * (draw_threads / warp_size)), warp_size));
  return 4 * draw_threads * (stretch < draw_held ? stretch : draw_held);
}

namespace draw_detail {

constexpr int warps = draw_threads / warp_size, digit_bits = 9, bins = 1 << digit_bits, key_bits = 30;
constexpr int most_few = 1024;
// The lowest bit of a round's digit, of keys of so many bits.
constexpr ERN_DEVICE int shift_of(int round, int bits = key_bits) { return bits > (round + 1) * digit_bits ? bits - (round + 1) * digit_bits : 0; }
static_assert(bins == draw_threads);

struct Histogram {
  // Shared memory adds 32 bits at once and 64 only in a loop: so a mass is two halves.
  uint32_t number[bins], low[bins], high[bins];
};

struct Memory {
  Histogram histograms[2];
  uint64_t block_mass[2];
  uint64_t warp_mass[warps];
  uint64_t scanned[warps];
  uint64_t above;
  uint32_t digit, number, only;
  uint32_t warp_count[warps];
  uint32_t count;
  uint32_t few_keys[most_few];
  int32_t few_ids[most_few];
};

constexpr uint32_t one_key = 0x3F800000;  // of the largest weight, 1

constexpr int log2_floor(uint32_t x) { return x < 2 ? 0 : 1 + log2_floor(x / 2); }

// A weight as a multiple of 2^(-2 half_bits), in two halves: exact, for a float has fewer bits. The largest weight is 1; its mass must fit too.
struct Halves {
  uint32_t low, high;
};
template <int half_bits>
ERN_DEVICE Halves halves_of(uint32_t key) {
  constexpr uint32_t one = 1u << half_bits;
  const float upper = __uint_as_float(key) * static_cast<float>(one);
  const uint32_t high = static_cast<uint32_t>(upper);
  if (high >= one) return {one - 1, one - 1};
  return {static_cast<uint32_t>((upper - static_cast<float>(high)) * static_cast<float>(one)), high};
}
template <int half_bits>
ERN_DEVICE uint64_t mass_of_key(uint32_t key) {
  const Halves mass = halves_of<half_bits>(key);
  return (static_cast<uint64_t>(mass.high) << half_bits) + mass.low;
}

// The row as this block sees it: its warps take neighbouring stretches of ids, in order over the cluster. A lane has every 32nd id of its warp's. Where
// they fit, all its weights stay in shared memory (in registers the loops over them would have to be unrolled, and their code be fetched); else they are
// loaded and computed again for each pass, `held` at a time.
template <int Cluster, int Vocab>
struct Row {
  static constexpr int stretch = static_cast<int>(ceil_div(ceil_div(Vocab, Cluster * warps), warp_size));
  // Halves of a mass, so wide that those of all ids of a block add up to 32 bits at most.
  static constexpr int half_bits = log2_floor(uint32_t{0xFFFFFFFF} / (stretch * draw_threads));
  static constexpr int held = stretch < draw_held ? stretch : draw_held, parts = static_cast<int>(ceil_div(stretch, held));

  const float* logits;
  const uint32_t* allowed;
  float max, scale, least;
  int begin;       // of the warp's stretch
  uint32_t* keys;  // [held][draw_threads] the weights' bits; 0: it can't be drawn

  ERN_DEVICE static uint64_t mass_of(uint32_t key) { return mass_of_key<half_bits>(key); }
  ERN_DEVICE int id_of(int part, int i) const { return begin + (part * held + i) * warp_size + lane_id(); }
  ERN_DEVICE uint32_t& key(int i, int lane = lane_id()) const { return keys[i * draw_threads + warp_id() * warp_size + lane]; }

  // The logits of a part, in the place of their weights; -inf: not there, or not allowed.
  ERN_DEVICE void fetch(int part) const {
    const float* const from = logits + id_of(part, 0);
    const int left = Vocab - id_of(part, 0), whole = stretch - part * held;
    float z[held];
#pragma unroll
    for (int i = 0; i < held; ++i) z[i] = i < whole && i * warp_size < left ? __ldcg(from + i * warp_size) : -__builtin_inff();
#pragma unroll
    for (int i = 0; i < held; ++i) key(i) = __float_as_uint(z[i]);
    if (!allowed) return;
    // The ids of a lane are the same bit of neighbouring words.
    const uint32_t* const words = allowed + id_of(part, 0) / 32;
#pragma unroll 8
    for (int i = 0; i < held; ++i) {
      if (i * warp_size < left && (words[i] >> lane_id() & 1) == 0) key(i) = __float_as_uint(-__builtin_inff());
    }
  }
  // The largest weight's bits.
  ERN_DEVICE uint32_t weigh() const {
    uint32_t top = 0;
#pragma unroll 8
    for (int i = 0; i < held; ++i) {
      const float w = __expf((__uint_as_float(key(i)) - max) * scale);
      // A NaN compares false.
      const uint32_t bits = w >= least && w > 0 ? __float_as_uint(w) : 0;
      key(i) = bits;
      top = bits > top ? bits : top;
    }
    return top;
  }
  // work(key, part, i) for each of the lane's ids, in order.
  template <class Work>
  ERN_DEVICE void each(const Work& work) const {
#pragma unroll 1
    for (int part = 0; part < parts; ++part) {
      if (parts > 1) fetch(part), weigh();
#pragma unroll 8
      for (int i = 0; i < held; ++i) work(key(i), part, i);
    }
  }
};

// Ids that were gathered, in order.
struct Few {
  static constexpr int held = most_few / draw_threads;
  uint32_t keys[held];
  int32_t ids[held];

  static ERN_DEVICE int place(int i) { return (warp_id() * held + i) * warp_size + lane_id(); }
  ERN_DEVICE int id_of(int, int i) const { return ids[i]; }
  template <class Work>
  ERN_DEVICE void each(const Work& work) const {
#pragma unroll
    for (int i = 0; i < held; ++i) work(keys[i], 0, i);
  }
};

// What the blocks of a cluster find out together; every thread calls everything.
template <int Cluster, int half_bits>
struct Search {
  Memory& memory;
  int rank;
  int turn = 0;

  struct Border {
    uint32_t digit;
    uint64_t above;   // what lies above it
    uint32_t number;  // of keys that have it
  };

  // The highest digit at which `above`, what lies above it and its own reach the target; else the lowest. fill(add) calls add(key, digit) for its keys. Counts
  // keys, or their mass.
  template <class Fill>
  ERN_DEVICE Border round(uint64_t target, bool in_mass, uint64_t above, const Fill& fill) {
    Histogram& own = memory.histograms[turn++ % 2];
    const int thread = static_cast<int>(threadIdx.x), bin = bins - 1 - thread;
    own.number[thread] = own.low[thread] = own.high[thread] = 0;
    __syncthreads();
    fill([&](uint32_t key, uint32_t digit) {
      atomicAdd(&own.number[digit], 1u);
      if (!in_mass) return;
      const Halves mass = halves_of<half_bits>(key);
      atomicAdd(&own.low[digit], mass.low);
      atomicAdd(&own.high[digit], mass.high);
    });
    cluster_barrier<Cluster>();
    uint32_t number = 0;
    uint64_t sum = 0;
#pragma unroll
    for (int r = 0; r < Cluster; ++r) number += load_from_rank<Cluster>(&own.number[bin], r);
    if (in_mass) {
#pragma unroll
      for (int r = 0; r < Cluster; ++r)
        sum += (static_cast<uint64_t>(load_from_rank<Cluster>(&own.high[bin], r)) << half_bits) + load_from_rank<Cluster>(&own.low[bin], r);
    } else {
      sum = number;
    }
    uint64_t upto = warp_sum_until<uint64_t>(sum);
    if (lane_id() == warp_size - 1) memory.scanned[warp_id()] = upto;
    __syncthreads();
    upto += above;
    for (int w = 0; w < warp_id(); ++w) upto += memory.scanned[w];
    const bool here = upto >= target && upto - sum < target, never = bin == 0 && upto < target;
    if (here || never) memory.digit = static_cast<uint32_t>(bin), memory.above = upto - sum, memory.number = number;
    __syncthreads();
    return {memory.digit, memory.above, memory.number};
  }

  // The largest key from which on the weights reach `target` together, in number or in mass; if they never do, one that is not above any. Of keys from `floor` on;
  // those that are not 0 are at least `base`.
  template <class Ids>
  ERN_DEVICE uint32_t weakest_to_reach(Ids& ids, uint64_t target, bool in_mass, uint32_t floor, uint32_t base) {
    uint32_t prefix = 0;
    uint64_t above = 0;
    int bits = key_bits;
    while (bits > 1 && (one_key - base) >> (bits - 1) == 0) --bits;
#pragma unroll 1
    for (int r = 0, before = bits; before > 0; ++r) {
      const int shift = shift_of(r, bits);
      const uint32_t mask = (1u << (before - shift)) - 1;
      const Border border = round(target, in_mass, above, [&](const auto& add) {
        ids.each([&](uint32_t key, int, int) {
          if (key != 0 && key >= floor && (key - base) >> before == prefix) add(key, (key - base) >> shift & mask);
        });
      });
      above = border.above;
      prefix = prefix << (before - shift) | border.digit;
      before = shift;
      if (Cluster > 1 || border.number != 1) continue;
      ids.each([&](uint32_t key, int, int) {
        if (key != 0 && key >= floor && (key - base) >> shift == prefix) memory.only = key;
      });
      __syncthreads();
      return memory.only;
    }
    return base + prefix;
  }

  // Mass of the ids from `weakest` on, and of what comes before this warp's.
  struct Masses {
    uint64_t total, before;
  };
  template <class Ids>
  ERN_DEVICE Masses masses(Ids& ids, uint32_t weakest) {
    Halves sum = {0, 0};  // of a block they have 32 bits
    ids.each([&](uint32_t key, int, int) {
      const Halves mass = halves_of<half_bits>(key >= weakest ? key : 0);
      sum.low += mass.low, sum.high += mass.high;
    });
#pragma unroll
    for (int mask = warp_size / 2; mask > 0; mask /= 2) sum.low += __shfl_xor_sync(~0u, sum.low, mask), sum.high += __shfl_xor_sync(~0u, sum.high, mask);
    if (lane_id() == 0) memory.warp_mass[warp_id()] = (static_cast<uint64_t>(sum.high) << half_bits) + sum.low;
    __syncthreads();
    Masses result = {0, 0};
    uint64_t block = 0;
    for (int i = 0; i < warps; ++i) {
      if (i == warp_id()) result.before = block;
      block += memory.warp_mass[i];
    }
    uint64_t* const shared = &memory.block_mass[turn++ % 2];
    if (threadIdx.x == 0) *shared = block;
    cluster_barrier<Cluster>();
    for (int r = 0; r < Cluster; ++r) {
      const uint64_t other = load_from_rank<Cluster>(shared, r);
      if (r < rank) result.before += other;
      result.total += other;
    }
    return result;
  }

  // The ids of keys from `least` on, gathered by the first block. False, and nothing is gathered, if they are more than most_few.
  template <class Ids>
  ERN_DEVICE bool gather(Ids& ids, uint32_t least, Few& few) {
    uint32_t own = 0;
    ids.each([&](uint32_t key, int, int) { own += key >= least ? 1 : 0; });
#pragma unroll
    for (int mask = warp_size / 2; mask > 0; mask /= 2) own += __shfl_xor_sync(~0u, own, mask);
    if (lane_id() == 0) memory.warp_count[warp_id()] = own;
    __syncthreads();
    uint32_t at = 0, block = 0;
    for (int i = 0; i < warps; ++i) {
      if (i == warp_id()) at = block;
      block += memory.warp_count[i];
    }
    if (threadIdx.x == 0) memory.count = block;
    if (own > 0) {
      ids.each([&](uint32_t key, int part, int i) {
        const unsigned some = __ballot_sync(~0u, key >= least);
        const uint32_t to = at + static_cast<uint32_t>(__popc(some & ((1u << lane_id()) - 1)));
        if (key >= least && to < most_few) memory.few_keys[to] = key, memory.few_ids[to] = ids.id_of(part, i);
        at += static_cast<uint32_t>(__popc(some));
      });
    }
    cluster_barrier<Cluster>();
    uint32_t counts[Cluster], all = 0;
#pragma unroll
    for (int r = 0; r < Cluster; ++r) counts[r] = load_from_rank<Cluster>(&memory.count, r), all += counts[r];
    if (all > most_few) return false;
    if (rank == 0) {
#pragma unroll
      for (int i = 0; i < Few::held; ++i) {
        uint32_t place = static_cast<uint32_t>(Few::place(i));
        few.keys[i] = 0, few.ids[i] = -1;
        if (place >= all) continue;
        int from = 0;
#pragma unroll
        for (int r = 0; r + 1 < Cluster; ++r) {
          if (from == r && place >= counts[r]) place -= counts[r], ++from;
        }
        few.keys[i] = load_from_rank<Cluster>(&memory.few_keys[place], from);
        few.ids[i] = load_from_rank<Cluster>(&memory.few_ids[place], from);
      }
    }
    cluster_barrier<Cluster>();  // nobody leaves while the first block reads
    return true;
  }
};

// The id at which the running mass passes `target`, by the warp that has it. Of 32 neighbouring ids, which lanes have side by side, first the mass: a lane each.
template <int half_bits, int Cluster, int Vocab>
ERN_DEVICE int32_t id_at(const Row<Cluster, Vocab>& row, uint32_t weakest, uint64_t target) {
  using Ids = Row<Cluster, Vocab>;
  const auto mass_at = [&](int i, int lane) {
    const uint32_t key = row.key(i, lane);
    return key >= weakest ? mass_of_key<half_bits>(key) : 0;
  };
#pragma unroll 1
  for (int part = 0; part < Ids::parts; ++part) {
    __syncwarp();
    if (Ids::parts > 1) row.fetch(part), row.weigh();
    __syncwarp();
#pragma unroll 1
    for (int first = 0; first < Ids::held; first += warp_size) {
      uint64_t sum = 0;
      if (first + lane_id() < Ids::held) {
#pragma unroll 8
        for (int j = 0; j < warp_size; ++j) sum += mass_at(first + lane_id(), (j + lane_id()) % warp_size);
      }
      const uint64_t upto = warp_sum_until<uint64_t>(sum);
      const unsigned passed = __ballot_sync(~0u, upto > target);
      if (passed == 0) {
        target -= __shfl_sync(~0u, upto, warp_size - 1);
        continue;
      }
      const int there = __ffs(static_cast<int>(passed)) - 1;
      target -= __shfl_sync(~0u, upto - sum, there);
      const unsigned reached = __ballot_sync(~0u, warp_sum_until<uint64_t>(mass_at(first + there, lane_id())) > target);
      return row.id_of(part, first + there) - lane_id() + __ffs(static_cast<int>(reached)) - 1;
    }
  }
  return -1;
}
template <int half_bits>
ERN_DEVICE int32_t id_at(const Few& few, uint32_t weakest, uint64_t target) {
  int32_t found = -1;
  few.each([&](uint32_t key, int, int i) {
    const uint64_t upto = warp_sum_until<uint64_t>(key >= weakest ? mass_of_key<half_bits>(key) : 0);
    const unsigned passed = __ballot_sync(~0u, upto > target);
    if (found < 0 && passed != 0) found = __shfl_sync(~0u, few.ids[i], __ffs(static_cast<int>(passed)) - 1);
    target -= __shfl_sync(~0u, upto, warp_size - 1);  // wraps once it is found, when nothing looks at it any more
  });
  return found;
}

// The mass that top_p asks for.
ERN_DEVICE uint64_t share_of_mass(float top_p, uint64_t total) {
  const uint64_t target = static_cast<uint64_t>(ceil(static_cast<double>(top_p) * static_cast<double>(total)));
  return target > 0 ? target : 1;
}

// top_k if `counted`, top_p and the draw, over ids that hold all that stays, from key `base` on. `all`: the mass of the whole row, if it is known.
template <int Cluster, int half_bits, class Ids>
ERN_DEVICE void pick(Search<Cluster, half_bits>& search, Ids& ids, const DrawRow& how, bool counted, uint64_t all, uint32_t base, int32_t* next, int32_t* host) {
  uint32_t weakest = 0;
  if (counted) weakest = search.weakest_to_reach(ids, static_cast<uint64_t>(how.top_k), false, 0, base);
  typename Search<Cluster, half_bits>::Masses masses = {all, 0};
  const bool shares = how.top_p < 1;
  if (counted || all == 0 || !shares) masses = search.masses(ids, weakest);
  if (shares && masses.total > 0) {
    const uint32_t border = search.weakest_to_reach(ids, share_of_mass(how.top_p, masses.total), true, weakest, base);
    weakest = border > weakest ? border : weakest;
    masses = search.masses(ids, weakest);
  }
  if (Cluster > 1) cluster_barrier<Cluster>();  // nobody leaves while others read its mass
  if (masses.total == 0) {
    if (search.rank == 0 && threadIdx.x == 0) *next = *host = -1;
    return;
  }
  // 53 bits in [0, 1): random_unit of runtime/src/random.hpp.
  const double unit = static_cast<double>(random64(how.seed, how.position) >> 11) * 0x1p-53;
  uint64_t target = static_cast<uint64_t>(unit * static_cast<double>(masses.total));
  if (target >= masses.total) target = masses.total - 1;
  const uint64_t mine = search.memory.warp_mass[warp_id()];
  if (target < masses.before || target - masses.before >= mine) return;
  const int32_t id = id_at<half_bits>(ids, weakest, target - masses.before);
  if (lane_id() == 0) *next = *host = id;
}

}  // namespace draw_detail

template <int Cluster, int Vocab>
ERN_DEVICE void draw(const Step* step, const float* logits, const int32_t* argmax, const DrawRow* rows, const uint32_t* allowed, int32_t* next,
                     int32_t* host, int64_t stride, uint32_t* keys) {
  using namespace draw_detail;
  using Ids = Row<Cluster, Vocab>;
  __shared__ Memory memory;
  start_dependents();
  const int s = static_cast<int>(blockIdx.y), rank = static_cast<int>(blockIdx.x);
  if (s >= step->sequences) return;  // those of the first row wait for inputs
  const DrawRow how = rows[s];  // from the host, as the step is
  const float* const row_logits = logits + s * stride;
  Ids row = {row_logits, allowed, 0, 1 / how.temperature, how.min_p, (rank * warps + warp_id()) * Ids::stretch * warp_size, keys};
  wait_for_inputs();
  if (Ids::parts == 1 && how.temperature != 0) row.fetch(0);  // while the largest is looked up
  const int32_t best = __ldcg(argmax + s);
  const float max = __ldcg(row_logits + best);
  // Nothing to choose, nothing to choose from, or infinitely sure.
  if (how.temperature == 0 || !(max > -__builtin_inff()) || max == __builtin_inff()) {
    if (rank == 0 && threadIdx.x == 0) next[s] = host[s] = how.temperature != 0 && !(max > -__builtin_inff()) ? -1 : best;
    return;
  }
  row.max = max;
  uint32_t top = 0;
  if (Ids::parts == 1) top = row.weigh();
  Search<Cluster, Ids::half_bits> search = {memory, rank};
  const bool counted = how.top_k > 0 && how.top_k < Vocab;
  uint64_t all = 0;
  if (counted || how.top_p < 1) {
    if (!counted) all = search.masses(row, 0).total;
    if (Ids::parts > 1) row.each([&](uint32_t key, int, int) { top = key > top ? key : top; });
    const uint64_t target = counted ? static_cast<uint64_t>(how.top_k) : share_of_mass(how.top_p, all);
    const auto border = search.round(target, !counted, 0, [&](const auto& add) {
      if (top != 0) add(top, top >> shift_of(0));
    });
    const uint32_t least = border.digit > 0 ? border.digit << shift_of(0) : 1;
    Few few;
    if (search.gather(row, least, few)) {
      if (rank != 0) return;
      Search<1, Ids::half_bits> alone = {memory, 0};
      return pick(alone, few, how, counted, all, least, next + s, host + s);
    }
  }
  pick(search, row, how, counted, all, 0, next + s, host + s);
}

}  // namespace ern::cuda
