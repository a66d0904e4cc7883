// rope_turns:      cosine and sine of what each pair (2p, 2p + 1) of a head turns by: the angle position * theta^(-2p / head_dim)
// rope:            turns adjacent elements (2p, 2p + 1) of each head by position * theta^(-2p / head_dim)
// kv_append:       puts K and V of new tokens into the paged cache
// rope_kv_append:  both, on the parts of a fused projection
//
//   x          float [rows, heads * head_dim]; out: Out, the same shape, float or Bf16; with float it may be x
//   k, v       float or Bf16 [rows, kv_heads * head_dim]
//   qkv        float [rows, (heads + 2 kv_heads) * head_dim]
//   positions  int32 [rows, 3]: t, h, w of each token; equal for text
//   slots      int32 [rows]: block * block_size + offset of each token
//   kv         Bf16, this layer's part of pool block 0, layout kv_rows; block b is b * kv_block_bytes further
//   q          Q [rows, heads * head_dim], float or Bf16
//   turns      float [rows, head_dim]: cosine and sine of pair p at 2 turn_place(p) and one further
//
// Launch: 256 threads; a block a token, of rope_turns a block every rope_turns_rows(head_dim). A thread takes 8 elements of a head at a time; head_dim a
// multiple of 8, of 32 for rope_turns.
// Angles are products of f32, reduced in f64; cosine, sine and rotation in f32. Reference ops: rope_turns, rope, kv_append, rope_kv_append.
#pragma once

#include "../layout/kv_rows.hpp"
#include "kernel.cuh"

namespace ern::cuda {

// theta^(-2p / head_dim) for each pair p, in f32 as the family was trained. A variable of the generated code:
//   __device__ const auto frequencies = ern::cuda::rope_frequencies<128>(500000.0);
template <int head_dim>
struct alignas(16) RopeFrequencies {
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

struct Turn {
  float cosine;
  float sine;
};

ERN_DEVICE Turn turn_by(int32_t position, float frequency) {
  const float angle = __fmul_rn(static_cast<float>(position), frequency);
  // angle = n * pi/2 + r, |r| <= pi/4. pi/2 is split so that n * high is exact up to n = 2^20, positions of 1.6 million.
  const double n = rint(static_cast<double>(angle) * 0.63661977236758134);
  const float r = static_cast<float>(angle - n * 0x1.921fb544p0 - n * 0x1.0b4611a626331p-34);
  const float s = r * r;  // Taylor series, off by less than one unit of f32
  const float sine = r + r * s * (-1.0f / 6 + s * (1.0f / 120 + s * (-1.0f / 5040 + s * (1.0f / 362880))));
  const float cosine = 1 + s * (-0.5f + s * (1.0f / 24 + s * (-1.0f / 720 + s * (1.0f / 40320 - s * (1.0f / 3628800)))));
  const int quarter = static_cast<int>(n) & 3;  // turned by that many right angles
  const float c = quarter & 1 ? -sine : cosine, d = quarter & 1 ? cosine : sine;
  return quarter & 2 ? Turn{-c, -d} : Turn{c, d};
}

// Which of a token's three positions turns pair p. The first `spatial_pairs` pairs take h and w in turn, the others t; text has none.
ERN_DEVICE int rope_coordinate(int p, int spatial_pairs) { return p >= spatial_pairs ? 0 : p % 2 == 0 ? 1 : 2; }

// The turns of the pairs of dims `dim` .. `dim` + 7.
template <int head_dim, int spatial_pairs>
ERN_DEVICE void turns_at(const int32_t* position, const RopeFrequencies<head_dim>& frequencies, int dim, Turn (&turns)[4]) {
  const float4 f = *reinterpret_cast<const float4*>(frequencies.of + dim / 2);
  const float of[4] = {f.x, f.y, f.z, f.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) turns[i] = turn_by(position[rope_coordinate(dim / 2 + i, spatial_pairs)], of[i]);
}

ERN_DEVICE void turn8(float (&x)[8], const Turn (&turns)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float a = x[2 * i], b = x[2 * i + 1];
    x[2 * i] = a * turns[i].cosine - b * turns[i].sine;
    x[2 * i + 1] = b * turns[i].cosine + a * turns[i].sine;
  }
}

constexpr int rope_turns_rows(int head_dim) { return 256 / (head_dim / 8); }

// In runs of 16 pairs. A lane of wgmma's results has pairs j, j + 4, j + 8 and j + 12 of a run: two and two of them lie together, those of its quad side by side.
constexpr int turn_place(int pair) { return pair / 16 * 16 + pair % 16 / 8 * 8 + pair % 4 * 2 + pair % 8 / 4; }

struct RopeTurns {
  int head_dim;
  int spatial_pairs = 0;
};

template <RopeTurns problem>
ERN_DEVICE void rope_turns(const Step* step, const int32_t* positions, const RopeFrequencies<problem.head_dim>& frequencies, float* out) {
  constexpr int head_dim = problem.head_dim, threads = head_dim / 8, rows = rope_turns_rows(head_dim);
  start_dependents();
  wait_for_inputs();
  const int within = static_cast<int>(threadIdx.x) / threads, dim = static_cast<int>(threadIdx.x) % threads * 8;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * rows + within;
  if (within >= rows || row >= step->tokens) return;
  static_assert(head_dim % 32 == 0);
  Turn turns[4];
  turns_at<head_dim, problem.spatial_pairs>(positions + row * 3, frequencies, dim, turns);
#pragma unroll
  for (int i = 0; i < 4; ++i) *reinterpret_cast<float2*>(out + row * head_dim + 2 * turn_place(dim / 2 + i)) = {turns[i].cosine, turns[i].sine};
}

struct Rope {
  int heads;
  int head_dim;
  int spatial_pairs = 0;
};

template <Rope problem, class Out>
ERN_DEVICE void rope(const Step* step, const float* x, const int32_t* positions, const RopeFrequencies<problem.head_dim>& frequencies,
                     Out* out) {
  constexpr int head_dim = problem.head_dim, width = problem.heads * head_dim;
  start_dependents();
  wait_for_inputs();
  const int64_t row = blockIdx.x;
  if (row >= step->tokens) return;
  for (int at = static_cast<int>(threadIdx.x) * 8; at < width; at += static_cast<int>(blockDim.x) * 8) {
    Turn turns[4];
    turns_at<head_dim, problem.spatial_pairs>(positions + row * 3, frequencies, at % head_dim, turns);
    float v[8];
    load8(x + row * width + at, v);
    turn8(v, turns);
    store8(out + row * width + at, v);
  }
}

struct KvAppend {
  int kv_heads;
  int head_dim;
  int block_size;
  int64_t kv_block_bytes;
};

// One layer's cache by slot.
template <KvAppend problem>
struct KvCache {
  using Place = layout::KvRows<problem.kv_heads, problem.head_dim, problem.block_size>;
  Bf16* layer;

