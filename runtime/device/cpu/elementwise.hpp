// Ops that treat every element alike, and plain copies. Rows are tokens or sequences, as the caller says; all of them
// are split in spans of columns, also within one row, and any number of threads gives the same bits.
//
//   add           out = a + b              float [elements]; out may be a or b
//   cast          out = x                  In [elements] to Out [elements], float or Bf16, rounded to nearest even
//   swiglu        out = silu(gate) * up    float [rows, .] to Out [rows, width]; gate and up apart or interleaved
//   copy_columns  out[r, c] = x[r, c]      T [rows, .] to T [rows, .], c < width, each with its stride. A slice, one
//                                          part of a split or of a concatenation, by where the pointers point.
//   gather_rows   out[i] = x[index[i]]     T [., width] to T [rows, width]; index int32 [rows], in range
//
// accumulate f32; reference src/reference, the ops of the same names (slice, split and concat for copy_columns).
#pragma once

#include <cstring>

#include "simd.hpp"
#include "spans.hpp"

namespace ern::cpu {
namespace {

// Calls fn(i, n) for vectors from begin to end: n is `lanes`, or what is left at the end.
template <class Fn>
ERN_INLINE void for_each_vector(int64_t begin, int64_t end, const Fn& fn) {
  for (; begin + lanes <= end; begin += lanes) fn(begin, lanes);
  if (begin < end) fn(begin, static_cast<int>(end - begin));
}

template <class T>
ERN_INLINE F32 load_some(const T* from, int n) {
  return n == lanes ? load(from) : load_first(from, n);
}
template <class T>
ERN_INLINE void store_some(T* to, F32 value, int n) {
  if (n == lanes) {
    store(to, value);
  } else {
    store_first(to, value, n);
  }
}

inline void add(int64_t elements, const float* a, const float* b, float* out, Team& team) {
  const Range mine = share(elements, span_grain, team);
  for_each_vector(mine.begin, mine.end,
                  [&](int64_t i, int n) { store_some(out + i, load_some(a + i, n) + load_some(b + i, n), n); });
}

template <class In, class Out>
void cast(int64_t elements, const In* x, Out* out, Team& team) {
  const Range mine = share(elements, span_grain, team);
  for_each_vector(mine.begin, mine.end, [&](int64_t i, int n) { store_some(out + i, load_some(x + i, n), n); });
}

struct Swiglu {
  int64_t width;
  int64_t gate_stride;  // from row to row
  int64_t up_stride;
  int64_t group = 0;  // layout/interleave.hpp: so many columns of one, then of the other; 0: each lies together
};

template <Swiglu problem, class Out>
void swiglu(int rows, const float* gate, const float* up, Out* out, Team& team) {
  for_each_span(rows, problem.width, team, [&](int64_t row, int64_t begin, int64_t end) {
    const float* g = gate + row * problem.gate_stride;
    const float* u = up + row * problem.up_stride;
    Out* to = out + row * problem.width;
    // Columns that lie together, the first of them at `place`.
    const auto piece = [&](int64_t from, int64_t until, int64_t place) {
      for_each_vector(from, until, [&](int64_t i, int n) {
        const int64_t at = place + i - from;
        store_some(to + i, silu(load_some(g + at, n)) * load_some(u + at, n), n);
      });
    };
    if constexpr (problem.group == 0) {
      piece(begin, end, begin);
    } else {
      while (begin < end) {
        const int64_t group_end = (begin / problem.group + 1) * problem.group,
                      until = group_end < end ? group_end : end;
        piece(begin, until, begin + begin / problem.group * problem.group);
        begin = until;
      }
    }
  });
}

struct CopyColumns {
  int64_t width;
  int64_t x_stride;  // from row to row
  int64_t out_stride;
};

template <CopyColumns problem, class T>
void copy_columns(int rows, const T* x, T* out, Team& team) {
  for_each_span(rows, problem.width, team, [&](int64_t row, int64_t begin, int64_t end) {
    std::memcpy(out + row * problem.out_stride + begin, x + row * problem.x_stride + begin, (end - begin) * sizeof(T));
  });
}

template <int64_t width, class T>
void gather_rows(int rows, const T* x, const int32_t* index, T* out, Team& team) {
  for_each_span(rows, width, team, [&](int64_t row, int64_t begin, int64_t end) {
    std::memcpy(out + row * width + begin, x + index[row] * width + begin, (end - begin) * sizeof(T));
  });
}

}  // namespace
}  // namespace ern::cpu
