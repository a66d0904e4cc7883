// Converts runs of elements between the types of a checkpoint and those of packed weights: widening is exact, narrowing
// rounds to nearest, ties to even, and keeps a NaN a NaN (the same rules as src/weights/half.ts). SSE2 only, which
// every x86-64 has: the packer is built once for all.
#pragma once

#include <emmintrin.h>

#include <cstdint>
#include <cstring>

#include "plan.hpp"

namespace ern::pack {

inline uint16_t round_to_bf16(uint32_t bits) {
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x0040);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// A f16 magnitude moved to where an f32 has its exponent and mantissa is 2^112 too small, subnormals included, so one
// exact multiplication rebiases it.
inline uint32_t widen_f16(uint16_t half) {
  uint32_t bits = (half & 0x7fffu) << 13;
  if (bits >= 0x0f800000) {  // infinity or NaN
    bits |= 0x7f800000;
  } else {
    float value;
    std::memcpy(&value, &bits, 4);
    value *= 0x1p112f;
    std::memcpy(&bits, &value, 4);
  }
  return bits | (half & 0x8000u) << 16;
}

inline void widen_bf16(const uint16_t* from, uint32_t* to, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), _mm_unpacklo_epi16(_mm_setzero_si128(), halves));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i + 4), _mm_unpackhi_epi16(_mm_setzero_si128(), halves));
  }
  for (; i < count; i++) to[i] = static_cast<uint32_t>(from[i]) << 16;
}

// Four f32 to four bf16, each sign-extended to 32 bits.
inline __m128i round_four(__m128i bits) {
  const __m128i odd = _mm_and_si128(_mm_srli_epi32(bits, 16), _mm_set1_epi32(1));
  const __m128i rounded = _mm_add_epi32(_mm_add_epi32(bits, _mm_set1_epi32(0x7fff)), odd);
  const __m128i quieted = _mm_or_si128(bits, _mm_set1_epi32(0x00400000));
  const __m128i nan = _mm_cmpgt_epi32(_mm_and_si128(bits, _mm_set1_epi32(0x7fffffff)), _mm_set1_epi32(0x7f800000));
  return _mm_srai_epi32(_mm_or_si128(_mm_and_si128(nan, quieted), _mm_andnot_si128(nan, rounded)), 16);
}

inline void round_f32(const uint32_t* from, uint16_t* to, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m128i low = round_four(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
    const __m128i high = round_four(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i + 4)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), _mm_packs_epi32(low, high));
  }
  for (; i < count; i++) to[i] = round_to_bf16(from[i]);
}

// `from` and `to` hold `count` elements of different types; `to` is bf16 or f32.
inline void convert(DType from_type, const void* from, DType to_type, void* to, int64_t count) {
  const auto* halves = static_cast<const uint16_t*>(from);
  if (from_type == DType::bf16) {
    widen_bf16(halves, static_cast<uint32_t*>(to), count);
  } else if (from_type == DType::f32) {
    round_f32(static_cast<const uint32_t*>(from), static_cast<uint16_t*>(to), count);
  } else if (to_type == DType::f32) {
    for (int64_t i = 0; i < count; i++) static_cast<uint32_t*>(to)[i] = widen_f16(halves[i]);
  } else {
    for (int64_t i = 0; i < count; i++) static_cast<uint16_t*>(to)[i] = round_to_bf16(widen_f16(halves[i]));
  }
}

}  // namespace ern::pack
