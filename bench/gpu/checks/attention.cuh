// Checks of rotation, append and attention, in decode and in prefill. See check.cu.
#pragma once

#include "../../../runtime/device/cuda/attention_decode.cuh"
#include "../../../runtime/device/cuda/attention_prefill.cuh"
#include "../../../runtime/device/cuda/attention_wgmma.cuh"
#include "../../../runtime/device/cuda/rope.cuh"
#include "../maps.cuh"
#include "common.cuh"

namespace {

template <int hd> __device__ const auto frequencies = rope_frequencies<hd>(500000.0);
template <class P> __global__ void rope_append_kernel(const Step* s, const float* qkv, const int32_t* pos, const int32_t* slots, Bf16* q, Bf16* kv) {
  rope_kv_append<P::value>(s, qkv, pos, slots, frequencies<P::value.cache.head_dim>, q, kv);
}
template <class P, class Out> __global__ void rope_kernel(const Step* s, const float* x, const int32_t* pos, Out* out) { rope<P::value>(s, x, pos, frequencies<P::value.head_dim>, out); }
template <class P, class In> __global__ void append_kernel(const Step* s, const In* k, const In* v, const int32_t* slots, Bf16* kv) { kv_append<P::value>(s, k, v, slots, kv); }
template <class P, class Q>
__global__ void __launch_bounds__(P::value.warps * 32, 1) decode_kernel(const Step* s, const Q* q, const int32_t* pos, const int32_t* slots, Bf16* kv, const int32_t* table, const int32_t* context,
                                                             float scale, Bf16* out, float* workspace, unsigned* arrivals) {
  attention_decode<P::value>(s, q, pos, slots, frequencies<P::value.cache.head_dim>, kv, table, context, scale, out, workspace, arrivals);
}
template <class P>
__global__ void __launch_bounds__(128, 1) prefill_kernel(const Step* s, const Bf16* q, Bf16* kv, const int32_t* table, const int32_t* start, const int32_t* context, float scale, Bf16* out) {
  attention_prefill<P::value>(s, q, kv, table, start, context, scale, out);
}

template <class P>
__global__ void __launch_bounds__(384, 1) wgmma_kernel(const Step* s, const int32_t* table, const int32_t* start, const int32_t* context, float scale, Bf16* out,
                                                       const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap kv) {
  constexpr WgmmaAttention problem{P::value.heads, P::value.cache};
  attention_wgmma<problem>(s, &q, &kv, table, start, context, scale, out);
}

void rotate64(double* x, int hd, int pos) {
  for (int p = 0; p < hd / 2; ++p) {
    const float f = float(std::pow(500000.0, -2.0 * p / hd)), angle = float(pos) * f;
    const double c = std::cos(double(angle)), s = std::sin(double(angle)), a = x[2 * p], b = x[2 * p + 1];
    x[2 * p] = a * c - b * s, x[2 * p + 1] = b * c + a * s;
  }
}

// Sequences with `fresh[s]` new tokens of `context[s]`. The blocks of the pool are shuffled, what no sequence has written is poisoned.
template <int kv_heads, int hd, int block>
struct Cache {
  static constexpr int64_t layer = KvCache<KvAppend{kv_heads, hd, block, 0}>::Place::elements;
  static constexpr int64_t block_bytes = 2 * layer * 2;  // as if of two layers
  static constexpr KvAppend value{kv_heads, hd, block, block_bytes};
};
template <int heads, class C> struct RopeAppendOf { static constexpr RopeKvAppend value{heads, C::value}; };
template <int heads, int hd> struct RopeOf { static constexpr Rope value{heads, hd}; };
template <int heads, class C, bool fused, int cluster, int warps, int splits, int least> struct DecodeOf { static constexpr DecodeAttention value{heads, C::value, fused, 0, cluster, warps, splits, least}; };
template <int heads, class C> struct PrefillOf { static constexpr PrefillAttention value{heads, C::value}; };

template <int heads, int kv_heads, int hd, int block, int cluster, int warps, int splits = 1, int least = 1>
void check_attention(std::vector<int> context, std::vector<int> fresh) {
  const int S = int(context.size());
  int T = 0;
  for (int f : fresh) T += f;
  const bool decode = T == S;
  const std::string name = tag(decode ? "attention decode" : "attention prefill", {heads, kv_heads, hd, block, S, T, context[0], cluster, warps, splits, least});
  if (!wanted(name)) return;
  using C = Cache<kv_heads, hd, block>;
  constexpr int64_t block_bytes = C::block_bytes;
  constexpr KvAppend cache = C::value;
  int stride = 0, blocks = 0;
  for (int c : context) stride = std::max(stride, int(ceil_div(c, block)) + 1), blocks += int(ceil_div(c, block));
  std::vector<int> shuffled(blocks + 3);
  for (size_t i = 0; i < shuffled.size(); ++i) shuffled[i] = int(i);
  std::shuffle(shuffled.begin(), shuffled.end(), random_engine());
  Buffer<int32_t> table(size_t(S) * stride), ctx(S), start(S + 1), pos(3 * T), slots(T);
  Buffer<Bf16> pool(shuffled.size() * block_bytes / 2);
  std::memset(pool.host.data(), 0xff, pool.count * 2);
  int used = 0, row = 0;
  constexpr int width = (heads + 2 * kv_heads) * hd;
  Buffer<float> qkv(size_t(T) * width);
  fill_normal(qkv, 1.5f);
  std::vector<double> want(size_t(T) * heads * hd), want_q(size_t(T) * heads * hd);
  std::normal_distribution<float> normal(0, 1);
  start.host[0] = 0;
  for (int s = 0; s < S; ++s) {
    for (int b = 0; b < stride; ++b) table.host[s * stride + b] = b < ceil_div(context[s], block) ? shuffled[used++] : 0x7fffffff / 4096;
    ctx.host[s] = context[s];
    std::vector<std::vector<double>> k(context[s]), v(context[s]);
    for (int j = 0; j < context[s]; ++j) {
      const int32_t slot = table.host[s * stride + j / block] * block + j % block;
      k[j].resize(kv_heads * hd), v[j].resize(kv_heads * hd);
      const bool is_new = j >= context[s] - fresh[s];
      const int r = row + j - (context[s] - fresh[s]);
      if (is_new) {
        slots.host[r] = slot, pos.host[3 * r] = pos.host[3 * r + 1] = pos.host[3 * r + 2] = j;
        for (int i = 0; i < kv_heads * hd; ++i) {
          k[j][i] = qkv.host[size_t(r) * width + heads * hd + i];
          v[j][i] = as_float(Bf16(qkv.host[size_t(r) * width + (heads + kv_heads) * hd + i]));
        }
        for (int h = 0; h < kv_heads; ++h) rotate64(&k[j][h * hd], hd, j);
        for (double& x : k[j]) x = as_float(Bf16(float(x)));
      } else {
        for (int h = 0; h < kv_heads; ++h) {
          for (int d = 0; d < hd; ++d) {
            const Bf16 a(normal(random_engine())), b(normal(random_engine()));
            k[j][h * hd + d] = as_float(a), v[j][h * hd + d] = as_float(b);
            Bf16* at = pool.host.data() + int64_t(slot / block) * block_bytes / 2;
            at[KvCache<cache>::Place::key(h, slot % block, d)] = a, at[KvCache<cache>::Place::value(h, slot % block, d)] = b;
          }
        }
      }
    }
    for (int r = row; r < row + fresh[s]; ++r) {
      const int at = context[s] - fresh[s] + r - row;
      for (int h = 0; h < heads; ++h) {
        double q[hd];
        for (int d = 0; d < hd; ++d) q[d] = qkv.host[size_t(r) * width + h * hd + d];
        rotate64(q, hd, at);
        for (int d = 0; d < hd; ++d) want_q[(size_t(r) * heads + h) * hd + d] = q[d], q[d] = as_float(Bf16(float(q[d])));
        const int g = h / (heads / kv_heads) * hd;
        std::vector<double> score(at + 1);
        double top = -INFINITY, mass = 0;
        for (int j = 0; j <= at; ++j) {
          double dot = 0;
          for (int d = 0; d < hd; ++d) dot += q[d] * k[j][g + d];
          score[j] = dot / std::sqrt(double(hd)), top = std::max(top, score[j]);
        }
        for (double& x : score) x = std::exp(x - top), mass += x;
        for (int d = 0; d < hd; ++d) {
          double sum = 0;
          for (int j = 0; j <= at; ++j) sum += score[j] * v[j][g + d];
          want[(size_t(r) * heads + h) * hd + d] = sum / mass;
        }
      }
    }
    row += fresh[s], start.host[s + 1] = row;
  }
  table.upload(), ctx.upload(), start.upload(), pos.upload(), slots.upload(), pool.upload();
  const int room = T + 77;  // rows of a bucket, of which T are there
  Buffer<Bf16> q(size_t(room) * heads * hd), out(size_t(T) * heads * hd);
  DeviceStep step(T, S, stride);
  const float scale = 1 / std::sqrt(float(hd));
  using Fused = DecodeOf<heads, C, true, cluster, warps, splits, least>;
  using Apart = DecodeOf<heads, C, false, cluster, warps, splits, least>;
  Buffer<float> workspace(attention_workspace(Fused::value, S) / 4);
  Buffer<unsigned> arrivals(size_t(S) * kv_heads * cluster);
  arrivals.upload();
  if (decode) {
    out.poison(), workspace.poison();
    launch(decode_kernel<Fused, float>, {dim3(cluster * splits, kv_heads, S), warps * 32, 0, cluster}, nullptr, step.get(), qkv.device, pos.device,
           slots.device, pool.device, table.device, ctx.device, scale, out.device, workspace.device, arrivals.device);
    CK(cudaDeviceSynchronize());
    expect_close(name + " fused", out, want, bf16_limit);
    pool.upload();
  }
  q.poison(), out.poison();
  launch(rope_append_kernel<RopeAppendOf<heads, C>>, {dim3(T), 256}, nullptr, step.get(), qkv.device, pos.device, slots.device, q.device, pool.device);
  CK(cudaDeviceSynchronize());
  expect_close(name + " q", q, want_q, bf16_limit);
  if (decode) {
    workspace.poison();
    launch(decode_kernel<Apart, Bf16>, {dim3(cluster * splits, kv_heads, S), warps * 32, 0, cluster}, nullptr, step.get(), q.device, pos.device,
           slots.device, pool.device, table.device, ctx.device, scale, out.device, workspace.device, arrivals.device);
    CK(cudaDeviceSynchronize());
    expect_close(name, out, want, bf16_limit);
  }
  out.poison();
  constexpr PrefillAttention prefill{heads, cache};
  launch(prefill_kernel<PrefillOf<heads, C>>, {dim3(ceil_div(T, prefill.rows), heads), 128, attention_prefill_shared<prefill>()}, nullptr, step.get(), q.device, pool.device, table.device, start.device,
         ctx.device, scale, out.device);
  CK(cudaDeviceSynchronize());
  expect_close(name + " by prefill", out, want, bf16_limit);
  if constexpr (hd == 128) {
    out.poison();
    launch(wgmma_kernel<PrefillOf<heads, C>>, {dim3(heads, ceil_div(T, 128)), 384, size_t(attention_wgmma_shared)}, nullptr, step.get(), table.device, start.device, ctx.device, scale, out.device,
           query_map(q.device, room, heads), cache_map(pool.device, kv_heads, block, block_bytes));
    CK(cudaDeviceSynchronize());
    expect_close(name + " by wgmma", out, want, bf16_limit);
  }
  // rope alone, and append alone of what rope_kv_append wrote
  Buffer<float> turned(size_t(T) * heads * hd), heads_only(size_t(T) * heads * hd);
  for (int r = 0; r < T; ++r) std::copy_n(qkv.host.begin() + size_t(r) * width, heads * hd, heads_only.host.begin() + size_t(r) * heads * hd);
  heads_only.upload(), turned.poison();
  launch(rope_kernel<RopeOf<heads, hd>, float>, {dim3(T), 256}, nullptr, step.get(), heads_only.device, pos.device, turned.device);
  expect_close(name + " rope", turned, want_q, f32_limit);
  Buffer<float> k(size_t(T) * kv_heads * hd), v(size_t(T) * kv_heads * hd);
  fill_normal(k, 1), fill_normal(v, 1);
  launch(append_kernel<C, float>, {dim3(T), 256}, nullptr, step.get(), k.device, v.device, slots.device, pool.device);
  pool.download();
  std::vector<double> got(2 * k.count), put(2 * k.count);
  for (int r = 0; r < T; ++r) {
    for (int i = 0; i < kv_heads * hd; ++i) {
      const Bf16* at = pool.host.data() + int64_t(slots.host[r] / block) * block_bytes / 2;
      put[size_t(r) * kv_heads * hd + i] = as_float(Bf16(k.host[size_t(r) * kv_heads * hd + i])) - as_float(at[KvCache<cache>::Place::key(i / hd, slots.host[r] % block, i % hd)]);
      put[k.count + size_t(r) * kv_heads * hd + i] = as_float(Bf16(v.host[size_t(r) * kv_heads * hd + i])) - as_float(at[KvCache<cache>::Place::value(i / hd, slots.host[r] % block, i % hd)]);
    }
  }
  ++checks;
  if (put != got) ++failures, std::printf("FAIL %s kv_append\n", name.c_str());
}

}  // namespace
