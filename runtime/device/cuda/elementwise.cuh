// Ops that treat every element alike, and plain copies. Widths are multiples of 4, rows aligned to 16 bytes (8 for Bf16).
//
//   add           out = a + b              float [rows, width]; out may be a or b
//   cast          out = x                  In [rows, width] to Out [rows, width], float or Bf16, rounded to nearest even
//   swiglu        out = silu(gate) * up    float [rows, width] each to Out [rows, width]
//   copy_columns  out[r, c] = x[r, c]      T [rows, .] to T [rows, .], c < width, each with its stride: a slice, a part of a split
//   gather_rows   out[i] = x[index[i]]     T [., width] to T [rows, width]; index int32 [rows], in range
//   embedding     out[t] = table[ids[t]]   Bf16 [vocab, width], layout row, widened to float [rows, width]; ids in range: the engine refuses others
//
// Launch: 256 threads; any grid, whose threads take groups of 4 elements in turns (about one group a thread is best).
// f32 inside. Reference ops of the same names (slice, split, copy for copy_columns).
#pragma once

#include "linear_swiglu.cuh"

namespace ern::cuda {

// Four consecutive values as floats, and back.
ERN_DEVICE float4 load4(const float* at) { return load_fresh4(at); }
ERN_DEVICE float4 load4(const Bf16* at) {
  const uint2 v = __ldcg(reinterpret_cast<const uint2*>(at));
  return {low_bf16(v.x), high_bf16(v.x), low_bf16(v.y), high_bf16(v.y)};
}
ERN_DEVICE void store4(float* at, float4 x) { *reinterpret_cast<float4*>(at) = x; }
ERN_DEVICE void store4(Bf16* at, float4 x) { *reinterpret_cast<uint2*>(at) = {pack_bf16(x.x, x.y), pack_bf16(x.z, x.w)}; }

// Calls fn(row, column) for this thread's groups of 4 columns.
template <int width, class Fn>
ERN_DEVICE void for_each_group(int rows, const Fn& fn) {
  static_assert(width % 4 == 0);
  constexpr int groups = width / 4;
  const int64_t all = static_cast<int64_t>(rows) * groups, stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < all; i += stride) {
    fn(i / groups, static_cast<int>(i % groups) * 4);
  }
}

struct Elementwise {
  int width;
  Rows rows = Rows::tokens;
  int times = 1;  // rows a token: those of its chosen experts
};

template <Elementwise problem>
ERN_DEVICE void add(const Step* step, const float* a, const float* b, float* out) {
  start_dependents();
  wait_for_inputs();
  for_each_group<problem.width>(rows_of(step, problem.rows) * problem.times, [&](int64_t row, int column) {
    const int64_t at = row * problem.width + column;
    const float4 x = load4(a + at), y = load4(b + at);
    store4(out + at, {x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w});
  });
}

template <Elementwise problem, class In, class Out>
ERN_DEVICE void cast(const Step* step, const In* x, Out* out) {
  start_dependents();
  wait_for_inputs();
  for_each_group<problem.width>(rows_of(step, problem.rows) * problem.times, [&](int64_t row, int column) {
    const int64_t at = row * problem.width + column;
    store4(out + at, load4(x + at));
  });
}

template <Elementwise problem, class Out>
ERN_DEVICE void swiglu(const Step* step, const float* gate, const float* up, Out* out) {
  start_dependents();
  wait_for_inputs();
  for_each_group<problem.width>(rows_of(step, problem.rows) * problem.times, [&](int64_t row, int column) {
    const int64_t at = row * problem.width + column;
    const float4 g = load4(gate + at), u = load4(up + at);
    store4(out + at, {silu(g.x) * u.x, silu(g.y) * u.y, silu(g.z) * u.z, silu(g.w) * u.w});
  });
}

struct CopyColumns {
  int width;
  int x_stride;  // from row to row
  int out_stride;
  Rows rows = Rows::tokens;
};

// Without start and wait: a split is several of these in one launch.
template <CopyColumns problem, class T>
ERN_DEVICE void copy_columns(int rows, const T* x, T* out) {
  for_each_group<problem.width>(rows, [&](int64_t row, int column) {
    store4(out + row * problem.out_stride + column, load4(x + row * problem.x_stride + column));
  });
}

template <Elementwise problem, class T>
ERN_DEVICE void gather_rows(const Step* step, const T* x, const int32_t* index, T* out) {
  start_dependents();
  wait_for_inputs();
  for_each_group<problem.width>(rows_of(step, problem.rows) * problem.times, [&](int64_t row, int column) {
    store4(out + row * problem.width + column, load4(x + static_cast<int64_t>(index[row]) * problem.width + column));
  });
}

// The first launch of a step: dependents start when it has ended (kernel.cuh).
template <Elementwise problem>
ERN_DEVICE void embedding(const Step* step, const int32_t* ids, const Bf16* table, float* out) {
  wait_for_inputs();
  for_each_group<problem.width>(rows_of(step, problem.rows) * problem.times, [&](int64_t row, int column) {
    store4(out + row * problem.width + column, load4(table + static_cast<int64_t>(__ldcg(ids + row)) * problem.width + column));
  });
}

}  // namespace ern::cuda
