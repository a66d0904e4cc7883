// The vector layer on AVX2 with FMA. What each function means: scalar.hpp.
#pragma once

#include <immintrin.h>

namespace ern::cpu {
namespace {

constexpr int lanes = 8;
constexpr bool native_dot = false;

struct F32 {
  __m256 v;
};
struct Pairs {
  __m256i v;
};

ERN_INLINE F32 dot_native(F32 acc, Pairs, Pairs) { return acc; }

ERN_INLINE __m256i first(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0));
}

ERN_INLINE F32 zero() { return {_mm256_setzero_ps()}; }
ERN_INLINE F32 splat(float x) { return {_mm256_set1_ps(x)}; }
ERN_INLINE F32 operator+(F32 a, F32 b) { return {_mm256_add_ps(a.v, b.v)}; }
ERN_INLINE F32 operator-(F32 a, F32 b) { return {_mm256_sub_ps(a.v, b.v)}; }
ERN_INLINE F32 operator*(F32 a, F32 b) { return {_mm256_mul_ps(a.v, b.v)}; }
ERN_INLINE F32 operator/(F32 a, F32 b) { return {_mm256_div_ps(a.v, b.v)}; }
ERN_INLINE F32 fma(F32 a, F32 b, F32 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
ERN_INLINE F32 fmaddsub(F32 a, F32 b, F32 c) { return {_mm256_fmaddsub_ps(a.v, b.v, c.v)}; }
ERN_INLINE F32 max(F32 a, F32 b) { return {_mm256_max_ps(a.v, b.v)}; }
ERN_INLINE F32 min(F32 a, F32 b) { return {_mm256_min_ps(a.v, b.v)}; }
ERN_INLINE F32 sqrt(F32 a) { return {_mm256_sqrt_ps(a.v)}; }
ERN_INLINE F32 round(F32 a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
ERN_INLINE F32 scale_by_power_of_2(F32 a, F32 n) {
  // In two steps, since 2^128 has no exponent of its own: exp reaches it just below overflow.
  const __m256i whole = _mm256_cvtps_epi32(n.v);
  const __m256i half = _mm256_srai_epi32(whole, 1);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256i one = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i rest = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
  return {_mm256_mul_ps(_mm256_mul_ps(a.v, _mm256_castsi256_ps(one)), _mm256_castsi256_ps(rest))};
}
ERN_INLINE F32 pick_less(F32 a, F32 b, F32 yes, F32 no) {
  return {_mm256_blendv_ps(no.v, yes.v, _mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ))};
}

ERN_INLINE F32 load(const float* p) { return {_mm256_loadu_ps(p)}; }
ERN_INLINE F32 load(const Bf16* p) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16))};
}
ERN_INLINE F32 load_first(const float* p, int n) { return {_mm256_maskload_ps(p, first(n))}; }
ERN_INLINE F32 load_first(const Bf16* p, int n) {
  Bf16 full[lanes] = {};
  for (int i = 0; i < n; ++i) full[i] = p[i];
  return load(full);
}

ERN_INLINE __m128i narrow(F32 a) {
  const __m256i bits = _mm256_castps_si256(a.v);
  const __m256i tie = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i out = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), tie), 16);
  const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q));
  const __m256i safe = _mm256_blendv_epi8(out, quiet, nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(safe), _mm256_extracti128_si256(safe, 1));
}
ERN_INLINE void store(float* p, F32 a) { _mm256_storeu_ps(p, a.v); }
ERN_INLINE void store(Bf16* p, F32 a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(a)); }
ERN_INLINE void store_first(float* p, F32 a, int n) { _mm256_maskstore_ps(p, first(n), a.v); }
ERN_INLINE void store_first(Bf16* p, F32 a, int n) {
  Bf16 full[lanes];
  store(full, a);
  for (int i = 0; i < n; ++i) p[i] = full[i];
}

ERN_INLINE float sum(F32 a) {
  const __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 two = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
ERN_INLINE float max_of(F32 a) {
  const __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 two = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

ERN_INLINE F32 swap_pairs(F32 a) { return {_mm256_permute_ps(a.v, 0xb1)}; }
ERN_INLINE F32 dup_even(F32 a) { return {_mm256_moveldup_ps(a.v)}; }
ERN_INLINE F32 dup_odd(F32 a) { return {_mm256_movehdup_ps(a.v)}; }
ERN_INLINE void unzip(F32 a, F32 b, F32& evens, F32& odds) {
  // The shuffle works in 128-bit halves and leaves quarters as a0 b0 a1 b1; the permutation puts them in order.
  const __m256d e = _mm256_castps_pd(_mm256_shuffle_ps(a.v, b.v, 0x88));
  const __m256d o = _mm256_castps_pd(_mm256_shuffle_ps(a.v, b.v, 0xdd));
  evens.v = _mm256_castpd_ps(_mm256_permute4x64_pd(e, 0xd8));
  odds.v = _mm256_castpd_ps(_mm256_permute4x64_pd(o, 0xd8));
}

ERN_INLINE Pairs load_pairs(const Bf16* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
ERN_INLINE Pairs splat_pair(const Bf16* p) {
  int both;
  std::memcpy(&both, p, sizeof both);
  return {_mm256_set1_epi32(both)};
}
ERN_INLINE Pairs splat_pair(Bf16 low, Bf16 high) {
  return {_mm256_set1_epi32(static_cast<int>(low.bits | static_cast<uint32_t>(high.bits) << 16))};
}
ERN_INLINE F32 even(Pairs w) { return {_mm256_castsi256_ps(_mm256_slli_epi32(w.v, 16))}; }
ERN_INLINE F32 odd(Pairs w) {
  return {_mm256_castsi256_ps(_mm256_and_si256(w.v, _mm256_set1_epi32(static_cast<int>(0xffff0000u))))};
}

ERN_INLINE void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
ERN_INLINE void prefetch_second(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }

}  // namespace
}  // namespace ern::cpu
