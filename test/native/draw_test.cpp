// Random draws of the GPU (runtime/device/cuda/draw.cuh), a block on the host, against the plain meaning of its words: each id must be the one that an obvious
// program finds from the same weights. bench/gpu/draw.cu has the same on a device, over clusters, with frequencies.
#include "simt.hpp"

#include "device/cuda/draw.cuh"

#include <algorithm>
#include <limits>
#include <numeric>
#include <random>

#include "check.hpp"

using namespace ern::cuda;

namespace {

struct Case {
  float temperature, top_p = 1, min_p = 0;
  int top_k = 0;
  bool masked = false;
  float spread = 1;  // of the logits
};

template <int Vocab>
int32_t device(const float* logits, int32_t best, const DrawRow& how, const uint32_t* allowed) {
  const Step step = {1, 1, 1, 0};
  int32_t next = -7, host = -8;
  std::vector<uint32_t> keys(draw_shared_bytes(1, Vocab) / 4);
  simt::run(draw_threads, {0, 0, 0}, {1, 1, 1}, [&] { draw<1, Vocab>(&step, logits, &best, &how, allowed, &next, &host, Vocab, keys.data()); });
  CHECK_EQUAL(next, host);
  return next;
}

// Sorted, summed up and walked through, in the same units of mass.
template <int Vocab>
int32_t plain(const std::vector<float>& logits, const DrawRow& how, const std::vector<uint32_t>& allowed, bool masked) {
  using Row = draw_detail::Row<1, Vocab>;
  const float max = *std::max_element(logits.begin(), logits.end());
  std::vector<uint32_t> key(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    const float w = std::exp((logits[i] - max) * (1 / how.temperature));
    const bool stays = w >= how.min_p && w > 0 && (!masked || (allowed[i / 32] >> (i % 32) & 1) != 0);
    key[i] = stays ? __float_as_uint(w) : 0;
  }
  std::vector<uint32_t> sorted;
  for (const uint32_t k : key) if (k != 0) sorted.push_back(k);
  std::sort(sorted.rbegin(), sorted.rend());
  uint32_t border = 0;
  if (how.top_k > 0 && how.top_k < Vocab && static_cast<size_t>(how.top_k) <= sorted.size()) border = sorted[static_cast<size_t>(how.top_k) - 1];
  const auto mass = [&](uint32_t from) {
    uint64_t sum = 0;
    for (const uint32_t k : sorted) sum += k >= from ? Row::mass_of(k) : 0;
    return sum;
  };
  if (how.top_p < 1 && mass(border) > 0) {
    const auto wanted = std::max<uint64_t>(1, static_cast<uint64_t>(std::ceil(static_cast<double>(how.top_p) * static_cast<double>(mass(border)))));
    uint64_t sum = 0;
    uint32_t last = 0;
    for (size_t i = 0; i < sorted.size() && sum < wanted; ++i) last = sorted[i], sum += Row::mass_of(last);
    border = std::max(border, last);
  }
  const uint64_t total = mass(border);
  if (total == 0) return -1;
  const double unit = static_cast<double>(random64(how.seed, how.position) >> 11) * 0x1p-53;
  uint64_t target = std::min(total - 1, static_cast<uint64_t>(unit * static_cast<double>(total)));
  for (size_t i = 0; i < key.size(); ++i) {
    const uint64_t own = key[i] >= border ? Row::mass_of(key[i]) : 0;
    if (target < own) return static_cast<int32_t>(i);
    target -= own;
  }
  return -2;
}

template <int Vocab>
void compare(const Case& c, int draws, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, c.spread);
  std::vector<float> logits(Vocab);
  for (float& z : logits) z = normal(random);
  // Some equal ones, also at borders.
  for (size_t i = 0; i + 7 < logits.size(); i += 7) logits[i] = std::round(logits[i] * 4) / 4;
  std::vector<uint32_t> allowed((Vocab + 31) / 32);
  for (uint32_t& word : allowed) word = static_cast<uint32_t>(random());
  const auto best = static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  for (int i = 0; i < draws; ++i) {
    const DrawRow how = {c.temperature, c.top_p, c.min_p, c.top_k, seed, static_cast<uint64_t>(i)};
    CHECK_EQUAL(device<Vocab>(logits.data(), best, how, c.masked ? allowed.data() : nullptr), plain<Vocab>(logits, how, allowed, c.masked),
                "a vocabulary of " + std::to_string(Vocab) + ", draw " + std::to_string(i));
  }
}

void check_edges() {
  constexpr int vocab = 67;
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const DrawRow drawn = {0.7f, 0.9f, 0, 0, 5, 6}, greedy = {0, 1, 0, 0, 0, 0};
  std::vector<float> logits(vocab, 0.5f);
  logits[3] = 1;
  CHECK_EQUAL(device<vocab>(logits.data(), 3, greedy, nullptr), 3);
  CHECK_EQUAL(device<vocab>(std::vector<float>(vocab, -infinity).data(), 0, drawn, nullptr), -1);
  CHECK_EQUAL(device<vocab>(std::vector<float>(vocab, std::nanf("")).data(), 0, drawn, nullptr), -1);
  logits[9] = infinity;
  CHECK_EQUAL(device<vocab>(logits.data(), 9, drawn, nullptr), 9);
  // Beside a logit of 100, which is not allowed, all others have no mass: the host decides.
  logits[9] = 100;
  std::vector<uint32_t> allowed = {~(1u << 9), ~0u, ~0u};
  CHECK_EQUAL(device<vocab>(logits.data(), 9, drawn, allowed.data()), -1);
}

}  // namespace

int main() {
  compare<1>({.temperature = 1, .top_p = 0.5f, .top_k = 1}, 3, 1);
  compare<31>({.temperature = 1, .top_p = 0.9f, .top_k = 5}, 20, 2);
  compare<257>({.temperature = 2, .top_p = 0.6f, .masked = true}, 20, 3);
  compare<1031>({.temperature = 0.5f, .top_k = 3}, 20, 4);
  compare<1031>({.temperature = 1}, 20, 5);
  compare<1031>({.temperature = 0.3f, .top_p = 0.5f, .min_p = 0.01f, .top_k = 7, .masked = true, .spread = 4}, 20, 6);
  compare<8192>({.temperature = 1, .top_p = 1e-6f}, 3, 7);
  compare<20011>({.temperature = 0.8f, .top_p = 0.8f, .masked = true, .spread = 3}, 4, 8);
  compare<40009>({.temperature = 0.8f, .top_p = 0.8f, .top_k = 100, .masked = true, .spread = 3}, 1, 11);  // more than stays in shared memory
  // More than one block finishes by itself: all go on over the whole row.
  compare<20011>({.temperature = 2, .top_p = 0.95f}, 2, 9);
  compare<8192>({.temperature = 1, .top_p = 0.9f, .top_k = 3000}, 2, 10);
  check_edges();
  return check::result();
}
