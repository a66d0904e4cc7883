// The passes over a whole row of logits that sampling needs, four values at a time: a row has 100 000 of them, once for
// each token. SSE2 is part of every x86-64, so the results are the same on every CPU. Nothing here knows what a row
// means.
#pragma once

#include <emmintrin.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

namespace ern {

// e^x for x <= 0, to about one unit in the last place; 0 below -87 and for NaN. x = n ln 2 + r with |r| <= ln 2 / 2,
// then the Taylor series of e^r up to r^7 (the next term is under 6e-9) and n into the exponent. ln 2 in two parts, so
// that n * ln2_high is exact.
inline __m128 exp4(__m128 x) {
  const __m128 in_range = _mm_cmpge_ps(x, _mm_set1_ps(-87.0f));
  x = _mm_and_ps(x, in_range);
  const __m128i n = _mm_cvtps_epi32(_mm_mul_ps(x, _mm_set1_ps(1.44269504f)));
  const __m128 nf = _mm_cvtepi32_ps(n);
  __m128 r = _mm_sub_ps(x, _mm_mul_ps(nf, _mm_set1_ps(0.693145752f)));
  r = _mm_sub_ps(r, _mm_mul_ps(nf, _mm_set1_ps(1.42860677e-6f)));
  __m128 sum = _mm_set1_ps(1.0f / 5040);
  for (const float term : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
    sum = _mm_add_ps(_mm_mul_ps(sum, r), _mm_set1_ps(term));
  const __m128 power = _mm_castsi128_ps(_mm_slli_epi32(_mm_add_epi32(n, _mm_set1_epi32(127)), 23));
  return _mm_and_ps(_mm_mul_ps(sum, power), in_range);
}

// The largest value that is not NaN; -inf if there is none.
inline float max_of(const float* x, size_t count) {
  __m128 best = _mm_set1_ps(-std::numeric_limits<float>::infinity());
  size_t i = 0;
  for (; i + 4 <= count; i += 4) best = _mm_max_ps(_mm_loadu_ps(x + i), best);  // the second operand where one is NaN
  float lanes[4];
  _mm_storeu_ps(lanes, best);
  float result = lanes[0];
  for (const float lane : lanes) result = lane > result ? lane : result;
  for (; i < count; ++i) result = x[i] > result ? x[i] : result;
  return result;
}

// Sums are kept for each block of so many values: added up in f64 they stay exact enough, and a drawn number finds its
// block without a pass over all values.
inline constexpr size_t sum_block = 1024;

// out[i] = e^((x[i] - max) * scale), or 0 where that is below `least`; sums[b] the sum of block b. Returns the total.
// Needs ceil(count / sum_block) sums.
inline double exp_row(const float* x, size_t count, float max, float scale, float least, float* out, float* sums) {
  const __m128 max4 = _mm_set1_ps(max), scale4 = _mm_set1_ps(scale), least4 = _mm_set1_ps(least);
  double total = 0;
  for (size_t block = 0; block * sum_block < count; ++block) {
    const size_t end = count - block * sum_block < sum_block ? count : (block + 1) * sum_block;
    __m128 sum4 = _mm_setzero_ps();
    size_t i = block * sum_block;
    for (; i + 4 <= end; i += 4) {
      __m128 e = exp4(_mm_mul_ps(_mm_sub_ps(_mm_loadu_ps(x + i), max4), scale4));
      e = _mm_and_ps(e, _mm_cmpge_ps(e, least4));
      _mm_storeu_ps(out + i, e);
      sum4 = _mm_add_ps(sum4, e);
    }
    float lanes[4];
    _mm_storeu_ps(lanes, sum4);
    float sum = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
    for (; i < end; ++i) {
      const float e = _mm_cvtss_f32(exp4(_mm_set1_ps((x[i] - max) * scale)));
      out[i] = e >= least ? e : 0;
      sum += out[i];
    }
    sums[block] = sum;
    total += sum;
  }
  return total;
}

// log of the sum of e^x, without writing anything.
inline double log_sum_exp(const float* x, size_t count, float max) {
  const __m128 max4 = _mm_set1_ps(max);
  double total = 0;
  for (size_t begin = 0; begin < count; begin += sum_block) {
    const size_t end = count - begin < sum_block ? count : begin + sum_block;
    __m128 sum4 = _mm_setzero_ps();
    size_t i = begin;
    for (; i + 4 <= end; i += 4) sum4 = _mm_add_ps(sum4, exp4(_mm_sub_ps(_mm_loadu_ps(x + i), max4)));
    float lanes[4];
    _mm_storeu_ps(lanes, sum4);
    total += (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
    for (; i < end; ++i) total += _mm_cvtss_f32(exp4(_mm_set1_ps(x[i] - max)));
  }
  return max + std::log(total);
}

// Calls visit(i) for every i in ascending order with x[i] >= *least; visit may raise *least as it goes.
template <class Visit>
inline void for_each_at_least(const float* x, size_t count, const float* least, Visit visit) {
  size_t i = 0;
  for (; i + 4 <= count; i += 4) {
    const int hits = _mm_movemask_ps(_mm_cmpge_ps(_mm_loadu_ps(x + i), _mm_set1_ps(*least)));
    if (hits == 0) continue;
    for (size_t lane = 0; lane < 4; ++lane) {
      if ((hits >> lane & 1) != 0 && x[i + lane] >= *least) visit(i + lane);
    }
  }
  for (; i < count; ++i) {
    if (x[i] >= *least) visit(i);
  }
}

}  // namespace ern
