// head_argmax: logits = x . W^T (+ bias), ids = argmax of each row, taken while the logits are in registers.
//
//   x          X [rows, k]      row-major; Bf16, or float with activations in f32
//   weight     W [n, k]         panel64 (the head, or the tied embedding)
//   bias       f32 [n]          if problem.bias, else not read
//   logits     f32 [rows, n]
//   ids        i32 [rows]       the lowest id of the largest logit; a NaN never wins; 0 if nothing is above -inf
//   workspace  head_argmax_workspace(rows) bytes, aligned to 4
//
// Work: each thread takes a contiguous run of whole panels and keeps the best of it for each row; after one barrier thread 0 picks among
// those, lowest ids first. Padding columns of the last panel are never looked at. Sums in f32 by ascending k.
// Reference ops: linear, argmax (fused: head_argmax).
#pragma once

#include "linear_swiglu.hpp"

namespace ern::cpu {
namespace {

struct HeadArgmax {
  int n;
  int k;
  bool bias = false;
  int max_rows = 1 << 20;
  Tiling tiling = {};
};

struct Best {
  float value;
  int32_t id;
};

constexpr int64_t head_argmax_workspace(int64_t rows) { return rows * max_team * static_cast<int64_t>(sizeof(Best)); }

template <HeadArgmax problem, class X, class W>
void head_argmax(int rows, const X* x, const W* weight, const float* bias, float* logits, int32_t* ids, void* workspace, Team& team) {
  constexpr layout::Panel64 place{problem.n, problem.k};
  // A slot of all rows for each thread; rows of one thread are neighbours, so threads do not write to one line.
  Best* const all = static_cast<Best*>(workspace);
  Best* const mine = all + static_cast<int64_t>(team.rank) * rows;
  for (int row = 0; row < rows; ++row) mine[row] = {-__builtin_inff(), 0};

  const DenseRows<X> input{x, problem.k};
  const Range cols = share(place.padded_rows(), panel_cols, team);
  for (int64_t base = cols.begin; base < cols.end; base += panel_cols) {
    const int width = static_cast<int>(place.width(base / panel_cols));
    const int real = problem.n - base < width ? static_cast<int>(problem.n - base) : width;
    panel_matmul<problem.tiling, problem.k, problem.max_rows, X>(
        input, rows, weight + place.start(base / panel_cols), width, 0, width, [&](int row, const float* sums) {
          float* out = logits + static_cast<int64_t>(row) * problem.n + base;
          const F32 nothing = splat(-__builtin_inff());
          F32 top = nothing;
          for (int c = 0; c < real; c += lanes) {
            F32 value = load(sums + c);
            if (real - c >= lanes) {
              if constexpr (problem.bias) value = value + load(bias + base + c);
              store(out + c, value);
              top = max(value, top);  // a NaN on the left is dropped
            } else {
              if constexpr (problem.bias) value = value + load_first(bias + base + c, real - c);
              store_first(out + c, value, real - c);
            }
          }
          float best = max_of(top);
          for (int c = real / lanes * lanes; c < real; ++c) best = out[c] > best ? out[c] : best;
          if (best > mine[row].value) {  // rare after the first panels
            int c = 0;
            while (!(out[c] == best)) ++c;
            mine[row] = {best, static_cast<int32_t>(base + c)};
          }
        });
  }

  team.barrier();
  if (team.rank != 0) return;
  for (int row = 0; row < rows; ++row) {
    Best best{-__builtin_inff(), 0};
    for (int thread = 0; thread < team.size; ++thread) {  // columns ascend with the rank
      const Best other = all[static_cast<int64_t>(thread) * rows + row];
      if (other.value > best.value) best = other;
    }
    ids[row] = best.id;
  }
}

}  // namespace
}  // namespace ern::cpu
