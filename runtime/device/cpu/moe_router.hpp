// moe_router: which experts a token goes to, and with what weights.
//
//   x           X [tokens, hidden]         row-major; float or Bf16, widened
//   gate        W [experts, hidden]        panel64; float or Bf16, widened
//   correction  f32 [experts]              if problem.correction, else not read; shifts the choice, not the weights
//   logits      f32 [tokens, experts]      x . gate^T
//   indices     i32 [tokens, chosen]       the largest p + correction, descending; the lower index on ties
//   weights     f32 [tokens, chosen]       p / max(sum of the chosen p, norm_min), in the order of indices
//
// p = softmax of the logits over all experts. Everything in f32. norm_min is an argument because clang before 18 takes no float in a template.
//
// Work: the product as in linear (by strips of 16 experts, then by rows); after one barrier each thread takes a contiguous run of tokens.
// Sums of the product by ascending k; the sum of the softmax by ascending index within lanes, then over lanes. Reference op: moe_router.
#pragma once

#include "linear.hpp"

namespace ern::cpu {
namespace {

struct MoeRouter {
  int experts;
  int hidden;
  int chosen;
  bool correction = false;
  int max_rows = 1 << 20;
  Tiling tiling = {};
};

// One token: p from its logits, then the largest p + correction, one after the other.
template <MoeRouter problem>
ERN_INLINE void choose_experts(const float* logits, const float* correction, float norm_min, int32_t* indices, float* weights) {
  constexpr int count = problem.experts;
  float p[(count + lanes - 1) / lanes * lanes];
  float score[count];
  F32 top = splat(-__builtin_inff());
  for (int i = 0; i < count; i += lanes) {
    const int left = count - i < lanes ? count - i : lanes;
    F32 value = load_first(logits + i, left);
    if (left < lanes) {  // the lanes behind the last expert must not be the largest
      for (int j = 0; j < lanes; ++j) p[i + j] = j < left ? logits[i + j] : -__builtin_inff();
      value = load(p + i);
    }
    top = max(value, top);
  }
  const F32 largest = splat(max_of(top));
  F32 sums = zero();
  for (int i = 0; i < count; i += lanes) {
    const int left = count - i < lanes ? count - i : lanes;
    store(p + i, exp(load_first(logits + i, left) - largest));
    for (int j = left; j < lanes; ++j) p[i + j] = 0;
    sums = sums + load(p + i);
  }
  const float total = sum(sums);
  for (int i = 0; i < count; ++i) {
    p[i] /= total;
    score[i] = problem.correction ? p[i] + correction[i] : p[i];
  }

  float chosen_sum = 0;
  bool taken[count] = {};
  for (int j = 0; j < problem.chosen; ++j) {
    int best = -1;
    for (int i = 0; i < count; ++i) {
      if (!taken[i] && (best < 0 || score[i] > score[best])) best = i;  // with NaNs too the choices are different experts
    }
    taken[best] = true;
    indices[j] = best;
    weights[j] = p[best];
    chosen_sum += p[best];
  }
  const float norm = chosen_sum > norm_min ? chosen_sum : norm_min;
  for (int j = 0; j < problem.chosen; ++j) weights[j] /= norm;
}

template <MoeRouter problem, class X, class W>
void moe_router(int tokens, const X* x, const W* gate, const float* correction, float norm_min, float* logits, int32_t* indices,
                float* weights, Team& team) {
  static_assert(problem.chosen > 0 && problem.chosen <= problem.experts);
  linear<Linear{.n = problem.experts, .k = problem.hidden, .max_rows = problem.max_rows, .tiling = problem.tiling}>(
      tokens, x, gate, static_cast<const float*>(nullptr), static_cast<const float*>(nullptr), logits, team);
  team.barrier();
  const Range mine = share(tokens, team);
  for (int64_t t = mine.begin; t < mine.end; ++t) {
    choose_experts<problem>(logits + t * problem.experts, correction, norm_min, indices + t * problem.chosen,
                            weights + t * problem.chosen);
  }
}

}  // namespace
}  // namespace ern::cpu
