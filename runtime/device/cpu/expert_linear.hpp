// expert_linear: y[t*choices + j] = x_row . W[indices[t, j]]^T, each row through the matrix of its chosen expert.
//
//   x        X [tokens, k], or [tokens*choices, k] if problem.row_a_choice; row-major; Bf16, or float with activations in f32
//   indices  i32 [tokens, choices]   in [0, experts)
//   weight   W [experts, n, k]       each expert in panel64, one after the other; Bf16 or float
//   y        Y [tokens*choices, n]   row-major; float, or Bf16 rounded to nearest even
//
// Work: each thread takes a contiguous run of columns, in whole panels, of every expert; experts that nobody chose are not read. The rows of
// an expert are found by looking through all choices, a block at a time. No workspace, no barrier inside. Sums in f32 by ascending k.
// What moe_ffn does in one launch, this and its neighbours do in five: it is for packages that leave fuse-moe out. Reference op: expert_linear.
#pragma once

#include "linear.hpp"

namespace ern::cpu {
namespace {

struct ExpertLinear {
  int n;
  int k;
  int experts;
  int choices;  // of a token
  bool row_a_choice = false;  // x has a row for each choice, not for each token
  Tiling tiling = {};
};

// Rows of x by way of the choices that read them.
template <class X>
struct ChosenRows {
  const X* base;
  int64_t stride;
  const int32_t* picked;  // choices
  int choices_a_row;      // of x
  ERN_INLINE const X* operator()(int i) const { return base + picked[i] / choices_a_row * stride; }
};

template <ExpertLinear problem, class X, class W, class Y>
void expert_linear(int tokens, const X* x, const int32_t* indices, const W* weight, Y* y, Team& team) {
  constexpr layout::Panel64 place{problem.n, problem.k};
  constexpr int block = problem.tiling.row_block;
  const int total = tokens * problem.choices;
  const Range panels = share(place.panels(), team);
  if (panels.begin == panels.end) return;
  int32_t picked[block];
  for (int expert = 0; expert < problem.experts; ++expert) {
    const W* matrix = weight + expert * place.elements();
    for (int choice = 0; choice < total;) {
      int count = 0;
      for (; choice < total && count < block; ++choice) {
        if (indices[choice] == expert) picked[count++] = choice;
      }
      if (count == 0) continue;
      const ChosenRows<X> rows{x, problem.k, picked, problem.row_a_choice ? 1 : problem.choices};
      for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
        const int width = static_cast<int>(place.width(panel));
        const int64_t base = panel * panel_cols;
        panel_matmul<problem.tiling, problem.k, block, X>(
            rows, count, matrix + place.start(panel), width, 0, width, [&](int row, const float* sums) {
              Y* out = y + static_cast<int64_t>(picked[row]) * problem.n + base;
              for (int c = 0; c < width && base + c < problem.n; c += lanes) {
                const int left = static_cast<int>(problem.n - base - c);
                if (left >= lanes) store(out + c, load(sums + c));
                else store_first(out + c, load(sums + c), left);
              }
            });
      }
    }
  }
}

}  // namespace
}  // namespace ern::cpu
