// op         embedding: out[t] = table[ids[t]], widened to f32; no fusion
// ids        int32 [rows], each in [0, vocab): the engine refuses others before a step, nothing is checked here
// table      W [vocab, width], float or Bf16, layout row (embedding_rows) or panel64 (embedding_panels: a tied head
//            reads the same bytes). In panel64 a row is a walk with a constant stride, a cache line a pair of columns.
// out        float [rows, width], the residual stream
// work       spans of columns, also within one row
// reference  src/reference embedding; exact
#pragma once

#include "../layout/panel.hpp"
#include "../layout/row.hpp"
#include "simd.hpp"
#include "spans.hpp"

namespace ern::cpu {
namespace {

struct Embedding {
  int64_t vocab;
  int64_t width;
};

template <Embedding problem, class W>
void embedding_rows(int rows, const int32_t* ids, const W* table, float* out, Team& team) {
  constexpr layout::Row place{problem.vocab, problem.width};
  for_each_span(rows, problem.width, team, [&](int64_t row, int64_t begin, int64_t end) {
    const W* from = table + place.offset(ids[row], 0);
    float* to = out + row * problem.width;
    for (; begin + lanes <= end; begin += lanes) store(to + begin, load(from + begin));
    const int left = static_cast<int>(end - begin);
    if (left > 0) store_first(to + begin, load_first(from + begin, left), left);
  });
}

template <Embedding problem, class W>
void embedding_panels(int rows, const int32_t* ids, const W* table, float* out, Team& team) {
  constexpr layout::Panel64 place{problem.vocab, problem.width};
  for_each_span(rows, problem.width, team, [&](int64_t row, int64_t begin, int64_t end) {
    const W* from = table + place.offset(ids[row], 0);
    const int64_t stride = place.pair_stride(ids[row]);
    float* to = out + row * problem.width;
    for (int64_t col = begin; col < end; ++col) to[col] = to_f32(from[col / 2 * stride + col % 2]);
  });
}

}  // namespace
}  // namespace ern::cpu
