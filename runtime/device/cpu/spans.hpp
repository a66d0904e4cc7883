// How ops that treat every element alike, or every row alike, are split over a team. Plain index ranges; nothing of any
// op.
#pragma once

#include "kernel.hpp"

namespace ern::cpu {
namespace {

// Elements that one thread takes at least, a cache line of bf16 or two of f32: no line of an output has two writers as
// long as rows start on lines.
constexpr int64_t span_grain = 64;

// Calls fn(row, begin, end) for this thread's part of `rows` x `width` elements: contiguous, in pieces that end with a
// row. One row is also split, so that decode uses all threads.
template <class Fn>
ERN_INLINE void for_each_span(int64_t rows, int64_t width, const Team& team, const Fn& fn) {
  const Range mine = share(rows * width, span_grain, team);
  for (int64_t at = mine.begin; at < mine.end;) {
    const int64_t row = at / width, begin = at % width;
    const int64_t end = mine.end - row * width < width ? mine.end - row * width : width;
    fn(row, begin, end);
    at += end - begin;
  }
}

}  // namespace
}  // namespace ern::cpu
