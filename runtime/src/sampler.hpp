// Which token comes next, from one row of logits, on the host. Order of operations, that of the family's own server:
//
//   1  ids that must not come (without a piece, or outside a grammar's mask) are left out
//   2  log probabilities for the reader are taken here
//   3  bias is added; stop ids are left out while the text is too short
//   4  seen in prompt or output:     z = z < 0 ? z * repetition : z / repetition
//      c > 0 times in the output:    z = z - c * frequency - presence
//   5  z / temperature, softmax
//   6  min_p: those below min_p times the best go;  top_k: the k best stay;
//      top_p: of what is left, renormalised, the smallest set that reaches p
//
// Greedy (temperature 0) is the argmax after step 4, lowest id on ties; a NaN never wins. A random draw is a function
// of (seed, position), so a sequence that is computed again, in another batch or another order, gets the same tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

namespace ern {

struct SamplingParams {
  float temperature = 0;
  float top_p = 1;
  int32_t top_k = 0;  // 0: off
  float min_p = 0;
  float repetition = 1, frequency = 0, presence = 0;
  uint64_t seed = 0;
  std::vector<std::pair<int32_t, float>> bias;  // ids below the vocabulary's size
  int32_t logprobs = -1;                        // alternatives to give with each token; -1: no log probabilities at all

  bool penalised() const { return repetition != 1 || frequency != 0 || presence != 0; }
};

// How often each token occurs: 0 for one that only the prompt has. Kept only where penalties ask for it.
using TokenCounts = std::unordered_map<int32_t, int32_t>;

struct TokenLogprob {
  int32_t id;
  float logprob;
};

// What is asked of one row.
struct SampleInput {
  float* logits;                        // [vocab]; overwritten
  int32_t next_id;                      // the argmax of the row if a kernel found it, else -1
  std::span<const uint32_t> allowed;    // bit id % 32 of word id / 32; empty: all
  std::span<const int32_t> suppressed;  // stop ids that must not come yet
  const SamplingParams& params;
  const TokenCounts& counts;
  uint64_t position;                    // index of the new token in its sequence
};

struct Sampled {
  int32_t id = -1;                     // -1: the row has no number to choose from
  std::vector<TokenLogprob> logprobs;  // the token, then the most probable ones; empty if not asked for
};

// Scratch memory for one thread.
class Sampler {
 public:
  explicit Sampler(int32_t vocab);
  Sampled sample(const SampleInput& input);

 private:
  void apply_bias_and_penalties(const SampleInput& input);
  int32_t draw(const SampleInput& input);
  int32_t draw_from_all(double target) const;
  void gather_candidates(const SamplingParams& params, double total);
  int32_t draw_from_candidates(const SamplingParams& params, double total, double unit);
  std::vector<TokenLogprob> most_probable(const SampleInput& input, int32_t count, double log_total) const;

  struct Candidate {
    float weight;  // e^((z - max) / temperature)
    int32_t id;
    bool operator<(const Candidate& other) const {
      return weight != other.weight ? weight > other.weight : id < other.id;
    }  // best first
  };
  const size_t vocab_;
  std::vector<float> weights_;  // [vocab]
  std::vector<float> sums_;     // of blocks of weights_
  std::vector<Candidate> candidates_;
};

// The largest of the allowed values that is no NaN, lowest id on ties, -1 if there is none.
int32_t argmax(const float* logits, size_t count);

}  // namespace ern
