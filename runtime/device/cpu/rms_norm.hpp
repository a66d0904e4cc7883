// op         rms_norm:      y = x * rsqrt(mean(x^2) + eps) * weight, over each row
//            add_rms_norm:  sum = x + residual; y = rms_norm(sum). The sum is normed while it is in the first cache.
// x          float [rows, width]; residual the same; sum: float [rows, width], may be x or residual
// weight     W [width], float or Bf16, one row
// y          Out [rows, width], float or Bf16, rounded once at the end
// work       whole rows. One row is one thread's: its 4 to 32 KiB cost less than the barrier that a split would need.
// accumulate f32, four vectors of partial sums in a fixed order, whatever the number of rows
// reference  src/reference rms_norm, add_rms_norm
#pragma once

#include "kernel.hpp"
#include "simd.hpp"

namespace ern::cpu {
namespace {

// Columns left of `at`, at most a vector.
template <int width>
constexpr int columns_at(int at) {
  return width - at < lanes ? width - at : lanes;
}

// y = x * r * weight with the r of a row whose squares add up to `squares`.
template <int width, class W, class Out>
ERN_INLINE void scale_row(const float* x, float squares, const W* weight, float eps, Out* y) {
  const F32 r = splat(1.0f / __builtin_sqrtf(squares / width + eps));
  int i = 0;
  for (; i + lanes <= width; i += lanes) store(y + i, load(x + i) * r * load(weight + i));
  if (i < width) store_first(y + i, load_first(x + i, width - i) * r * load_first(weight + i, width - i), width - i);
}

// The sum of squares of a row that get(i, n) delivers, n columns from i on, the other lanes 0.
template <int width, class Get>
ERN_INLINE float sum_of_squares(const Get& get) {
  F32 sums[4] = {zero(), zero(), zero(), zero()};
  int i = 0;
  for (; i + 4 * lanes <= width; i += 4 * lanes) {
    for (int j = 0; j < 4; ++j) {
      const F32 x = get(i + j * lanes, lanes);
      sums[j] = fma(x, x, sums[j]);
    }
  }
  for (; i < width; i += lanes) {
    const F32 x = get(i, columns_at<width>(i));
    sums[0] = fma(x, x, sums[0]);
  }
  return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

template <int width, class W, class Out>
void rms_norm(int rows, const float* x, const W* weight, float eps, Out* y, Team& team) {
  const Range mine = share(rows, team);
  for (int64_t row = mine.begin; row < mine.end; ++row) {
    const float* from = x + row * width;
    const float squares =
        sum_of_squares<width>([&](int i, int n) { return n == lanes ? load(from + i) : load_first(from + i, n); });
    scale_row<width>(from, squares, weight, eps, y + row * width);
  }
}

template <int width, class W, class Out>
void add_rms_norm(int rows, const float* x, const float* residual, const W* weight, float eps, float* sum, Out* y,
                  Team& team) {
  const Range mine = share(rows, team);
  for (int64_t row = mine.begin; row < mine.end; ++row) {
    const float* a = x + row * width;
    const float* b = residual + row * width;
    float* to = sum + row * width;
    const float squares = sum_of_squares<width>([&](int i, int n) {
      const F32 added = n == lanes ? load(a + i) + load(b + i) : load_first(a + i, n) + load_first(b + i, n);
      if (n == lanes) {
        store(to + i, added);
      } else {
        store_first(to + i, added, n);
      }
      return added;
    });
    scale_row<width>(to, squares, weight, eps, y + row * width);
  }
}

}  // namespace
}  // namespace ern::cpu
