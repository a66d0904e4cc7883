// linear: y = x . W^T (+ bias) (+ residual).
//
//   x         X [rows, k]     row-major; Bf16, or float with activations in f32
//   weight    W [n, k]        panel64; Bf16 or float
//   bias      f32 [n]         if problem.bias, else not read
//   residual  f32 [rows, n]   if problem.residual, else not read; may be y
//   y         Y [rows, n]     row-major; float, or Bf16 rounded to nearest even
//
// Work: each thread takes a contiguous run of columns of W, in multiples of 16 or 32, so it reads one stream; with more threads than panels
// and rows enough they also share out the rows. No workspace, no barrier inside.
// Sums in f32 by ascending k (matmul.hpp); then + bias, then + residual. Reference op: linear (and add).
#pragma once

#include "matmul.hpp"

namespace ern::cpu {
namespace {

struct Linear {
  int n;
  int k;
  bool bias = false;
  bool residual = false;
  int max_rows = 1 << 20;  // the most rows that a call brings: fewer tiles to compile
  Tiling tiling = {};
};

// A thread's part of a product: rows and columns.
struct Part {
  Range rows;
  Range cols;
};

// Columns are cut first, in multiples of `grain`: each byte of W is then read by one thread. Rows are cut too if threads outnumber panels.
inline Part split_product(int rows, int padded_n, int grain, int tile_rows, const Team& team) {
  const int panels = (padded_n + panel_cols - 1) / panel_cols;
  int groups = (team.size + panels - 1) / panels;
  if (groups > rows / (4 * tile_rows)) groups = rows / (4 * tile_rows) > 0 ? rows / (4 * tile_rows) : 1;
  const int columns = team.size / groups;  // threads along the columns; a remainder stays idle
  if (team.rank >= groups * columns) return {{0, 0}, {0, 0}};
  return {share(rows, Team{team.rank % groups, groups, nullptr}),
          share(padded_n, grain, Team{team.rank / groups, columns, nullptr})};
}

template <Linear problem, class X, class W, class Y>
void linear(int rows, const X* x, const W* weight, const float* bias, const float* residual, Y* y, Team& team) {
  constexpr layout::Panel64 place{problem.n, problem.k};
  constexpr int padded_n = static_cast<int>(place.padded_rows());
  // 32 columns keep a tile of 6 rows at full rate, 16 do not, but may be all that there is to share out.
  const int grain = padded_n >= 4 * strip_cols * team.size ? 2 * strip_cols : strip_cols;
  const Part part = split_product(rows, padded_n, grain, tile_height<X>(problem.tiling), team);
  const DenseRows<X> input{x + part.rows.begin * problem.k, problem.k};
  const int count = static_cast<int>(part.rows.end - part.rows.begin);
  for (int64_t col = part.cols.begin; col < part.cols.end;) {
    const int64_t panel = col / panel_cols, base = panel * panel_cols;
    const int64_t stop = base + panel_cols < part.cols.end ? base + panel_cols : part.cols.end;
    const int from = static_cast<int>(col - base), to = static_cast<int>(stop - base);
    panel_matmul<problem.tiling, problem.k, problem.max_rows, X>(
        input, count, weight + place.start(panel), static_cast<int>(place.width(panel)), from, to,
        [&](int row, const float* sums) {
          const int64_t at = (part.rows.begin + row) * problem.n + base;
          for (int c = from; c < to && base + c < problem.n; c += lanes) {
            const int left = static_cast<int>(problem.n - base - c);
            F32 value = load(sums + c);
            if (left >= lanes) {
              if constexpr (problem.bias) value = value + load(bias + base + c);
              if constexpr (problem.residual) value = value + load(residual + at + c);
              store(y + at + c, value);
            } else {
              if constexpr (problem.bias) value = value + load_first(bias + base + c, left);
              if constexpr (problem.residual) value = value + load_first(residual + at + c, left);
              store_first(y + at + c, value, left);
            }
          }
        });
    col = stop;
  }
}

}  // namespace
}  // namespace ern::cpu
