// rms_norm:      y = x * rsqrt(mean(x^2) + eps) * weight, over each row
// add_rms_norm:  sum = x + residual; y = rms_norm(sum). The sum is normed while it is in registers.
//
//   x       float [rows, width]; residual the same; sum: float [rows, width], may be x or residual
//   weight  Bf16 or float [width]
//   y       Out [rows, width], float or Bf16, rounded once at the end
//
// Launch: problem.threads threads; a block a row. A thread holds ceil(width / (4 * threads)) groups of 4 columns; width a multiple of 4.
// f32, in one order whatever the number of rows. Reference ops: rms_norm, add_rms_norm.
#pragma once

#include "elementwise.cuh"

namespace ern::cuda {

struct RmsNorm {
  int width;
  float eps;
  Rows rows = Rows::tokens;
  int threads = 256;
};

// A row that the threads of a block hold as norm_rows does, normed.
template <RmsNorm problem, int groups, class W, class Out>
ERN_DEVICE void norm_held(const float4 (&v)[groups], const W* weight, Out* y) {
  const int first = static_cast<int>(threadIdx.x) * 4, step_columns = problem.threads * 4;
  float squares = 0;
#pragma unroll
  for (int i = 0; i < groups; ++i) squares += v[i].x * v[i].x + v[i].y * v[i].y + v[i].z * v[i].z + v[i].w * v[i].w;
  const float r = rsqrtf(block_sum<problem.threads / warp_size>(squares) / problem.width + problem.eps);
#pragma unroll
  for (int i = 0; i < groups; ++i) {
    const int column = first + i * step_columns;
    if (column >= problem.width) continue;
    const float4 w = load4(weight + column);
    store4(y + column, {v[i].x * r * w.x, v[i].y * r * w.y, v[i].z * r * w.z, v[i].w * r * w.w});
  }
}

template <RmsNorm problem, bool add, class W, class Out>
ERN_DEVICE void norm_rows(const Step* step, const float* x, const float* residual, const W* weight, float* sum, Out* y) {
  constexpr int width = problem.width, step_columns = problem.threads * 4, groups = static_cast<int>(ceil_div(width, step_columns));
  static_assert(width % 4 == 0);
  start_dependents();
  wait_for_inputs();
  const int64_t row = blockIdx.x;
  if (row >= rows_of(step, problem.rows)) return;
  const int first = static_cast<int>(threadIdx.x) * 4;
  float4 v[groups];
#pragma unroll
  for (int i = 0; i < groups; ++i) {
    const int column = first + i * step_columns;
    v[i] = {0, 0, 0, 0};
    if (column >= width) continue;
    const int64_t at = row * width + column;
    v[i] = load4(x + at);
    if constexpr (add) {
      const float4 r = load4(residual + at);
      v[i] = {v[i].x + r.x, v[i].y + r.y, v[i].z + r.z, v[i].w + r.w};
      store4(sum + at, v[i]);
    }
  }
  norm_held<problem>(v, weight, y + row * width);
}

template <RmsNorm problem, class W, class Out>
ERN_DEVICE void rms_norm(const Step* step, const float* x, const W* weight, Out* y) {
  norm_rows<problem, false>(step, x, nullptr, weight, nullptr, y);
}

template <RmsNorm problem, class W, class Out>
ERN_DEVICE void add_rms_norm(const Step* step, const float* x, const float* residual, const W* weight, float* sum, Out* y) {
  norm_rows<problem, true>(step, x, residual, weight, sum, y);
}

}  // namespace ern::cuda
