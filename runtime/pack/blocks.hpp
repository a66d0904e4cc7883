// Moves blocks of elements from a checkpoint's order into a layout's, in memory. The formulas of the layouts are in
// runtime/device/layout; the loops here are their fast forms, and the packer's tests hold them to the formulas through
// `--unpack`, which uses those directly. SSE2 only, as in convert.hpp.
//
// Names: a block is `rows` x `ks` elements. `from` is row-major with `stride` elements between its rows: [rows][ks] as
// a PT checkpoint stores it, or [ks][rows] transposed, as Paddle does. `T` is uint16_t for bf16, uint32_t for f32; the
// bits are moved, never read as numbers.
#pragma once

#include <emmintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace ern::pack {

inline void load_four(const void* from, __m128i& out) { out = _mm_loadu_si128(static_cast<const __m128i*>(from)); }
inline void store_four(void* to, __m128i value) { _mm_storeu_si128(static_cast<__m128i*>(to), value); }

// What a panel keeps together is a pair: k and k+1 of one row, 4 bytes of bf16 or 8 of f32. Here 4 rows x 4 pairs of
// bf16: `to` advances by `width` pairs per pair of k.
inline void transpose_pairs(const uint16_t* from, int64_t stride, uint16_t* to, int64_t width) {
  __m128i a, b, c, d;
  load_four(from, a), load_four(from + stride, b), load_four(from + 2 * stride, c), load_four(from + 3 * stride, d);
  const __m128i ab_low = _mm_unpacklo_epi32(a, b), ab_high = _mm_unpackhi_epi32(a, b);
  const __m128i cd_low = _mm_unpacklo_epi32(c, d), cd_high = _mm_unpackhi_epi32(c, d);
  store_four(to, _mm_unpacklo_epi64(ab_low, cd_low));
  store_four(to + 2 * width, _mm_unpackhi_epi64(ab_low, cd_low));
  store_four(to + 4 * width, _mm_unpacklo_epi64(ab_high, cd_high));
  store_four(to + 6 * width, _mm_unpackhi_epi64(ab_high, cd_high));
}

// The same of f32, in four steps of 2 rows x 2 pairs.
inline void transpose_pairs(const uint32_t* from, int64_t stride, uint32_t* to, int64_t width) {
  for (int64_t row = 0; row < 4; row += 2) {
    for (int64_t pair = 0; pair < 4; pair += 2) {
      __m128i a, b;
      load_four(from + row * stride + 2 * pair, a), load_four(from + (row + 1) * stride + 2 * pair, b);
      store_four(to + 2 * (pair * width + row), _mm_unpacklo_epi64(a, b));
      store_four(to + 2 * ((pair + 1) * width + row), _mm_unpackhi_epi64(a, b));
    }
  }
}

// from [rows][ks] into a panel of `width` rows at its row 0 of `to`: to[(k/2) * 2*width + row*2 + k%2]. Of an odd last
// k only the first half is written.
template <class T>
void rows_to_panel(const T* from, int64_t stride, int64_t rows, int64_t ks, T* to, int64_t width) {
  const int64_t whole_rows = rows / 4 * 4;
  const int64_t whole_ks = ks / 8 * 8;
  // Four rows x one cache line of each at a time: the lines of `to` that this touches (16 pairs of k) stay in the
  // first-level cache until all rows have passed, whatever the stride of `from` is.
  constexpr int64_t line = 64 / static_cast<int64_t>(sizeof(T));
  for (int64_t line_start = 0; line_start < whole_ks; line_start += line) {
    const int64_t line_end = std::min(line_start + line, whole_ks);
    for (int64_t row = 0; row < whole_rows; row += 4) {
      for (int64_t k = line_start; k < line_end; k += 8)
        transpose_pairs(from + row * stride + k, stride, to + k * width + row * 2, width);
    }
  }
  for (int64_t row = 0; row < rows; row++) {
    for (int64_t k = row < whole_rows ? whole_ks : 0; k < ks; k++)
      to[k / 2 * 2 * width + row * 2 + k % 2] = from[row * stride + k];
  }
}

inline void zip(const uint16_t* even, const uint16_t* odd, uint16_t* to) {
  __m128i a, b;
  load_four(even, a), load_four(odd, b);
  store_four(to, _mm_unpacklo_epi16(a, b)), store_four(to + 8, _mm_unpackhi_epi16(a, b));
}
inline void zip(const uint32_t* even, const uint32_t* odd, uint32_t* to) {
  for (int i = 0; i < 8; i += 4) {
    __m128i a, b;
    load_four(even + i, a), load_four(odd + i, b);
    store_four(to + 2 * i, _mm_unpacklo_epi32(a, b)), store_four(to + 2 * i + 4, _mm_unpackhi_epi32(a, b));
  }
}

// from [ks][rows] into a panel, as above.
template <class T>
void columns_to_panel(const T* from, int64_t stride, int64_t rows, int64_t ks, T* to, int64_t width) {
  for (int64_t k = 0; k + 1 < ks; k += 2) {
    const T* even = from + k * stride;
    T* out = to + k * width;
    int64_t row = 0;
    for (; row + 8 <= rows; row += 8) zip(even + row, even + stride + row, out + 2 * row);
    for (; row < rows; row++) out[2 * row] = even[row], out[2 * row + 1] = even[stride + row];
  }
  if (ks % 2 == 0) return;
  for (int64_t row = 0; row < rows; row++) to[(ks - 1) * width + 2 * row] = from[(ks - 1) * stride + row];
}

// from [rows][ks] to rows of `to_stride`.
template <class T>
void rows_to_rows(const T* from, int64_t stride, int64_t rows, int64_t ks, T* to, int64_t to_stride) {
  for (int64_t row = 0; row < rows; row++)
    std::memcpy(to + row * to_stride, from + row * stride, static_cast<size_t>(ks) * sizeof(T));
}

// from [ks][rows] to rows of `to_stride`, in tiles that fit the first-level cache.
template <class T>
void columns_to_rows(const T* from, int64_t stride, int64_t rows, int64_t ks, T* to, int64_t to_stride) {
  constexpr int64_t tile = 32;
  for (int64_t row_start = 0; row_start < rows; row_start += tile) {
    for (int64_t k_start = 0; k_start < ks; k_start += tile) {
      const int64_t row_end = std::min(row_start + tile, rows), k_end = std::min(k_start + tile, ks);
      for (int64_t row = row_start; row < row_end; row++) {
        for (int64_t k = k_start; k < k_end; k++) to[row * to_stride + k] = from[k * stride + row];
      }
    }
  }
}

}  // namespace ern::pack
