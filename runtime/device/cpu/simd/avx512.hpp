// The vector layer on AVX-512 (F, BW, DQ, VL), with vdpbf16ps where AVX512-BF16 is there. What each function means: scalar.hpp.
#pragma once

// g++ 12 takes the "undefined" operand of its own intrinsics for an uninitialised variable (its bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

namespace ern::cpu {
namespace {

constexpr int lanes = 16;

struct F32 {
  __m512 v;
};
struct Pairs {
  __m512i v;
};

#if defined(__AVX512BF16__)
constexpr bool native_dot = true;
ERN_INLINE F32 dot_native(F32 acc, Pairs w, Pairs x) { return {_mm512_dpbf16_ps(acc.v, (__m512bh)w.v, (__m512bh)x.v)}; }
#else
constexpr bool native_dot = false;
ERN_INLINE F32 dot_native(F32 acc, Pairs, Pairs) { return acc; }
#endif

ERN_INLINE __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1); }

ERN_INLINE F32 zero() { return {_mm512_setzero_ps()}; }
ERN_INLINE F32 splat(float x) { return {_mm512_set1_ps(x)}; }
ERN_INLINE F32 operator+(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
ERN_INLINE F32 operator-(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
ERN_INLINE F32 operator*(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
ERN_INLINE F32 operator/(F32 a, F32 b) { return {_mm512_div_ps(a.v, b.v)}; }
ERN_INLINE F32 fma(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
ERN_INLINE F32 fmaddsub(F32 a, F32 b, F32 c) { return {_mm512_fmaddsub_ps(a.v, b.v, c.v)}; }
ERN_INLINE F32 max(F32 a, F32 b) { return {_mm512_max_ps(a.v, b.v)}; }
ERN_INLINE F32 min(F32 a, F32 b) { return {_mm512_min_ps(a.v, b.v)}; }
ERN_INLINE F32 sqrt(F32 a) { return {_mm512_sqrt_ps(a.v)}; }
ERN_INLINE F32 round(F32 a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
ERN_INLINE F32 scale_by_power_of_2(F32 a, F32 n) { return {_mm512_scalef_ps(a.v, n.v)}; }
ERN_INLINE F32 pick_less(F32 a, F32 b, F32 yes, F32 no) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), no.v, yes.v)};
}

ERN_INLINE F32 load(const float* p) { return {_mm512_loadu_ps(p)}; }
ERN_INLINE F32 load(const Bf16* p) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
}
ERN_INLINE F32 load_first(const float* p, int n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
ERN_INLINE F32 load_first(const Bf16* p, int n) {
  const __m256i half = _mm256_maskz_loadu_epi16(first(n), p);
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
}

ERN_INLINE __m256i narrow(F32 a) {
#if defined(__AVX512BF16__)
  return (__m256i)_mm512_cvtneps_pbh(a.v);
#else
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i tie = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i out = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), tie), 16);
  const __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
  out = _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q), out, quiet);
  return _mm512_cvtepi32_epi16(out);
#endif
}
ERN_INLINE void store(float* p, F32 a) { _mm512_storeu_ps(p, a.v); }
ERN_INLINE void store(Bf16* p, F32 a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(a)); }
ERN_INLINE void store_first(float* p, F32 a, int n) { _mm512_mask_storeu_ps(p, first(n), a.v); }
ERN_INLINE void store_first(Bf16* p, F32 a, int n) { _mm256_mask_storeu_epi16(p, first(n), narrow(a)); }

ERN_INLINE float sum(F32 a) {
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  const __m128 two = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
ERN_INLINE float max_of(F32 a) {
  const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  const __m128 two = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

ERN_INLINE F32 swap_pairs(F32 a) { return {_mm512_permute_ps(a.v, 0xb1)}; }
ERN_INLINE F32 dup_even(F32 a) { return {_mm512_moveldup_ps(a.v)}; }
ERN_INLINE F32 dup_odd(F32 a) { return {_mm512_movehdup_ps(a.v)}; }
ERN_INLINE void unzip(F32 a, F32 b, F32& evens, F32& odds) {
  const __m512i pick = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  evens.v = _mm512_permutex2var_ps(a.v, pick, b.v);
  odds.v = _mm512_permutex2var_ps(a.v, _mm512_add_epi32(pick, _mm512_set1_epi32(1)), b.v);
}

ERN_INLINE Pairs load_pairs(const Bf16* p) { return {_mm512_loadu_si512(p)}; }
ERN_INLINE Pairs splat_pair(const Bf16* p) {
  int both;
  std::memcpy(&both, p, sizeof both);
  return {_mm512_set1_epi32(both)};
}
ERN_INLINE Pairs splat_pair(Bf16 low, Bf16 high) {
  return {_mm512_set1_epi32(static_cast<int>(low.bits | static_cast<uint32_t>(high.bits) << 16))};
}
ERN_INLINE F32 even(Pairs w) { return {_mm512_castsi512_ps(_mm512_slli_epi32(w.v, 16))}; }
ERN_INLINE F32 odd(Pairs w) {
  return {_mm512_castsi512_ps(_mm512_and_si512(w.v, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
}

ERN_INLINE void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
ERN_INLINE void prefetch_second(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }

}  // namespace
}  // namespace ern::cpu
