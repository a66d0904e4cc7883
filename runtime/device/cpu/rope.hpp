// op         rope: turns adjacent elements (2p, 2p + 1) of each head by position * theta^(-2p / head_dim); no fusion
// x          float [rows, .]: heads * head_dim columns, rows x_stride apart (a part of longer rows, say)
// positions  int32 [rows, 3]: t, h, w of each token; equal for text
// out        Out [rows, .], float or Bf16, rows out_stride apart; with float it may be x itself, with the same stride
// work       (token, eighth of its heads), contiguous; each thread that has a part of a token computes its angles once
// accumulate angles as products of f32, their cosine and sine in f64 and rounded to f32, rotation in f32
// reference  src/reference rope
//
// Also here: what rope_kv_append.hpp shares with it.
#pragma once

#include <cstdint>

#include "kernel.hpp"
#include "simd.hpp"

namespace ern::cpu {
namespace {

// theta^(-2p / head_dim) for each pair p, in f32 as the family was trained. A constant of the generated code:
//   constexpr auto frequencies = rope_frequencies<128>(500000.0);
template <int head_dim>
struct RopeFrequencies {
  float of[head_dim / 2];
};

constexpr double exp_constant(double x) {
  if (x < 0) return 1 / exp_constant(-x);
  // e^(x / 1024) - 1 by its series, so that no digits are lost to the 1; then squared ten times.
  double term = 1, sum = 0;
  for (int i = 1; i < 12; ++i) sum += term *= x / 1024 / i;
  for (int i = 0; i < 10; ++i) sum *= 2 + sum;
  return 1 + sum;
}

constexpr double log_constant(double x) {
  // y += x / e^y - 1 until it stands; the start is within a factor of 2.
  double y = 0;
  for (double left = x; left >= 2; left /= 2) y += 0.6931471805599453;
  for (double left = x; left < 1; left *= 2) y -= 0.6931471805599453;
  for (int i = 0; i < 60; ++i) y += x * exp_constant(-y) - 1;
  return y;
}

template <int head_dim>
constexpr RopeFrequencies<head_dim> rope_frequencies(double theta) {
  RopeFrequencies<head_dim> out{};
  const double log_theta = log_constant(theta);
  for (int p = 0; p < head_dim / 2; ++p) out.of[p] = static_cast<float>(exp_constant(-2.0 * p / head_dim * log_theta));
  return out;
}

// Which of a token's three positions turns pair p. The first `spatial_pairs` pairs take h and w in turn, the others t;
// text has none.
constexpr int rope_coordinate(int p, int spatial_pairs) { return p >= spatial_pairs ? 0 : p % 2 == 0 ? 1 : 2; }

// cos and sin of one token's angles, each pair's value twice, as the elements lie.
template <int head_dim>
struct Rotation {
  static_assert(head_dim % 16 == 0);
  alignas(64) float cosine[head_dim];
  alignas(64) float sine[head_dim];

  // Plain loops without branches, which compilers turn into vectors of doubles; every arch level gets the same bits.
  void set(const int32_t* position, const RopeFrequencies<head_dim>& frequencies, int spatial_pairs) {
    constexpr int pairs = head_dim / 2;
    alignas(64) double angle[pairs];
    alignas(64) float cos_of[pairs], sin_of[pairs];
    // The angle is the f32 product of two f32 (src/ir/ops.ts, rope): far out in the context an exact one is another.
    for (int p = 0; p < pairs; ++p) angle[p] = static_cast<float>(position[0]) * frequencies.of[p];
    for (int p = 0; p < spatial_pairs; ++p) angle[p] = static_cast<float>(position[1 + p % 2]) * frequencies.of[p];
    for (int p = 0; p < pairs; ++p) {
      // angle = n * pi/2 + r, |r| <= pi/4. pi/2 is split so that n * high is exact up to n = 2^20, positions of 1.6
      // million.
      const double n = nearest(angle[p] * 0.63661977236758134);
      const double r = angle[p] - n * 0x1.921fb544p0 - n * 0x1.0b4611a626331p-34;
      // Taylor series, off by less than 1e-11.
      const double s = r * r;
      const double sin_r =
          r + r * s * (-1.0 / 6 + s * (1.0 / 120 + s * (-1.0 / 5040 + s * (1.0 / 362880 - s / 39916800))));
      const double cos_r =
          1 + s * (-0.5 + s * (1.0 / 24 + s * (-1.0 / 720 + s * (1.0 / 40320 - s / 3628800 + s * s / 479001600))));
      // Turned by n right angles: n is one of -2 .. 2 modulo 4, and cos and sin of that many are 0, 1 or -1, so nothing
      // is rounded.
      const double right_angles = n - 4 * nearest(n * 0.25), size = __builtin_fabs(right_angles);
      const double cos_n = 1 - size, sin_n = right_angles * (2 - size);
      sin_of[p] = static_cast<float>(sin_n * cos_r + cos_n * sin_r);
      cos_of[p] = static_cast<float>(cos_n * cos_r - sin_n * sin_r);
    }
    for (int p = 0; p < pairs; ++p) {
      sine[2 * p] = sine[2 * p + 1] = sin_of[p];
      cosine[2 * p] = cosine[2 * p + 1] = cos_of[p];
    }
  }

  // To the nearest integer, |x| < 2^51: what is added pushes the fraction out.
  ERN_INLINE static double nearest(double x) { return x + 0x1.8p52 - 0x1.8p52; }

  // One head. out may be x.
  template <class Out>
  ERN_INLINE void turn(const float* x, Out* out) const {
    for (int i = 0; i < head_dim; i += lanes) {
      const F32 value = load(x + i);
      store(out + i, fmaddsub(value, load(cosine + i), swap_pairs(value) * load(sine + i)));
    }
  }
};

struct Rope {
  int heads;
  int head_dim;  // a multiple of 16
  int64_t x_stride;
  int64_t out_stride;
  int spatial_pairs = 0;  // see rope_coordinate
};

// Calls fn(token, part) for this thread's share of rows x parts, after the rotation of a new token has been set.
template <int head_dim, class Fn>
ERN_INLINE void for_each_rotated(int64_t rows, int parts, const int32_t* positions,
                                 const RopeFrequencies<head_dim>& frequencies, int spatial_pairs,
                                 Rotation<head_dim>& rotation, const Team& team, const Fn& fn) {
  const Range mine = share(rows * parts, team);
  int64_t set_for = -1;
  for (int64_t i = mine.begin; i < mine.end; ++i) {
    const int64_t token = i / parts;
    if (token != set_for) rotation.set(positions + token * 3, frequencies, spatial_pairs);
    set_for = token;
    fn(token, static_cast<int>(i % parts));
  }
}

template <Rope problem, class Out>
void rope(int rows, const float* x, const int32_t* positions, const RopeFrequencies<problem.head_dim>& frequencies,
          Out* out, Team& team) {
  constexpr int per_part = (problem.heads + 7) / 8, parts = (problem.heads + per_part - 1) / per_part;
  Rotation<problem.head_dim> rotation;
  for_each_rotated(rows, parts, positions, frequencies, problem.spatial_pairs, rotation, team,
                   [&](int64_t token, int part) {
                     const int end = (part + 1) * per_part < problem.heads ? (part + 1) * per_part : problem.heads;
                     for (int head = part * per_part; head < end; ++head) {
                       rotation.turn(x + token * problem.x_stride + head * problem.head_dim,
                                     out + token * problem.out_stride + head * problem.head_dim);
                     }
                   });
}

}  // namespace
}  // namespace ern::cpu
