// moe_combine: out[t] = sum over j of weights[t, j] * rows[t*choices + j], in f32, experts in ascending order.
//
//   rows     f32 [tokens*choices, width]
//   indices  i32 [tokens, choices]   which expert made each row; decides the order of the sum alone
//   weights  f32 [tokens, choices]
//   out      f32 [tokens, width]
//
// Work: threads share out the tokens. No workspace, no barrier inside. Reference op: moe_combine.
#pragma once

#include "simd.hpp"

namespace ern::cpu {
namespace {

struct MoeCombine {
  int width;
  int choices;
};

template <MoeCombine problem>
void moe_combine(int tokens, const float* rows, const int32_t* indices, const float* weights, float* out, Team& team) {
  constexpr int k = problem.choices, width = problem.width;
  const Range mine = share(tokens, team);
  for (int64_t t = mine.begin; t < mine.end; ++t) {
    const int32_t* chosen = indices + t * k;
    int order[k];
    for (int j = 0; j < k; ++j) {  // insertion sort by expert: k is small
      int at = j;
      for (; at > 0 && chosen[order[at - 1]] > chosen[j]; --at) order[at] = order[at - 1];
      order[at] = j;
    }
    float* sums = out + t * width;
    for (int c = 0; c < width; c += lanes) {
      const int left = width - c;
      F32 sum = zero();
      for (int j = 0; j < k; ++j) {
        const float* row = rows + (t * k + order[j]) * width + c;
        sum = fma(splat(weights[t * k + order[j]]), left >= lanes ? load(row) : load_first(row, left), sum);
      }
      if (left >= lanes) store(sums + c, sum);
      else store_first(sums + c, sum, left);
    }
  }
}

}  // namespace
}  // namespace ern::cpu