  ERN_DEVICE Bf16* block(int32_t index) const {
    return reinterpret_cast<Bf16*>(reinterpret_cast<char*>(layer) + index * problem.kv_block_bytes);
  }
  ERN_DEVICE Bf16* key(int32_t slot, int kv_head, int dim) const {
    return block(slot / problem.block_size) + Place::key(kv_head, slot % problem.block_size, dim);
  }
  ERN_DEVICE Bf16* value(int32_t slot, int kv_head, int dim) const {
    return block(slot / problem.block_size) + Place::value(kv_head, slot % problem.block_size, dim);
  }
};

template <KvAppend problem, class In>
ERN_DEVICE void kv_append(const Step* step, const In* k, const In* v, const int32_t* slots, Bf16* kv) {
  constexpr int head_dim = problem.head_dim, width = problem.kv_heads * head_dim;
  start_dependents();
  wait_for_inputs();
  const int64_t row = blockIdx.x;
  if (row >= step->tokens) return;
  const KvCache<problem> cache{kv};
  for (int at = static_cast<int>(threadIdx.x) * 8; at < width; at += static_cast<int>(blockDim.x) * 8) {
    float x[8];
    load8(k + row * width + at, x);
    store8(cache.key(slots[row], at / head_dim, at % head_dim), x);
    load8(v + row * width + at, x);
    store8(cache.value(slots[row], at / head_dim, at % head_dim), x);
  }
}

struct RopeKvAppend {
  int heads;
  KvAppend cache;
  int spatial_pairs = 0;
};

template <RopeKvAppend problem, class Q>
ERN_DEVICE void rope_kv_append(const Step* step, const float* qkv, const int32_t* positions, const int32_t* slots,
                               const RopeFrequencies<problem.cache.head_dim>& frequencies, Q* q, Bf16* kv) {
  constexpr int head_dim = problem.cache.head_dim, heads = problem.heads, kv_heads = problem.cache.kv_heads;
  constexpr int width = (heads + 2 * kv_heads) * head_dim;
  start_dependents();
  wait_for_inputs();
  const int64_t row = blockIdx.x;
  if (row >= step->tokens) return;
  const KvCache<problem.cache> cache{kv};
  const int32_t slot = slots[row];
  for (int at = static_cast<int>(threadIdx.x) * 8; at < width; at += static_cast<int>(blockDim.x) * 8) {
    const int head = at / head_dim, dim = at % head_dim;
    float v[8];
    load8(qkv + row * width + at, v);
    if (head < heads + kv_heads) {
      Turn turns[4];
      turns_at<head_dim, problem.spatial_pairs>(positions + row * 3, frequencies, dim, turns);
      turn8(v, turns);
    }
    if (head < heads) store8(q + row * heads * head_dim + at, v);
    else if (head < heads + kv_heads) store8(cache.key(slot, head - heads, dim), v);
    else store8(cache.value(slot, head - heads - kv_heads, dim), v);
  }
}

}  // namespace ern::cuda
