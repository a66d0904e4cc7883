// The sampler against its definition in doubles, written out as plainly as sampler.hpp says it: the same set of tokens,
// and the same draw from it.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "check.hpp"
#include "logit_math.hpp"
#include "random.hpp"
#include "sampler.hpp"

using namespace ern;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();
const float nan = std::nanf("");

struct Row {
  std::vector<float> logits;
  std::vector<uint32_t> allowed;
  std::vector<int32_t> suppressed;
  SamplingParams params;
  TokenCounts counts;
  int32_t next_id = -1;
  uint64_t position = 0;

  Sampled sample() const {
    std::vector<float> copy = logits;
    Sampler sampler(static_cast<int32_t>(logits.size()));
    return sampler.sample({copy.data(), next_id, allowed, suppressed, params, counts, position});
  }
};

// What may be drawn, with its probability, best first; sampler.hpp's steps 1 and 3 to 6.
std::vector<std::pair<int32_t, double>> plain_distribution(const Row& row) {
  const SamplingParams& p = row.params;
  std::vector<double> z(row.logits.begin(), row.logits.end());
  for (const auto& [id, value] : p.bias) z[static_cast<size_t>(id)] += value;
  for (const auto& [id, count] : row.counts) {
    double& value = z[static_cast<size_t>(id)];
    value = value < 0 ? value * p.repetition : value / p.repetition;
    if (count > 0) value -= count * p.frequency + p.presence;
  }
  std::vector<std::pair<int32_t, double>> all;
  for (size_t i = 0; i < z.size(); ++i) {
    const bool in = (row.allowed.empty() || (row.allowed[i / 32] >> (i % 32) & 1)) &&
                    std::ranges::find(row.suppressed, static_cast<int32_t>(i)) == row.suppressed.end();
    if (in && !std::isnan(z[i])) all.emplace_back(static_cast<int32_t>(i), z[i] / p.temperature);
  }
  std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  const double max = all.front().second;
  double total = 0;
  for (auto& [id, value] : all) value = std::exp(value - max);
  std::erase_if(all, [&](const auto& each) { return each.second < p.min_p; });
  if (p.top_k > 0 && all.size() > static_cast<size_t>(p.top_k)) all.resize(static_cast<size_t>(p.top_k));
  for (const auto& each : all) total += each.second;
  double sum = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    sum += all[i].second;
    if (sum >= p.top_p * total && p.top_p < 1) all.resize(i + 1);
  }
  total = 0;
  for (const auto& each : all) total += each.second;
  for (auto& each : all) each.second /= total;
  return all;
}

void greedy() {
  Row row;
  row.logits = {1, 5, 3, 5, -2};
  CHECK_EQUAL(row.sample().id, 1);  // the lowest of equals
  row.next_id = 1;
  CHECK_EQUAL(row.sample().id, 1);
  row.allowed = {0b11101};  // what the kernel found has no piece
  CHECK_EQUAL(row.sample().id, 3);
  row.suppressed = {3};
  CHECK_EQUAL(row.sample().id, 2);
  row.allowed = {};
  row.suppressed = {1, 3};
  CHECK_EQUAL(row.sample().id, 2);
  row = {};
  row.logits = {nan, -inf, -3, nan, -3, -5};
  CHECK_EQUAL(row.sample().id, 2);
  row.logits = {nan, -inf, nan, nan};
  CHECK_EQUAL(row.sample().id, -1);
  row.params.temperature = 1;
  CHECK_EQUAL(row.sample().id, -1);
  row.logits = {0, inf, inf, nan};
  CHECK_EQUAL(row.sample().id, 1);
  row.params.temperature = 0;
  CHECK_EQUAL(row.sample().id, 1);
  // Penalties and bias count for greedy, too.
  row = {};
  row.logits = {4, 3, 2, -1};
  row.next_id = 0;
  row.params.repetition = 2;
  row.counts = {{0, 0}, {3, 1}};
  CHECK_EQUAL(row.sample().id, 1);
  row.params = {};
  row.params.presence = 1.5f;
  row.counts = {{0, 1}, {1, 0}};
  CHECK_EQUAL(row.sample().id, 1);
  row.params = {};
  row.params.bias = {{2, 10.0f}};
  CHECK_EQUAL(row.sample().id, 2);
}

Row random_row(std::mt19937& random, size_t vocab) {
  Row row;
  std::normal_distribution<float> normal(0, static_cast<float>(1 + random() % 4));
  row.logits.resize(vocab);
  for (float& value : row.logits) value = normal(random);
  for (int i = 0; i < 5; ++i) row.logits[random() % vocab] = row.logits[random() % vocab];  // ties
  const auto chance = [&](unsigned in) { return random() % in == 0; };
  SamplingParams& p = row.params;
  p.temperature = 0.3f + static_cast<float>(random() % 20) / 10;
  if (chance(2)) p.top_p = 0.05f + static_cast<float>(random() % 94) / 100;
  if (chance(2)) p.top_k = static_cast<int32_t>(1 + random() % (chance(3) ? 2 * vocab : 50));
  if (chance(3)) p.min_p = static_cast<float>(random() % 100) / 200;
  if (chance(3)) p.repetition = 1.3f;
  if (chance(3)) p.frequency = 0.4f;
  if (chance(3)) p.presence = -0.3f;
  if (p.penalised()) {
    for (int i = 0; i < 20; ++i)
      row.counts[static_cast<int32_t>(random() % vocab)] = static_cast<int32_t>(random() % 3);
  }
  if (chance(3)) p.bias = {{3, 2.5f}, {0, -1.0f}};
  if (chance(2)) {
    row.allowed.assign(vocab / 32 + 1, 0);
    for (size_t i = 0; i < vocab; ++i) {
      if (!chance(4) || i == 5) row.allowed[i / 32] |= 1u << (i % 32);
    }
  }
  if (chance(4)) row.suppressed = {1, 2};
  return row;
}

