// The vector layer as plain loops over eight lanes: for builds without AVX2, and the place where each function is explained. It shares
// the width with AVX2, so the same tails and tiles are run.
#pragma once

namespace ern::cpu {
namespace {

constexpr int lanes = 8;
// There is an instruction for dot_pairs; dot_native is it.
constexpr bool native_dot = false;

// f32 values side by side.
struct F32 {
  float v[lanes];
};
// Pairs of bf16: columns k and k + 1 of one output in each lane, k in the low half.
struct Pairs {
  uint32_t v[lanes];
};

template <class Fn>
ERN_INLINE F32 each(Fn fn) {
  F32 out;
  for (int i = 0; i < lanes; ++i) out.v[i] = fn(i);
  return out;
}

ERN_INLINE F32 dot_native(F32 acc, Pairs, Pairs) { return acc; }

ERN_INLINE F32 splat(float x) {
  return each([&](int) { return x; });
}
ERN_INLINE F32 zero() { return splat(0.0f); }
ERN_INLINE F32 operator+(F32 a, F32 b) {
  return each([&](int i) { return a.v[i] + b.v[i]; });
}
ERN_INLINE F32 operator-(F32 a, F32 b) {
  return each([&](int i) { return a.v[i] - b.v[i]; });
}
ERN_INLINE F32 operator*(F32 a, F32 b) {
  return each([&](int i) { return a.v[i] * b.v[i]; });
}
ERN_INLINE F32 operator/(F32 a, F32 b) {
  return each([&](int i) { return a.v[i] / b.v[i]; });
}
// a * b + c, rounded once.
ERN_INLINE F32 fma(F32 a, F32 b, F32 c) {
  return each([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
}
// a * b - c in even lanes, a * b + c in odd ones, rounded once: a rotation of adjacent pairs.
ERN_INLINE F32 fmaddsub(F32 a, F32 b, F32 c) {
  return each([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], i % 2 ? c.v[i] : -c.v[i]); });
}
// The second operand where either is a NaN, so max(x, best) never lets a NaN in, and max(bound, x) lets it through.
ERN_INLINE F32 max(F32 a, F32 b) {
  return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
ERN_INLINE F32 min(F32 a, F32 b) {
  return each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
ERN_INLINE F32 sqrt(F32 a) {
  return each([&](int i) { return __builtin_sqrtf(a.v[i]); });
}
// To the nearest integer, ties to even.
ERN_INLINE F32 round(F32 a) {
  return each([&](int i) { return __builtin_rintf(a.v[i]); });
}
// a * 2^n for integers n in [-126, 128] where the result is normal, or infinite.
ERN_INLINE F32 scale_by_power_of_2(F32 a, F32 n) {
  return each([&](int i) { return n.v[i] == n.v[i] ? __builtin_ldexpf(a.v[i], static_cast<int>(n.v[i])) : n.v[i]; });
}
// a < b ? yes : no; `no` where either is a NaN.
ERN_INLINE F32 pick_less(F32 a, F32 b, F32 yes, F32 no) {
  return each([&](int i) { return a.v[i] < b.v[i] ? yes.v[i] : no.v[i]; });
}

// No load or store needs alignment.
ERN_INLINE F32 load(const float* p) {
  return each([&](int i) { return p[i]; });
}
ERN_INLINE F32 load(const Bf16* p) {
  return each([&](int i) { return to_f32(p[i]); });
}
// Lanes below n from memory, 0 in the others; nothing behind p[n - 1] is touched. 0 <= n <= lanes.
ERN_INLINE F32 load_first(const float* p, int n) {
  return each([&](int i) { return i < n ? p[i] : 0.0f; });
}
ERN_INLINE F32 load_first(const Bf16* p, int n) {
  return each([&](int i) { return i < n ? to_f32(p[i]) : 0.0f; });
}
// To bf16: nearest, ties to even.
ERN_INLINE void store_first(float* p, F32 a, int n) {
  for (int i = 0; i < n; ++i) p[i] = a.v[i];
}
ERN_INLINE void store_first(Bf16* p, F32 a, int n) {
  for (int i = 0; i < n; ++i) p[i] = to_bf16(a.v[i]);
}
ERN_INLINE void store(float* p, F32 a) { store_first(p, a, lanes); }
ERN_INLINE void store(Bf16* p, F32 a) { store_first(p, a, lanes); }

// Lanes are folded in halves, the same order each time.
ERN_INLINE float sum(F32 a) {
  for (int half = lanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) a.v[i] += a.v[i + half];
  }
  return a.v[0];
}
ERN_INLINE float max_of(F32 a) {
  for (int half = lanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
  }
  return a.v[0];
}

// Lanes 2i and 2i + 1 change places; both get the even one; both get the odd one.
ERN_INLINE F32 swap_pairs(F32 a) {
  return each([&](int i) { return a.v[i ^ 1]; });
}
ERN_INLINE F32 dup_even(F32 a) {
  return each([&](int i) { return a.v[i & ~1]; });
}
ERN_INLINE F32 dup_odd(F32 a) {
  return each([&](int i) { return a.v[i | 1]; });
}
// Of the 2 * lanes values a, b: those at even places, and those at odd ones.
ERN_INLINE void unzip(F32 a, F32 b, F32& evens, F32& odds) {
  evens = each([&](int i) { return i < lanes / 2 ? a.v[2 * i] : b.v[2 * i - lanes]; });
  odds = each([&](int i) { return i < lanes / 2 ? a.v[2 * i + 1] : b.v[2 * i + 1 - lanes]; });
}

ERN_INLINE Pairs load_pairs(const Bf16* p) {
  Pairs out;
  std::memcpy(out.v, p, sizeof out.v);
  return out;
}
// One pair in every lane.
ERN_INLINE Pairs splat_pair(Bf16 low, Bf16 high) {
  Pairs out;
  for (int i = 0; i < lanes; ++i) out.v[i] = low.bits | static_cast<uint32_t>(high.bits) << 16;
  return out;
}
ERN_INLINE Pairs splat_pair(const Bf16* p) { return splat_pair(p[0], p[1]); }
// Widened to f32, which is exact.
ERN_INLINE F32 even(Pairs w) {
  return each([&](int i) { return to_f32(Bf16{static_cast<uint16_t>(w.v[i])}); });
}
ERN_INLINE F32 odd(Pairs w) {
  return each([&](int i) { return to_f32(Bf16{static_cast<uint16_t>(w.v[i] >> 16)}); });
}

// Hints, to the first or to the second cache; any address is allowed.
ERN_INLINE void prefetch(const void* p) { __builtin_prefetch(p); }
ERN_INLINE void prefetch_second(const void* p) { __builtin_prefetch(p, 0, 2); }

}  // namespace
}  // namespace ern::cpu
