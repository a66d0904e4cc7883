// The vector layer that kernels are written in: one register of f32 (`F32`, `lanes` wide), one of weight pairs (`Pairs`), and the few functions
// on them. Which instruction set stands behind it follows from the compiler's predefined macros, that is from the -march flags of the
// arch level; without AVX2 it is plain loops, which is what sanitizer builds and other machines get. Only register-sized things live here:
// no loop over a tensor, no threads.
//
// Every function does the same arithmetic in each lane whatever the others hold, so a tail handled by load_first gives the bits that a
// full vector would have given. Results of different arch levels may differ in the last bits.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernel.hpp"

namespace ern::cpu {
namespace {

// Storage of a bfloat16: the upper half of an f32.
struct Bf16 {
  uint16_t bits;
};

inline float to_f32(Bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}
inline float to_f32(float x) { return x; }

// To nearest, ties to even; a NaN stays one. Kept apart from the vector form, which may flush denormals.
inline Bf16 to_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7fffffff) > 0x7f800000) return {static_cast<uint16_t>((bits >> 16) | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

template <class T>
inline T from_f32(float x);
template <>
inline float from_f32<float>(float x) {
  return x;
}
template <>
inline Bf16 from_f32<Bf16>(float x) {
  return to_bf16(x);
}

}  // namespace
}  // namespace ern::cpu

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#include "simd/avx512.hpp"
#elif defined(__AVX2__) && defined(__FMA__)
#include "simd/avx2.hpp"
#else
#include "simd/scalar.hpp"
#endif

namespace ern::cpu {
namespace {

// acc + w.even * x.even, then + w.odd * x.odd. One instruction where the CPU has it (its rounding is its own), else two fma.
ERN_INLINE F32 dot_pairs(F32 acc, Pairs w, Pairs x) {
  if constexpr (native_dot) return dot_native(acc, w, x);
  return fma(odd(w), odd(x), fma(even(w), even(x), acc));
}

// Two registers of f32 in which weights of one pair of columns lie as they do in a panel of f32.
struct PairsF32 {
  F32 even_part;
  F32 odd_part;
};
ERN_INLINE PairsF32 load_pairs(const float* p) {
  PairsF32 out;
  unzip(load(p), load(p + lanes), out.even_part, out.odd_part);
  return out;
}
ERN_INLINE F32 even(const PairsF32& w) { return w.even_part; }
ERN_INLINE F32 odd(const PairsF32& w) { return w.odd_part; }

// e^x to 2 ulp. 0 below -87.3 (no denormals come out), inf above 88.7, NaN for NaN.
ERN_INLINE F32 exp(F32 x) {
  // x = n ln2 + r with |r| <= ln2 / 2. ln2 is split so that n * high is exact. The series to r^7 is off by r^8/8! < 6e-9.
  const F32 low = splat(-87.33654f), high = splat(88.72283f);
  const F32 clamped = min(high, max(low, x));  // a NaN passes both: see max
  const F32 n = round(clamped * splat(1.44269504f));
  const F32 r = fma(n, splat(-1.42860677e-06f), fma(n, splat(-0.693145752f), clamped));
  F32 series = splat(1.0f / 5040);
  series = fma(series, r, splat(1.0f / 720));
  series = fma(series, r, splat(1.0f / 120));
  series = fma(series, r, splat(1.0f / 24));
  series = fma(series, r, splat(1.0f / 6));
  series = fma(series, r, splat(0.5f));
  series = fma(series, r, splat(1.0f));
  series = fma(series, r, splat(1.0f));
  const F32 value = scale_by_power_of_2(series, n);
  return pick_less(x, low, zero(), pick_less(high, x, splat(__builtin_inff()), value));
}

// x * sigmoid(x)
ERN_INLINE F32 silu(F32 x) { return x / (splat(1.0f) + exp(zero() - x)); }

}  // namespace
}  // namespace ern::cpu
