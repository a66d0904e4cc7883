#include "sampler.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "logit_math.hpp"
#include "random.hpp"

namespace ern {
namespace {

constexpr float never = -std::numeric_limits<float>::infinity();

bool is_allowed(std::span<const uint32_t> allowed, int32_t id) {
  return allowed.empty() || (allowed[static_cast<size_t>(id) / 32] >> (id % 32) & 1) != 0;
}

void mask(float* logits, size_t vocab, std::span<const uint32_t> allowed) {
  for (size_t word = 0; word < allowed.size(); ++word) {
    for (uint32_t missing = ~allowed[word]; missing != 0; missing &= missing - 1) {
      const size_t id = word * 32 + static_cast<size_t>(__builtin_ctz(missing));
      if (id < vocab) logits[id] = never;
    }
  }
}

}  // namespace

int32_t argmax(const float* logits, size_t count) {
  const float best = max_of(logits, count);
  if (best == never) return -1;
  int32_t id = -1;
  float least = best;
  for_each_at_least(logits, count, &least, [&](size_t i) {
    if (id < 0) id = static_cast<int32_t>(i);
    least = std::numeric_limits<float>::infinity();  // the first is enough; a row of +inf only repeats the visit
  });
  return id;
}

Sampler::Sampler(int32_t vocab) : vocab_(static_cast<size_t>(vocab)), weights_(vocab_), sums_(vocab_ / sum_block + 1) {
  candidates_.reserve(4096);
}

Sampled Sampler::sample(const SampleInput& input) {
  const SamplingParams& params = input.params;
  Sampled result;
  const bool changed = !params.bias.empty() || params.penalised();
  if (params.temperature == 0 && !changed && params.logprobs < 0) {
    // The common case costs nothing here: the kernel's own argmax, if it may be taken.
    const int32_t id = input.next_id;
    if (id >= 0 && static_cast<size_t>(id) < vocab_ && is_allowed(input.allowed, id) &&
        std::ranges::find(input.suppressed, id) == input.suppressed.end()) {
      result.id = id;
      return result;
    }
  }
  mask(input.logits, vocab_, input.allowed);
  double log_total = 0;
  std::vector<TokenLogprob> top;
  std::vector<float> kept;
  if (params.logprobs >= 0) {
    log_total = log_sum_exp(input.logits, vocab_, max_of(input.logits, vocab_));
    top = most_probable(input, params.logprobs, log_total);
    // The chosen token is not known yet, and step 3 overwrites what its log probability comes from.
    if (changed) kept.assign(input.logits, input.logits + vocab_);
  }
  if (changed) apply_bias_and_penalties(input);
  for (const int32_t id : input.suppressed) input.logits[id] = never;
  result.id = params.temperature == 0 ? argmax(input.logits, vocab_) : draw(input);
  if (params.logprobs >= 0 && result.id >= 0) {
    const float* raw = changed ? kept.data() : input.logits;
    result.logprobs.reserve(top.size() + 1);
    result.logprobs.push_back({result.id, static_cast<float>(raw[result.id] - log_total)});
    result.logprobs.insert(result.logprobs.end(), top.begin(), top.end());
  }
  return result;
}

void Sampler::apply_bias_and_penalties(const SampleInput& input) {
  const SamplingParams& params = input.params;
  for (const auto& [id, value] : params.bias) input.logits[id] += value;
  if (!params.penalised()) return;
  for (const auto& [id, count] : input.counts) {
    float& z = input.logits[id];
    z = z < 0 ? z * params.repetition : z / params.repetition;
    if (count > 0) z -= static_cast<float>(count) * params.frequency + params.presence;
  }
}

int32_t Sampler::draw(const SampleInput& input) {
  const SamplingParams& params = input.params;
  const float max = max_of(input.logits, vocab_);
  // Nothing to choose from, or infinitely sure.
  if (max == never || max == std::numeric_limits<float>::infinity()) return argmax(input.logits, vocab_);
  const double total =
      exp_row(input.logits, vocab_, max, 1 / params.temperature, params.min_p, weights_.data(), sums_.data());
  const double unit = random_unit(params.seed, input.position);
  const bool few = params.top_k > 0 && static_cast<size_t>(params.top_k) < vocab_;
  if (!few && params.top_p >= 1) return draw_from_all(unit * total);
  gather_candidates(params, total);
  return draw_from_candidates(params, total, unit);
}

// The first id at which the running sum of weights passes `target`: its block by the blocks' sums, then the id within
// it.
int32_t Sampler::draw_from_all(double target) const {
  size_t block = 0;
  while ((block + 1) * sum_block < vocab_ && target >= sums_[block]) target -= sums_[block++];
  int32_t last = -1;
  const auto visit = [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) {
      if (weights_[i] <= 0) continue;
      last = static_cast<int32_t>(i);
      if (target < weights_[i]) return true;
      target -= weights_[i];
    }
    return false;
  };
  if (visit(block * sum_block, std::min(vocab_, (block + 1) * sum_block)) || last >= 0) return last;
  // Rounding left the target at the end of a block without weights: the last token before it that has one.
  for (size_t i = block * sum_block; i-- > 0;) {
    if (weights_[i] > 0) return static_cast<int32_t>(i);
  }
  return argmax(weights_.data(), vocab_);
}