// Each draw falls on the token whose stretch of [0, 1) the definition puts the random number into, up to rounding at
// the borders.
void draws() {
  std::mt19937 random(2);
  int draws = 0, at_border = 0;
  for (int round = 0; round < 300; ++round) {
    Row row = random_row(random, round % 3 == 0 ? 37 : round % 3 == 1 ? 1500 : 5003);
    const auto plain = plain_distribution(row);
    std::vector<std::pair<int32_t, double>> order = plain;
    // Without top_k and top_p the sampler walks ids in order, else best first.
    const bool few = row.params.top_k > 0 && static_cast<size_t>(row.params.top_k) < row.logits.size();
    if (!few && row.params.top_p >= 1) std::sort(order.begin(), order.end());
    for (int i = 0; i < 10; ++i, ++draws) {
      row.params.seed = random();
      row.position = random() % 1000;
      const double unit = random_unit(row.params.seed, row.position);
      double sum = 0;
      bool found = false;
      const int32_t id = row.sample().id;
      for (const auto& [candidate, probability] : order) {
        if (candidate == id) {
          found = true;
          const bool inside = unit >= sum - 2e-5 && unit < sum + probability + 2e-5;
          CHECK(inside);
        }
        sum += probability;
      }
      // At the border of top_p or min_p, rounding may take one token more or less.
      at_border += !found;
    }
  }
  CHECK(at_border * 500 < draws);
}

void same_seed() {
  std::mt19937 random(3);
  Row row = random_row(random, 1000);
  row.params.seed = 5;
  row.position = 9;
  const int32_t id = row.sample().id;
  for (int i = 0; i < 3; ++i) CHECK_EQUAL(row.sample().id, id);
  // Other positions and other seeds give other numbers, evenly spread.
  row = {};
  row.logits.assign(8, 0.0f);
  row.params.temperature = 1;
  std::vector<int> hits(8);
  for (uint64_t i = 0; i < 8000; ++i) {
    row.params.seed = i % 10;
    row.position = i / 10;
    ++hits[static_cast<size_t>(row.sample().id)];
  }
  for (const int count : hits) CHECK(count > 880 && count < 1120);  // four standard deviations
}

void logprobs() {
  std::mt19937 random(4);
  for (int round = 0; round < 50; ++round) {
    Row row = random_row(random, 3000);
    row.params.logprobs = static_cast<int32_t>(random() % 21);
    std::vector<std::pair<float, int32_t>> all;
    double total = 0;
    for (size_t i = 0; i < row.logits.size(); ++i) {
      if (!row.allowed.empty() && !(row.allowed[i / 32] >> (i % 32) & 1)) continue;
      all.emplace_back(-row.logits[i], static_cast<int32_t>(i));
      total += std::exp(static_cast<double>(row.logits[i]));
    }
    std::sort(all.begin(), all.end());
    const Sampled sampled = row.sample();
    CHECK_EQUAL(sampled.logprobs.size(), static_cast<size_t>(row.params.logprobs) + 1);
    CHECK_EQUAL(sampled.logprobs[0].id, sampled.id);
    for (size_t i = 0; i < sampled.logprobs.size(); ++i) {
      const auto [id, logprob] = sampled.logprobs[i];
      if (i > 0) CHECK_EQUAL(id, all[i - 1].second);
      CHECK(std::abs(logprob - (row.logits[static_cast<size_t>(id)] - std::log(total))) < 2e-5);
    }
  }
}

void exponential() {
  double worst = 0;
  for (float x = 0; x > -87; x -= 0.00371f) {
    const double found = _mm_cvtss_f32(exp4(_mm_set1_ps(x))), expected = std::exp(static_cast<double>(x));
    worst = std::max(worst, std::abs(found - expected) / expected);
  }
  CHECK(worst < 3e-7);
  for (const float x : {-inf, nan, -1000.0f, -88.0f}) CHECK_EQUAL(_mm_cvtss_f32(exp4(_mm_set1_ps(x))), 0.0f);
}

// Not part of the suite: a row of the family's vocabulary.
void speed() {
  std::mt19937 random(5);
  Row row = random_row(random, 103424);
  row.allowed = {}, row.suppressed = {}, row.counts = {};
  Sampler sampler(103424);
  const auto time = [&](const char* what, const SamplingParams& params) {
    row.params = params;
    double best = 1e9;
    for (int i = 0; i < 30; ++i) {
      std::vector<float> copy = row.logits;
      const auto start = std::chrono::steady_clock::now();
      sampler.sample({copy.data(), -1, row.allowed, row.suppressed, row.params, row.counts, static_cast<uint64_t>(i)});
      best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    std::printf("%s %.0f us\n", what, best * 1e6);
  };
  SamplingParams params;
  time("greedy", params);
  params.temperature = 0.8f;
  time("temperature", params);
  params.top_p = 0.8f;
  time("top_p", params);
  params.top_k = 50;
  time("top_k, top_p", params);
  params.logprobs = 5;
  time("with logprobs", params);
}

}  // namespace

int main(int count, char**) {
  if (count > 1) return speed(), 0;
  greedy();
  draws();
  same_seed();
  logprobs();
  exponential();
  return check::result();
}
