// moe_ffn: out[t] = sum over the experts e that t chose of weight[t, e] * ((silu(x . gate_e^T) * (x . up_e^T)) . down_e^T), + addend[t].
//
//   x          X [tokens, hidden]            row-major; Bf16, or float with activations in f32
//   indices    i32 [tokens, chosen]          in [0, experts), different within a token
//   weights    f32 [tokens, chosen]
//   gate_up    W [experts, 2*m, hidden]      each expert in panel64 of rows interleaved in turns of problem.group, one after the other
//   down       W [experts, hidden, m]        each expert in panel64, one after the other
//   addend     f32 [tokens, hidden]          if problem.addend (the shared expert's output), else not read; not out
//   out        f32 [tokens, hidden]
//   workspace  moe_ffn_workspace<problem, X>(tokens) bytes, aligned to 64
//
// Work, three phases with a barrier between: thread 0 sorts choices by expert; threads take pieces (expert in use, panel of gate_up) by
// ticket and leave silu(gate) * up, rounded to X, in the workspace; threads take columns of out by ticket and pass over all experts in use.
// Weights of experts that nobody chose are not read, those of the others once. Tickets keep threads busy when experts differ in tokens;
// no value depends on who takes what.
// Sums in f32 by ascending k (matmul.hpp); a token's experts are added in f32 by ascending id, starting from 0, then addend.
// Reference ops: expert_linear x 3, swiglu, moe_combine, add (fused: moe_ffn).
#pragma once

#include "linear_swiglu.hpp"
#include "moe_buckets.hpp"

namespace ern::cpu {
namespace {

struct MoeFfn {
  int hidden;
  int m;  // width of an expert
  int experts;
  int chosen;  // experts of a token
  int group;
  bool addend = false;
  int max_rows = 1 << 20;  // the most tokens that a call brings
  Tiling tiling = {};
};

// Where the activations begin in the workspace.
template <MoeFfn problem>
constexpr int64_t moe_ffn_activations(int64_t tokens) {
  return (MoeBuckets<problem.experts>::bytes(tokens * problem.chosen) + 63) / 64 * 64;
}
template <MoeFfn problem, class X>
constexpr int64_t moe_ffn_workspace(int64_t tokens) {
  return moe_ffn_activations<problem>(tokens) + tokens * problem.chosen * problem.m * static_cast<int64_t>(sizeof(X));
}

template <MoeFfn problem, class X, class W>
void moe_ffn(int tokens, const X* x, const int32_t* indices, const float* weights, const W* gate_up, const W* down, const float* addend,
             float* out, void* workspace, Team& team) {
  static_assert(problem.m % problem.group == 0);
  constexpr int hidden = problem.hidden, m = problem.m;
  constexpr layout::Panel64 up_place{2 * m, hidden}, down_place{hidden, m};
  MoeBuckets<problem.experts> buckets(workspace, static_cast<int64_t>(tokens) * problem.chosen);
  X* const activations = reinterpret_cast<X*>(static_cast<char*>(workspace) + moe_ffn_activations<problem>(tokens));

  if (team.rank == 0) buckets.fill(tokens, problem.chosen, indices, weights);
  team.barrier();

  constexpr int up_panels = static_cast<int>(up_place.panels());
  for (int piece = team.take(); piece < buckets.used() * up_panels; piece = team.take()) {
    const int expert = buckets.expert(piece / up_panels), panel = piece % up_panels;
    const int first = buckets.first(expert), width = static_cast<int>(up_place.width(panel));
    const PickedRows<X> rows{x, hidden, buckets.token + first};
    panel_matmul<problem.tiling, hidden, problem.max_rows, X>(
        rows, buckets.count(expert), gate_up + expert * up_place.elements() + up_place.start(panel), width, 0, width,
        [&](int row, const float* sums) {
          X* to = activations + static_cast<int64_t>(first + row) * m + panel * (panel_cols / 2);
          swiglu_panel<problem.group>(sums, width, nullptr, to);
        });
  }
  team.barrier();

  // Whole panels read best, but all threads must get about as much.
  constexpr int columns = static_cast<int>(down_place.padded_rows());
  const int grain = columns >= 8 * panel_cols * team.size ? panel_cols : columns >= 4 * panel_cols * team.size ? 32 : strip_cols;
  for (int64_t col = int64_t{team.take()} * grain; col < columns; col = int64_t{team.take()} * grain) {
    const int64_t panel = col / panel_cols, base = panel * panel_cols;
    const int width = static_cast<int>(down_place.width(panel)), from = static_cast<int>(col - base);
    const int to = from + grain < width ? from + grain : width;
    const int stop = hidden - base < to ? static_cast<int>(hidden - base) : to;  // the rest is padding
    for (int64_t t = 0; t < tokens; ++t) {
      for (int c = from; c < stop; ++c) out[t * hidden + base + c] = 0;
    }
    for (int i = 0; i < buckets.used(); ++i) {
      const int expert = buckets.expert(i), first = buckets.first(expert);
      const W* next = i + 1 < buckets.used() ? down + buckets.expert(i + 1) * down_place.elements() + down_place.start(panel) : nullptr;
      const DenseRows<X> rows{activations + static_cast<int64_t>(first) * m, m};
      panel_matmul<problem.tiling, m, problem.max_rows, X>(
          rows, buckets.count(expert), down + expert * down_place.elements() + down_place.start(panel), width, from, to,
          [&](int row, const float* sums) {
            float* to_row = out + static_cast<int64_t>(buckets.token[first + row]) * hidden + base;
            const F32 weight = splat(buckets.weight[first + row]);
            for (int c = from; c < stop; c += lanes) {
              if (stop - c >= lanes) {
                store(to_row + c, fma(load(sums + c), weight, load(to_row + c)));
              } else {
                store_first(to_row + c, fma(load(sums + c), weight, load_first(to_row + c, stop - c)), stop - c);
              }
            }
          },
          next);
    }
    if constexpr (problem.addend) {
      for (int64_t t = 0; t < tokens; ++t) {
        for (int c = from; c < stop; ++c) out[t * hidden + base + c] += addend[t * hidden + base + c];
      }
    }
  }
}

}  // namespace
}  // namespace ern::cpu