// All that top_k and top_p can keep, not sorted: most rows have a few hundred weights that matter, so a few tries with
// ever lower bounds beat one sort of all.
void Sampler::gather_candidates(const SamplingParams& params, double total) {
  const auto k = static_cast<size_t>(params.top_k);
  for (float least : {1e-3f, 1e-5f, std::numeric_limits<float>::min()}) {
    candidates_.clear();
    double sum = 0;
    for_each_at_least(weights_.data(), vocab_, &least, [&](size_t i) {
      candidates_.push_back({weights_[i], static_cast<int32_t>(i)});
      sum += weights_[i];
    });
    // With top_k, p is a share of what the k best have, which is less than the total.
    if (k > 0 ? candidates_.size() >= k : sum >= params.top_p * total) return;
  }
}

int32_t Sampler::draw_from_candidates(const SamplingParams& params, double total, double unit) {
  auto& all = candidates_;
  const auto begin = all.begin();
  if (params.top_k > 0) {
    const size_t k = std::min(all.size(), static_cast<size_t>(params.top_k));
    std::nth_element(begin, begin + static_cast<ptrdiff_t>(k - 1), all.end());
    all.resize(k);
  }
  // Sorted from the front, a stretch at a time, as far as top_p reaches.
  size_t sorted = 0, kept = all.size();
  double sum = 0;
  if (params.top_k > 0) {
    std::sort(begin, all.end());
    sorted = all.size();
    total = 0;
    for (const Candidate& candidate : all) total += candidate.weight;
  }
  const double wanted = params.top_p < 1 ? params.top_p * total : std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < all.size() && sum < wanted; ++i) {
    if (i == sorted) {
      const size_t next = std::min(all.size(), std::max<size_t>(64, sorted * 4));
      if (next < all.size())
        std::nth_element(begin + static_cast<ptrdiff_t>(sorted), begin + static_cast<ptrdiff_t>(next), all.end());
      std::sort(begin + static_cast<ptrdiff_t>(sorted), begin + static_cast<ptrdiff_t>(next));
      sorted = next;
    }
    sum += all[i].weight;
    kept = i + 1;
  }
  double target = unit * sum;
  for (size_t i = 0; i < kept; ++i) {
    if (target < all[i].weight) return all[i].id;
    target -= all[i].weight;
  }
  return all[kept - 1].id;  // rounding
}

std::vector<TokenLogprob> Sampler::most_probable(const SampleInput& input, int32_t count, double log_total) const {
  std::vector<TokenLogprob> top;
  if (count == 0) return top;
  const auto size = static_cast<size_t>(count);
  top.reserve(size + 1);
  float least = std::numeric_limits<float>::lowest();
  for_each_at_least(input.logits, vocab_, &least, [&](size_t i) {
    const float logit = input.logits[i];
    // After all that are as large: of equals, the lower id comes first and stays.
    const auto place = std::upper_bound(top.begin(), top.end(), logit,
                                        [](float value, const TokenLogprob& entry) { return value > entry.logprob; });
    if (top.size() == size && place == top.end()) return;
    top.insert(place, {static_cast<int32_t>(i), logit});
    if (top.size() > size) top.pop_back();
    if (top.size() == size) least = top.back().logprob;
  });
  for (TokenLogprob& entry : top) entry.logprob = static_cast<float>(entry.logprob - log_total);
  return top;
}

}  // namespace ern
