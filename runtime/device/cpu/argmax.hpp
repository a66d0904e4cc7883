// op         argmax: out[r] = the lowest id of the largest logit. NaN never wins; a row of NaN gives 0. No fusion.
// logits     float [rows, vocab]
// peaks      float [rows * argmax_parts(vocab)], scratch: the largest of each part
// out        int32 [rows]
// work       parts of a row, then, after a barrier, rows; the part that holds the winner is read again to find where
// reference  src/reference argmax; exact
#pragma once

#include "simd.hpp"
#include "spans.hpp"

namespace ern::cpu {
namespace {

constexpr int64_t argmax_part = 4096;  // columns
constexpr int64_t argmax_parts(int64_t vocab) { return (vocab + argmax_part - 1) / argmax_part; }

// -inf where there is nothing but NaN.
inline float largest(const float* x, int count) {
  const F32 none = splat(-__builtin_inff());
  F32 best[4] = {none, none, none, none};
  int i = 0;
  for (; i + 4 * lanes <= count; i += 4 * lanes) {
    for (int j = 0; j < 4; ++j) best[j] = max(load(x + i + j * lanes), best[j]);  // in this order a NaN is dropped
  }
  float top = max_of(max(max(best[0], best[1]), max(best[2], best[3])));
  for (; i < count; ++i) top = x[i] > top ? x[i] : top;
  return top;
}

template <int64_t vocab>
void argmax(int rows, const float* logits, float* peaks, int32_t* out, Team& team) {
  constexpr int64_t parts = argmax_parts(vocab);
  const Range mine = share(rows * parts, team);
  for (int64_t i = mine.begin; i < mine.end; ++i) {
    const int64_t first = i % parts * argmax_part, left = vocab - first;
    peaks[i] = largest(logits + i / parts * vocab + first, static_cast<int>(left < argmax_part ? left : argmax_part));
  }
  team.barrier();
  const Range finish = share(rows, team);
  for (int64_t row = finish.begin; row < finish.end; ++row) {
    const float* x = logits + row * vocab;
    const float top = largest(peaks + row * parts, parts);
    int64_t part = 0;
    while (peaks[row * parts + part] != top) ++part;  // top is one of them
    int64_t id = part * argmax_part;
    while (id < vocab && x[id] != top) ++id;
    out[row] = static_cast<int32_t>(id < vocab ? id : 0);  // not found: all NaN, of which -inf was said
  }
}

}  // namespace
}  // namespace ern::cpu
