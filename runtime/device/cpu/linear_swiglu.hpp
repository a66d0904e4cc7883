// linear_swiglu: y = silu(x . gate^T + bias) * (x . up^T + bias), gate and up in one weight.
//
//   x       X [rows, k]       row-major; Bf16, or float with activations in f32
//   weight  W [2*m, k]        panel64 of rows interleaved in turns of problem.group: 32, 16 or 8 (layout/interleave.hpp)
//   bias    f32 [2*m]         interleaved like the rows; if problem.bias, else not read
//   y       Y [rows, m]       row-major; float, or Bf16 rounded to nearest even
//
// Work: each thread takes a contiguous run of whole panels, since a panel holds gate and up of the same outputs; beyond one thread a panel,
// threads share out the rows. No workspace, no barrier inside. Sums in f32 by ascending k (matmul.hpp), silu in f32 on complete sums.
// Reference ops: linear x 2, swiglu (fused: linear_swiglu).
#pragma once

#include "linear.hpp"

namespace ern::cpu {
namespace {

struct LinearSwiglu {
  int m;  // outputs: half the rows of the weight
  int k;
  int group;
  bool bias = false;
  int max_rows = 1 << 20;
  Tiling tiling = {};
};

// silu(gate) * up of one row's sums in a panel of `width` columns, to out[0 .. width/2). `bias` is the panel's part, or null.
template <int Group, class Y>
ERN_INLINE void swiglu_panel(const float* sums, int width, const float* bias, Y* out) {
  static_assert(Group == 8 || Group == 16 || Group == 32);
  constexpr int step = Group < lanes ? Group : lanes;
  for (int c = 0; c < width / 2; c += step) {
    const int gate = c / Group * (2 * Group) + c % Group, up = gate + Group;
    if constexpr (step == lanes) {
      F32 g = load(sums + gate), u = load(sums + up);
      if (bias) g = g + load(bias + gate), u = u + load(bias + up);
      store(out + c, silu(g) * u);
    } else {
      F32 g = load_first(sums + gate, step), u = load_first(sums + up, step);
      if (bias) g = g + load_first(bias + gate, step), u = u + load_first(bias + up, step);
      store_first(out + c, silu(g) * u, step);
    }
  }
}

template <LinearSwiglu problem, class X, class W, class Y>
void linear_swiglu(int rows, const X* x, const W* weight, const float* bias, Y* y, Team& team) {
  static_assert(problem.m % problem.group == 0);
  constexpr layout::Panel64 place{2 * problem.m, problem.k};
  static_assert(place.padded_rows() == 2 * problem.m, "gate and up in turns of 8 or more fill strips of 16");
  const Part part = split_product(rows, 2 * problem.m, panel_cols, tile_height<X>(problem.tiling), team);
  const DenseRows<X> input{x + part.rows.begin * problem.k, problem.k};
  const int count = static_cast<int>(part.rows.end - part.rows.begin);
  for (int64_t base = part.cols.begin; base < part.cols.end; base += panel_cols) {
    const int width = static_cast<int>(place.width(base / panel_cols));
    panel_matmul<problem.tiling, problem.k, problem.max_rows, X>(
        input, count, weight + place.start(base / panel_cols), width, 0, width, [&](int row, const float* sums) {
          Y* out = y + (part.rows.begin + row) * problem.m + base / 2;
          swiglu_panel<problem.group>(sums, width, problem.bias ? bias + base : nullptr, out);
        });
  }
}

}  // namespace
}  // namespace ern::cpu
