// Holds every kernel of runtime/device/cuda to a float64 reference on the host, at awkward shapes, with fresh random inputs and poisoned
// outputs. usage: check [filter]; SEED and VERBOSE in the environment. Exits with 1 where anything is off.
#include "../../runtime/device/cuda/argmax.cuh"
#include "../../runtime/device/cuda/attention_decode.cuh"
#include "../../runtime/device/cuda/attention_prefill.cuh"
#include "../../runtime/device/cuda/attention_wgmma.cuh"
#include "../../runtime/device/cuda/elementwise.cuh"
#include "../../runtime/device/cuda/head_argmax.cuh"
#include "../../runtime/device/cuda/linear.cuh"
#include "../../runtime/device/cuda/linear_swiglu.cuh"
#include "../../runtime/device/cuda/moe_ffn.cuh"
#include "../../runtime/device/cuda/moe_router.cuh"
#include "../../runtime/device/cuda/norm_router.cuh"
#include "../../runtime/device/cuda/rms_norm.cuh"
#include "../../runtime/device/cuda/rope.cuh"
#include "../../runtime/device/cuda/wide.cuh"
#include "maps.cuh"

using namespace ern::cuda;
using namespace bench;

namespace {

// nvcc cannot name a kernel by a struct's value, so a case is a type.
#define CASE(name, ...)                           \
  struct name {                                   \
    static constexpr auto value = __VA_ARGS__;    \
  }

constexpr float eps = 1e-5f;
constexpr double normed_limit = 2e-5;  // against a norm that is not rounded: the operand is, and maybe the result
const char* filter = "";
bool wanted(const std::string& name) { return name.find(filter) != std::string::npos; }
std::string tag(const char* name, std::initializer_list<int64_t> sizes) {
  std::string s = name;
  for (int64_t v : sizes) s += " " + std::to_string(v);
  return s;
}
double silu64(double x) { return x / (1 + std::exp(-x)); }

// rms_norm in float64; `rounded` to bf16 as an operand of a product is.
std::vector<double> norm_reference(const std::vector<float>& x, const std::vector<Bf16>& w, int rows, int width) {
  std::vector<double> y(x.size());
  for (int r = 0; r < rows; ++r) {
    double squares = 0;
    for (int i = 0; i < width; ++i) squares += double(x[r * width + i]) * x[r * width + i];
    const double scale = 1 / std::sqrt(squares / width + eps);
    for (int i = 0; i < width; ++i) y[r * width + i] = x[r * width + i] * scale * as_float(w[i]);
  }
  return y;
}
template <class T>
std::vector<double> widen(const std::vector<T>& x) {
  std::vector<double> y(x.size());
  for (size_t i = 0; i < x.size(); ++i) y[i] = as_float(x[i]);
  return y;
}
std::vector<double> product_reference(const std::vector<double>& x, const Bf16* w, int rows, int n, int k) {
  std::vector<double> y(size_t(rows) * n);
  std::vector<float> wide(k);
  for (int c = 0; c < n; ++c) {
    for (int i = 0; i < k; ++i) wide[i] = as_float(w[size_t(c) * k + i]);
    for (int r = 0; r < rows; ++r) {
      double sum = 0;
      for (int i = 0; i < k; ++i) sum += x[size_t(r) * k + i] * wide[i];
      y[size_t(r) * n + c] = sum;
    }
  }
  return y;
}

// --- products --------------------------------------------------------------------------------------------------------

template <class P, class X, class Y>
__global__ void __launch_bounds__(P::value.tiling.threads(), P::value.tiling.residents) linear_kernel(const Step* step, const X* x, const Bf16* norm, const Bf16* w, const float* bias,
                                                                   const float* residual, Y* y) {
  linear<P::value>(step, x, norm, w, bias, residual, y);
}

template <class P, class X, class Y>
void check_linear(int rows, int blocks = 0) {
  constexpr auto p = P::value;
  const std::string name = tag(p.norm.on ? "linear norm" : "linear", {p.n, p.k, rows, p.tiling.rows, p.tiling.warps, p.tiling.span, p.tiling.stages, p.tiling.token_tiles, p.tiling.once, p.tiling.pitched, blocks});
  if (!wanted(name)) return;
  Buffer<X> x(size_t(rows) * p.k);
  Buffer<Bf16> w(size_t(p.n) * p.k), norm(p.k);
  Buffer<float> bias(p.n), residual(size_t(rows) * p.n);
  Buffer<Y> y(size_t(rows) * p.n);
  fill_normal(x, p.norm.on ? 3.0f : 1.0f), fill_normal(w, 1 / std::sqrt(float(p.k))), fill_normal(norm, 1), fill_normal(bias, 1), fill_normal(residual, 1);
  y.poison();
  DeviceStep step(rows, rows, 0);
  launch(linear_kernel<P, X, Y>, {dim3(blocks ? blocks : ceil_div(p.n, p.tiling.rows)), p.tiling.threads(), size_t(p.tiling.shared_bytes(p.k, p.norm.on))}, nullptr, step.get(), x.device, norm.device, w.device,
         bias.device, residual.device, y.device);
  CK(cudaDeviceSynchronize());
  std::vector<double> in = widen(x.host);
  if constexpr (p.norm.on) in = norm_reference(x.host, norm.host, rows, p.k);
  std::vector<double> want = product_reference(in, w.host.data(), rows, p.n, p.k);
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < p.n; ++c) want[size_t(r) * p.n + c] += (p.bias ? bias.host[c] : 0) + (p.residual ? residual.host[size_t(r) * p.n + c] : 0);
  }
  expect_close(name, y, want, p.norm.on ? normed_limit : sizeof(Y) == 2 ? bf16_limit : f32_limit);
}

template <class P, class X, class Y>
__global__ void __launch_bounds__(P::value.tiling.threads(), P::value.tiling.residents) swiglu_product_kernel(const Step* step, const X* x, const Bf16* norm, const Bf16* w, const float* bias, Y* y) {
  linear_swiglu<P::value>(step, x, norm, w, bias, y);
}

template <class P, class X, class Y>
void check_swiglu_product(int rows, int blocks = 0) {
  constexpr auto p = P::value;
  const std::string name = tag(p.norm.on ? "linear_swiglu norm" : "linear_swiglu", {p.m, p.k, p.group, rows, p.tiling.warps, p.tiling.token_tiles, blocks});
  if (!wanted(name)) return;
  Buffer<X> x(size_t(rows) * p.k);
  Buffer<Bf16> w(size_t(2) * p.m * p.k), norm(p.k);
  Buffer<float> bias(2 * p.m);
  Buffer<Y> y(size_t(rows) * p.m);
  fill_normal(x, 1), fill_normal(w, 1 / std::sqrt(float(p.k))), fill_normal(norm, 1), fill_normal(bias, 1);
  y.poison();
  DeviceStep step(rows, rows, 0);
  launch(swiglu_product_kernel<P, X, Y>, {dim3(blocks ? blocks : ceil_div(2 * p.m, p.tiling.rows)), p.tiling.threads(), size_t(p.tiling.shared_bytes(p.k, p.norm.on))}, nullptr, step.get(), x.device, norm.device, w.device, bias.device, y.device);
  CK(cudaDeviceSynchronize());
  std::vector<double> in = widen(x.host);
  if constexpr (p.norm.on) in = norm_reference(x.host, norm.host, rows, p.k);
  const std::vector<double> both = product_reference(in, w.host.data(), rows, 2 * p.m, p.k);
  std::vector<double> want(size_t(rows) * p.m);
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < p.m; ++c) {
      const int g = c / p.group * 2 * p.group + c % p.group, u = g + p.group;
      want[size_t(r) * p.m + c] = silu64(both[size_t(r) * 2 * p.m + g] + (p.bias ? bias.host[g] : 0)) * (both[size_t(r) * 2 * p.m + u] + (p.bias ? bias.host[u] : 0));
    }
  }
  expect_close(name, y, want, p.norm.on ? normed_limit : sizeof(Y) == 2 ? bf16_limit : f32_limit);
}

template <class P, class X>
__global__ void __launch_bounds__(P::value.tiling.threads(), P::value.tiling.residents) head_kernel(const Step* step, const X* x, const Bf16* norm, const Bf16* w, const float* bias, float* logits, int32_t* ids,
                                                                 void* workspace, unsigned* arrivals) {
  head_argmax<P::value>(step, x, norm, w, bias, logits, ids, workspace, arrivals);
}

std::vector<int32_t> argmax_reference(const std::vector<float>& logits, int rows, int n) {
  std::vector<int32_t> ids(rows, 0);
  for (int r = 0; r < rows; ++r) {
    float best = -INFINITY;
    for (int i = 0; i < n; ++i) {
      if (logits[size_t(r) * n + i] > best) best = logits[size_t(r) * n + i], ids[r] = i;
    }
  }
  return ids;
}

template <class P, class X>
void check_head(int rows, int blocks) {
  constexpr auto p = P::value;
  const std::string name = tag("head_argmax", {p.n, p.k, rows, blocks, p.tiling.rows});
  if (!wanted(name)) return;
  Buffer<X> x(size_t(rows) * p.k);
  Buffer<Bf16> w(size_t(p.n) * p.k), norm(p.k);
  Buffer<float> bias(p.n), logits(size_t(rows) * p.n);
  Buffer<int32_t> ids(rows);
  Buffer<char> workspace(head_argmax_workspace(rows, blocks));
  Buffer<unsigned> arrivals(1);
  arrivals.upload();
  fill_normal(x, 1), fill_normal(w, 1 / std::sqrt(float(p.k))), fill_normal(norm, 1), fill_normal(bias, 1);
  // A tie: two equal rows that are large for everybody is not to be had; equal rows give equal logits, and if either wins it is the first.
  for (int i = 0; i < p.k; ++i) w.host[size_t(p.n - 1) * p.k + i] = w.host[size_t(p.n / 2) * p.k + i];
  w.upload();
  DeviceStep step(rows, rows, 0);
  for (int again = 0; again < 2; ++again) {
    logits.poison(), ids.poison(), workspace.poison();
    launch(head_kernel<P, X>, {dim3(blocks), p.tiling.threads(), size_t(p.tiling.shared_bytes(p.k, p.norm.on))}, nullptr, step.get(), x.device, norm.device, w.device, bias.device, logits.device, ids.device, (void*)workspace.device,
           arrivals.device);
    CK(cudaDeviceSynchronize());
    std::vector<double> in = widen(x.host);
    if constexpr (p.norm.on) in = norm_reference(x.host, norm.host, rows, p.k);
    std::vector<double> want = product_reference(in, w.host.data(), rows, p.n, p.k);
    if (p.bias) for (size_t i = 0; i < want.size(); ++i) want[i] += bias.host[i % p.n];
    expect_close(name, logits, want, p.norm.on ? normed_limit : f32_limit);
    expect_equal(name + " ids", ids, argmax_reference(logits.host, rows, p.n));
  }
}

// --- rows --------------------------------------------------------------------------------------------------------------

template <class P, bool add, class W, class Out>
__global__ void norm_kernel(const Step* step, const float* x, const float* residual, const W* w, float* sum, Out* y) {
  if constexpr (add) add_rms_norm<P::value>(step, x, residual, w, sum, y);
  else rms_norm<P::value>(step, x, w, y);
}
template <class P, bool add, class Out>
void check_norm(int rows) {
  constexpr auto p = P::value;
  const std::string name = tag(add ? "add_rms_norm" : "rms_norm", {p.width, rows});
  if (!wanted(name)) return;
  Buffer<float> x(size_t(rows) * p.width), residual(x.count), sum(x.count);
  Buffer<Bf16> w(p.width);
  Buffer<Out> y(x.count);
  fill_normal(x, 2), fill_normal(residual, 1), fill_normal(w, 1);
  sum.poison(), y.poison();
  DeviceStep step(rows, rows, 0);
  launch(norm_kernel<P, add, Bf16, Out>, {dim3(rows), p.threads}, nullptr, step.get(), x.device, residual.device, w.device, sum.device, y.device);
  CK(cudaDeviceSynchronize());
  std::vector<float> in = x.host;
  if (add) {
    for (size_t i = 0; i < in.size(); ++i) in[i] += residual.host[i];
    expect_close(name + " sum", sum, widen(in), f32_limit);
  }
  expect_close(name, y, norm_reference(in, w.host, rows, p.width), sizeof(Out) == 2 ? bf16_limit : f32_limit);
}

template <class P> __global__ void add_kernel(const Step* s, const float* a, const float* b, float* out) { add<P::value>(s, a, b, out); }
template <class P, class In, class Out> __global__ void cast_kernel(const Step* s, const In* x, Out* out) { cast<P::value>(s, x, out); }
template <class P, class Out> __global__ void swiglu_kernel(const Step* s, const float* g, const float* u, Out* out) { swiglu<P::value>(s, g, u, out); }
template <class P, class T> __global__ void gather_kernel(const Step* s, const T* x, const int32_t* i, T* out) { gather_rows<P::value>(s, x, i, out); }
template <class P> __global__ void embedding_kernel(const Step* s, const int32_t* ids, const Bf16* table, float* out) { embedding<P::value>(s, ids, table, out); }
template <class A, class B> __global__ void split_kernel(const Step* s, const float* x, float* left, float* right) {
  start_dependents(), wait_for_inputs();
  copy_columns<A::value>(s->tokens, x, left), copy_columns<B::value>(s->tokens, x + A::value.width, right);
}
template <class P> __global__ void argmax_kernel(const Step* s, const float* x, int32_t* out) { argmax<P::value>(s, x, out); }

CASE(Odd, Elementwise{100});
CASE(OddLeft, CopyColumns{40, 100, 40});
CASE(OddRight, CopyColumns{60, 100, 60});
CASE(OddArgmax, Argmax{100});
void check_elementwise(int rows) {
  const std::string name = tag("elementwise", {rows});
  if (!wanted(name)) return;
  constexpr int width = Odd::value.width;
  using P = Odd;
  Buffer<float> a(rows * width), b(rows * width), out(rows * width), left(rows * 40), right(rows * 60);
  Buffer<Bf16> half(rows * width), table(37 * width);
  Buffer<int32_t> index(rows), ids(rows);
  fill_normal(a, 1), fill_normal(b, 1), fill_normal(table, 1);
  for (int& i : index.host) i = random_engine()() % rows;
  for (int& i : ids.host) i = random_engine()() % 37;
  index.upload(), ids.upload();
  DeviceStep step(rows, rows, 0);
  const Launch shape{dim3(ceil_div(rows * width / 4, 256)), 256};
  std::vector<double> want(a.count);
  out.poison(), launch(add_kernel<P>, shape, nullptr, step.get(), a.device, b.device, out.device);
  for (size_t i = 0; i < want.size(); ++i) want[i] = double(a.host[i]) + b.host[i];
  expect_close(name + " add", out, want, f32_limit);
  half.poison(), launch(cast_kernel<P, float, Bf16>, shape, nullptr, step.get(), a.device, half.device);
  expect_close(name + " cast", half, widen(a.host), bf16_limit);
  out.poison(), launch(cast_kernel<P, Bf16, float>, shape, nullptr, step.get(), half.device, out.device);
  half.download();
  expect_close(name + " widen", out, widen(half.host), 0);
  half.poison(), launch(swiglu_kernel<P, Bf16>, shape, nullptr, step.get(), a.device, b.device, half.device);
  for (size_t i = 0; i < want.size(); ++i) want[i] = silu64(a.host[i]) * b.host[i];
  expect_close(name + " swiglu", half, want, bf16_limit);
  out.poison(), launch(gather_kernel<P, float>, shape, nullptr, step.get(), a.device, index.device, out.device);
  for (size_t i = 0; i < want.size(); ++i) want[i] = a.host[index.host[i / width] * width + i % width];
  expect_close(name + " gather", out, want, 0);
  out.poison(), launch(embedding_kernel<P>, shape, nullptr, step.get(), ids.device, table.device, out.device);
  for (size_t i = 0; i < want.size(); ++i) want[i] = as_float(table.host[ids.host[i / width] * width + i % width]);
  expect_close(name + " embedding", out, want, 0);
  left.poison(), right.poison();
  launch(split_kernel<OddLeft, OddRight>, shape, nullptr, step.get(), a.device, left.device, right.device);
  std::vector<double> l(left.count), r(right.count);
  for (size_t i = 0; i < l.size(); ++i) l[i] = a.host[i / 40 * width + i % 40];
  for (size_t i = 0; i < r.size(); ++i) r[i] = a.host[i / 60 * width + 40 + i % 60];
  expect_close(name + " split", left, l, 0), expect_close(name + " split", right, r, 0);
  Buffer<int32_t> best(rows);
  best.poison(), launch(argmax_kernel<OddArgmax>, {dim3(rows), 1024}, nullptr, step.get(), a.device, best.device);
  expect_equal(name + " argmax", best, argmax_reference(a.host, rows, width));
}

// --- attention ---------------------------------------------------------------------------------------------------------

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

// --- experts -----------------------------------------------------------------------------------------------------------

// Logits against float64, the choice against the kernel's own logits, where near ties cannot differ by much.
template <class Problem, class W>
void check_choice(const std::string& name, const Problem& p, const std::vector<double>& in, Buffer<W>& gate, Buffer<float>& correction, Buffer<float>& logits, Buffer<int32_t>& indices, Buffer<float>& weights, int tokens) {
  std::vector<double> want(size_t(tokens) * p.experts), want_weights(weights.count);
  for (int t = 0; t < tokens; ++t) {
    for (int e = 0; e < p.experts; ++e) {
      double sum = 0;
      for (int i = 0; i < p.hidden; ++i) sum += in[size_t(t) * p.hidden + i] * as_float(gate.host[size_t(e) * p.hidden + i]);
      want[size_t(t) * p.experts + e] = sum;
    }
  }
  expect_close(name + " logits", logits, want, f32_limit);
  std::vector<int32_t> want_indices;
  for (int t = 0; t < tokens; ++t) {
    std::vector<double> prob(p.experts), key(p.experts);
    double top = -INFINITY, sum = 0;
    for (int e = 0; e < p.experts; ++e) top = std::max(top, double(logits.host[size_t(t) * p.experts + e]));
    for (int e = 0; e < p.experts; ++e) sum += prob[e] = std::exp(logits.host[size_t(t) * p.experts + e] - top);
    for (int e = 0; e < p.experts; ++e) prob[e] /= sum, key[e] = prob[e] + (p.correction ? correction.host[e] : 0);
    std::vector<int> order(p.experts);
    for (int e = 0; e < p.experts; ++e) order[e] = e;
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return key[a] > key[b]; });
    double norm_sum = 0;
    for (int j = 0; j < p.chosen; ++j) norm_sum += prob[order[j]];
    for (int j = 0; j < p.chosen; ++j) want_indices.push_back(order[j]), want_weights[size_t(t) * p.chosen + j] = prob[order[j]] / std::max(norm_sum, double(p.norm_min));
  }
  expect_equal(name + " indices", indices, want_indices);
  expect_close(name + " weights", weights, want_weights, f32_limit);
}

template <class P, class W>
__global__ void __launch_bounds__(P::value.warps * 32, 1) router_kernel(const Step* s, const float* x, const Bf16* norm, const W* gate, const float* correction, Bf16* normed, float* logits,
                                                             int32_t* indices, float* weights) {
  moe_router<P::value>(s, x, norm, gate, correction, normed, logits, indices, weights);
}
template <class P, class W>
void check_router(int tokens, int groups) {
  constexpr auto p = P::value;
  const std::string name = tag("moe_router", {p.experts, p.hidden, p.chosen, p.norm.on, tokens, p.cluster, groups});
  if (!wanted(name)) return;
  Buffer<float> x(size_t(tokens) * p.hidden), correction(p.experts), logits(size_t(tokens) * p.experts), weights(size_t(tokens) * p.chosen);
  Buffer<Bf16> norm(p.hidden), normed(size_t(tokens) * p.hidden);
  Buffer<W> gate(size_t(p.experts) * p.hidden);
  Buffer<int32_t> indices(size_t(tokens) * p.chosen);
  fill_normal(x, 1), fill_normal(correction, 0.02f), fill_normal(norm, 1), fill_normal(gate, 2 / std::sqrt(float(p.hidden)));
  logits.poison(), weights.poison(), normed.poison(), indices.poison();
  DeviceStep step(tokens, tokens, 0);
  launch(router_kernel<P, W>, {dim3(p.cluster, groups), p.warps * 32, 0, p.cluster}, nullptr, step.get(), x.device, norm.device, gate.device, correction.device, normed.device, logits.device,
         indices.device, weights.device);
  CK(cudaDeviceSynchronize());
  std::vector<double> in = widen(x.host);
  if constexpr (p.norm.on) {
    in = norm_reference(x.host, norm.host, tokens, p.hidden);
    expect_close(name + " normed", normed, in, bf16_limit);
  }
  check_choice(name, p, in, gate, correction, logits, indices, weights, tokens);
}

template <class P> __global__ void __launch_bounds__(P::value.tiling.threads(), P::value.tiling.residents) up_kernel(const Step* s, const Bf16* x, const int32_t* i, const Bf16* w, Bf16* out) { moe_up<P::value>(s, x, i, w, out); }
template <class P> __global__ void __launch_bounds__(P::value.tiling.threads(), P::value.tiling.residents) down_kernel(const Step* s, const Bf16* act, const int32_t* i, const float* w, const Bf16* down, const float* addend, float* out) {
  moe_down<P::value>(s, act, i, w, down, addend, out);
}
template <class P> __global__ void __launch_bounds__(P::value.tiling.threads(), P::value.tiling.residents) expert_kernel(const Step* s, const Bf16* x, const int32_t* i, const Bf16* w, float* y) { expert_linear<P::value>(s, x, i, w, y); }
template <class P> __global__ void combine_kernel(const Step* s, const float* rows, const int32_t* i, const float* w, const float* addend, float* out) { moe_combine<P::value>(s, rows, i, w, addend, out); }

template <class Up> struct FirstLinear { static constexpr ExpertLinear value{2 * Up::value.m, Up::value.hidden, Up::value.experts, Up::value.chosen, false, Rows::tokens, Up::value.tiling}; };
template <class Down> struct SecondLinear { static constexpr ExpertLinear value{Down::value.hidden, Down::value.m, Down::value.experts, Down::value.chosen, true, Rows::tokens, Down::value.tiling}; };
template <class Up> struct CombineOf { static constexpr MoeCombine value{Up::value.hidden, Up::value.chosen, true}; };

// `pattern` 0: random choices; 1: everybody chooses the same; 2: the first half of the experts stay empty.
template <class Up, class Down>
void check_experts(int tokens, int pattern) {
  constexpr MoeFfn up = Up::value, down = Down::value;
  const std::string name = tag("moe_ffn", {up.hidden, up.m, up.experts, up.chosen, tokens, pattern});
  if (!wanted(name)) return;
  constexpr int hidden = up.hidden, m = up.m, experts = up.experts, chosen = up.chosen;
  const int choices = tokens * chosen;
  Buffer<Bf16> x(size_t(tokens) * hidden), gate_up(size_t(experts) * 2 * m * hidden), down_w(size_t(experts) * hidden * m), act(size_t(choices) * m);
  Buffer<int32_t> indices(choices);
  Buffer<float> weights(choices), addend(size_t(tokens) * hidden), out(size_t(tokens) * hidden), rows(size_t(choices) * 2 * m), back(size_t(choices) * hidden);
  fill_normal(x, 1), fill_normal(gate_up, 1 / std::sqrt(float(hidden))), fill_normal(down_w, 1 / std::sqrt(float(m))), fill_normal(addend, 1);
  std::vector<int> ids(experts);
  for (int e = 0; e < experts; ++e) ids[e] = e;
  for (int t = 0; t < tokens; ++t) {
    if (pattern != 1) std::shuffle(ids.begin() + (pattern == 2 && experts / 2 >= chosen ? experts / 2 : 0), ids.end(), random_engine());
    for (int j = 0; j < chosen; ++j) {
      indices.host[t * chosen + j] = ids[experts - 1 - j];
      weights.host[t * chosen + j] = 0.1f + float(random_engine()() % 1000) / 1000;
    }
  }
  indices.upload(), weights.upload();
  DeviceStep step(tokens, tokens, 0);
  act.poison(), out.poison();
  launch(up_kernel<Up>, {dim3(37), up.tiling.threads(), size_t(up.tiling.shared_bytes(hidden, false))}, nullptr, step.get(), x.device, indices.device, gate_up.device, act.device);
  launch(down_kernel<Down>, {dim3(ceil_div(hidden, down.tiling.rows)), down.tiling.threads(), size_t(down.tiling.shared_bytes(m, false))}, nullptr, step.get(), act.device, indices.device, weights.device, down_w.device, addend.device, out.device);
  CK(cudaDeviceSynchronize());
  std::vector<double> want_act(act.count), want_rows(rows.count), want = widen(addend.host);
  for (int c = 0; c < choices; ++c) {
    std::vector<double> row(hidden);
    for (int i = 0; i < hidden; ++i) row[i] = as_float(x.host[size_t(c / chosen) * hidden + i]);
    const int e = indices.host[c];
    const auto both = product_reference(row, gate_up.host.data() + size_t(e) * 2 * m * hidden, 1, 2 * m, hidden);
    std::copy(both.begin(), both.end(), want_rows.begin() + size_t(c) * 2 * m);
    for (int i = 0; i < m; ++i) {
      const int g = i / up.group * 2 * up.group + i % up.group;
      want_act[size_t(c) * m + i] = silu64(both[g]) * both[g + up.group];
    }
  }
  expect_close(name + " up", act, want_act, bf16_limit);
  std::vector<double> want_back(back.count);
  for (int c = 0; c < choices; ++c) {
    std::vector<double> row(m);
    for (int i = 0; i < m; ++i) row[i] = as_float(act.host[size_t(c) * m + i]);
    const auto y = product_reference(row, down_w.host.data() + size_t(indices.host[c]) * hidden * m, 1, hidden, m);
    for (int i = 0; i < hidden; ++i) want[size_t(c / chosen) * hidden + i] += weights.host[c] * y[i], want_back[size_t(c) * hidden + i] = y[i];
  }
  expect_close(name + " down", out, want, f32_limit);
  // The parts that a build without fusion uses.
  rows.poison(), back.poison(), out.poison();
  launch(expert_kernel<FirstLinear<Up>>, {dim3(50), up.tiling.threads(), size_t(up.tiling.shared_bytes(hidden, false))}, nullptr, step.get(), x.device, indices.device, gate_up.device, rows.device);
  expect_close(name + " expert_linear", rows, want_rows, f32_limit);
  launch(expert_kernel<SecondLinear<Down>>, {dim3(131), down.tiling.threads(), size_t(down.tiling.shared_bytes(m, false))}, nullptr, step.get(), act.device, indices.device, down_w.device, back.device);
  expect_close(name + " expert_linear", back, want_back, f32_limit);
  launch(combine_kernel<CombineOf<Up>>, {dim3(ceil_div(size_t(tokens) * hidden / 4, 256)), 256}, nullptr, step.get(), back.device, indices.device, weights.device, addend.device, out.device);
  expect_close(name + " combine", out, want, f32_limit);
}

// --- norm and router, also beside a product ---------------------------------------------------------------------------

__device__ unsigned router_arrivals[64];
template <class P, class W>
__global__ void __launch_bounds__(P::value.warps * 32, 1) norm_router_kernel(const Step* s, const float* x, const Bf16* norm, const W* gate, const float* correction, Bf16* normed, float* logits, int32_t* indices, float* weights) {
  norm_router<P::value>(s, x, norm, gate, correction, normed, logits, indices, weights, router_arrivals);
}
template <class P, class W>
__global__ void __launch_bounds__(P::value.tiling.threads(), P::value.tiling.residents) router_swiglu_kernel(const Step* s, const float* x, const Bf16* norm, const W* gate, const float* correction, const Bf16* weight, Bf16* normed,
                                                                          float* logits, int32_t* indices, float* weights, Bf16* hidden) {
  router_swiglu<P::value>(s, x, norm, gate, correction, weight, normed, logits, indices, weights, hidden, router_arrivals);
}

// With P::value a RouterSwiglu the product beside it too.
template <class P, bool with_product, class W>
void check_norm_router(int tokens, int blocks) {
  constexpr NormRouter p = [] {
    if constexpr (with_product) return P::value.router;
    else return P::value;
  }();
  const std::string name = tag(with_product ? "router_swiglu" : "norm_router", {p.experts, p.hidden, p.chosen, tokens, p.routers, p.most, blocks});
  if (!wanted(name)) return;
  Buffer<float> x(size_t(tokens) * p.hidden), correction(p.experts), logits(size_t(tokens) * p.experts), weights(size_t(tokens) * p.chosen);
  Buffer<Bf16> norm(p.hidden), normed(size_t(tokens) * p.hidden);
  Buffer<W> gate(size_t(p.experts) * p.hidden);
  Buffer<int32_t> indices(size_t(tokens) * p.chosen);
  int m = 8, group = 8;
  if constexpr (with_product) m = P::value.m, group = P::value.group;
  Buffer<Bf16> weight(size_t(2) * m * p.hidden), hidden(size_t(tokens) * m);
  fill_normal(correction, 0.02f), fill_normal(norm, 1), fill_normal(gate, 2 / std::sqrt(float(p.hidden))), fill_normal(weight, 1 / std::sqrt(float(p.hidden)));
  DeviceStep step(tokens, tokens, 0);
  for (int again = 0; again < 2; ++again) {  // counters are left as they were
    fill_normal(x, 2);
    logits.poison(), weights.poison(), normed.poison(), indices.poison(), hidden.poison();
    if constexpr (with_product) {
      constexpr ProductTiling tiling = P::value.tiling;
      launch(router_swiglu_kernel<P, W>, {dim3(blocks), tiling.threads(), size_t(tiling.shared_bytes(p.hidden, true))}, nullptr, step.get(), x.device, norm.device, gate.device, correction.device, weight.device, normed.device, logits.device,
             indices.device, weights.device, hidden.device);
    } else {
      launch(norm_router_kernel<P, W>, {dim3(p.routers, ceil_div(tokens, p.most)), p.warps * 32, size_t(p.most) * p.hidden * 4}, nullptr, step.get(), x.device, norm.device, gate.device, correction.device, normed.device, logits.device,
             indices.device, weights.device);
    }
    CK(cudaDeviceSynchronize());
    const std::vector<double> in = norm_reference(x.host, norm.host, tokens, p.hidden);
    expect_close(name + " normed", normed, in, bf16_limit);
    check_choice(name, p, in, gate, correction, logits, indices, weights, tokens);
    if (!with_product) continue;
    const std::vector<double> both = product_reference(in, weight.host.data(), tokens, 2 * m, p.hidden);
    std::vector<double> want(size_t(tokens) * m);
    for (int r = 0; r < tokens; ++r) {
      for (int c = 0; c < m; ++c) {
        const int g = c / group * 2 * group + c % group;
        want[size_t(r) * m + c] = silu64(both[size_t(r) * 2 * m + g]) * both[size_t(r) * 2 * m + g + group];
      }
    }
    expect_close(name + " product", hidden, want, normed_limit);
  }
}

// --- products of 17 to 64 rows ----------------------------------------------------------------------------------------

template <class P, class Y>
__global__ void __launch_bounds__(wide_threads, P::value.tiling.residents) wide_kernel(const Step* step, const float* bias, const float* residual, Y* y, const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weight) {
  wide_linear<P::value>(step, &x, &weight, bias, residual, y);
}
template <class P>
__global__ void __launch_bounds__(wide_threads, P::value.tiling.residents) wide_head_kernel(const Step* step, const float* bias, float* logits, int32_t* ids, void* workspace, unsigned* arrivals, const __grid_constant__ TensorMap x,
                                                                      const __grid_constant__ TensorMap weight) {
  wide_head<P::value>(step, &x, &weight, bias, logits, ids, workspace, arrivals);
}

template <class P, class Y>
void check_wide(int rows) {
  constexpr WideLinear p = P::value;
  const std::string name = tag("wide", {p.n, p.k, rows, p.swiglu, p.group, p.tiling.cluster, p.tiling.stages});
  if (!wanted(name)) return;
  const int width = p.swiglu ? p.n / 2 : p.n;
  Buffer<Bf16> x(size_t(rows) * p.k), w(size_t(p.n) * p.k);
  Buffer<float> bias(p.n), residual(size_t(rows) * p.n);
  Buffer<Y> y(size_t(rows) * width);
  fill_normal(x, 1), fill_normal(w, 1 / std::sqrt(float(p.k))), fill_normal(bias, 1), fill_normal(residual, 1);
  y.poison();
  DeviceStep step(rows, rows, 0);
  launch(wide_kernel<P, Y>, {dim3(ceil_div(p.n, wide_rows) * p.tiling.cluster), wide_threads, size_t(wide_shared_bytes(p.tiling)), p.tiling.cluster}, nullptr, step.get(), bias.device, residual.device, y.device, row_map(x.device, rows, p.k),
         row_map(w.device, p.n, p.k));
  CK(cudaDeviceSynchronize());
  const std::vector<double> sums = product_reference(widen(x.host), w.host.data(), rows, p.n, p.k);
  std::vector<double> want(size_t(rows) * width);
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < width; ++c) {
      const auto at = [&](int column) { return sums[size_t(r) * p.n + column] + (p.bias ? bias.host[column] : 0); };
      const int g = c / p.group * 2 * p.group + c % p.group;
      want[size_t(r) * width + c] = p.swiglu ? silu64(at(g)) * at(g + p.group) : at(c) + (p.residual ? residual.host[size_t(r) * p.n + c] : 0);
    }
  }
  expect_close(name, y, want, sizeof(Y) == 2 ? bf16_limit : f32_limit);
}

template <class P>
void check_wide_head(int rows, int blocks) {
  constexpr WideHead p = P::value;
  const std::string name = tag("wide head", {p.n, p.k, rows, blocks});
  if (!wanted(name)) return;
  Buffer<Bf16> x(size_t(rows) * p.k), w(size_t(p.n) * p.k);
  Buffer<float> bias(p.n), logits(size_t(rows) * p.n);
  Buffer<int32_t> ids(rows);
  Buffer<char> workspace(head_argmax_workspace(rows, blocks));
  Buffer<unsigned> arrivals(1);
  arrivals.upload();
  fill_normal(x, 1), fill_normal(w, 1 / std::sqrt(float(p.k))), fill_normal(bias, 1);
  for (int i = 0; i < p.k; ++i) w.host[size_t(p.n - 1) * p.k + i] = w.host[size_t(p.n / 2) * p.k + i];  // a tie
  w.upload();
  DeviceStep step(rows, rows, 0);
  for (int again = 0; again < 2; ++again) {
    logits.poison(), ids.poison(), workspace.poison();
    launch(wide_head_kernel<P>, {dim3(blocks), wide_threads, size_t(wide_shared_bytes(p.tiling))}, nullptr, step.get(), bias.device, logits.device, ids.device, (void*)workspace.device, arrivals.device, row_map(x.device, rows, p.k),
           row_map(w.device, p.n, p.k));
    CK(cudaDeviceSynchronize());
    std::vector<double> want = product_reference(widen(x.host), w.host.data(), rows, p.n, p.k);
    if (p.bias) for (size_t i = 0; i < want.size(); ++i) want[i] += bias.host[i % p.n];
    expect_close(name, logits, want, f32_limit);
    expect_equal(name + " ids", ids, argmax_reference(logits.host, rows, p.n));
  }
}

constexpr Norm norm{true, eps};
constexpr Rows tokens = Rows::tokens;
CASE(Linear1Case, Linear{300, 96, true, false, {}, tokens, {16, 2, 0, 1, 1}});
CASE(Linear2Case, Linear{300, 96, true, true, {}, tokens, {8, 1, 64, 2, 2}});
CASE(Linear3Case, Linear{128, 320, false, true, norm, tokens, {8, 3, 128, 2, 1}});
CASE(Linear4Case, Linear{2560, 1024, false, false, norm, tokens, {16, 8, 0, 2, 1}});
CASE(Linear5Case, Linear{1024, 2048, false, true, {}, tokens, {8, 8, 1024, 3, 1}});
CASE(Linear6Case, Linear{1024, 3072, false, true, {}, tokens, {8, 12, 0, 2, 1}});
CASE(LinearSwiglu7Case, LinearSwiglu{320, 128, 32, false, {}, tokens, {16, 2, 0, 1, 1}});
CASE(LinearSwiglu8Case, LinearSwiglu{256, 96, 8, true, {}, tokens, {16, 3, 64, 2, 2}});
CASE(LinearSwiglu9Case, LinearSwiglu{3072, 1024, 32, false, norm, tokens, {16, 8, 0, 2, 1}});
CASE(HeadArgmax10Case, HeadArgmax{300, 96, true, {}, tokens, {16, 2, 0, 3, 1}});
CASE(HeadArgmax11Case, HeadArgmax{8192, 256, false, norm, tokens, {16, 4, 0, 3, 1}});
CASE(RmsNorm12Case, RmsNorm{96, eps});
CASE(RmsNorm13Case, RmsNorm{1024, eps});
CASE(RmsNorm14Case, RmsNorm{2560, eps});
CASE(Linear15Case, Linear{2560, 1024, false, false, {}, tokens, {16, 8, 0, 1, 8, true}});
CASE(Linear16Case, Linear{1024, 3072, false, true, {}, tokens, {16, 8, 1024, 2, 4}});
CASE(MoeRouter17Case, MoeRouter{64, 2560, 6, true, tokens, norm, 1e-12f, 8, 8});
CASE(MoeRouter18Case, MoeRouter{64, 2560, 6, true, tokens, {}, 1e-12f, 8, 8});
CASE(MoeRouter19Case, MoeRouter{16, 128, 4, false, tokens, {}, 1e-12f, 1, 4});
CASE(MoeFfn20Case, MoeFfn{128, 64, 8, 3, 32, true, tokens, {16, 2, 0, 1, 1}});
CASE(MoeFfn21Case, MoeFfn{128, 64, 8, 3, 32, true, tokens, {8, 2, 0, 3, 1}});
CASE(MoeFfn22Case, MoeFfn{256, 128, 16, 4, 32, true, tokens, {16, 4, 0, 2, 2}});
CASE(MoeFfn23Case, MoeFfn{256, 128, 16, 4, 32, true, tokens, {16, 2, 0, 3, 1}});
CASE(MoeFfn24Case, MoeFfn{2560, 1536, 8, 6, 32, true, tokens, {16, 10, 0, 2, 1, false, 1}});
CASE(MoeFfn25Case, MoeFfn{2560, 1536, 8, 6, 32, true, tokens, {8, 6, 0, 3, 1, false, 2}});
CASE(WholeTiles, Linear{300, 192, true, false, {}, tokens, {16, 3, 0, 2, 1, false, 2, 8, false}});
CASE(WholeParts, Linear{300, 160, true, true, {}, tokens, {8, 2, 64, 2, 2, false, 2, 8, false}});
CASE(WholeOnce, Linear{2560, 1024, false, false, norm, tokens, {16, 16, 0, 1, 1, true, 2, 1, false}});
CASE(WholeUp, LinearSwiglu{3072, 1024, 32, false, norm, tokens, {48, 8, 0, 1, 1, true, 1, 8, false}});
CASE(WholeHead, HeadArgmax{8192, 256, false, norm, tokens, {16, 4, 0, 3, 1, false, 2, 8, false}});
CASE(WholeExpertUp, MoeFfn{256, 128, 16, 4, 32, true, tokens, {16, 4, 0, 2, 2, false, 2, 8, false}});
CASE(WholeExpertDown, MoeFfn{256, 128, 16, 4, 32, true, tokens, {16, 2, 0, 3, 1, false, 2, 8, false}});
CASE(NormRouter1, NormRouter{16, 128, 4, true, norm, 1e-12f, 3, 4, 2});
CASE(NormRouter2, NormRouter{64, 2560, 6, true, norm, 1e-12f, 16, 16, 8});
CASE(RouterSwiglu1, RouterSwiglu{{16, 128, 4, false, norm, 1e-12f, 2, 8, 2}, 192, 32, {16, 2, 0, 2, 1, false, 1}});
CASE(RouterSwiglu2, RouterSwiglu{{64, 2560, 6, true, norm, 1e-12f, 4, 1, 10}, 3072, 32, {16, 10, 0, 2, 1, false, 1, 1, false}});
CASE(Wide1, WideLinear{300, 96, true, true, false, 32, tokens, {2, 1, 2}});
CASE(Wide2, WideLinear{2560, 1024, false, false, false, 32, tokens, {3, 4, 2}});
CASE(Wide3, WideLinear{1024, 3072, false, true, false, 32, tokens, {2, 8, 2}});
CASE(Wide4, WideLinear{320, 1000, true, false, true, 32, tokens, {3, 2, 2}});
CASE(Wide5, WideLinear{192, 2560, false, false, true, 8, tokens, {4, 4, 1}});
CASE(WideHead1, WideHead{300, 96, true, tokens, {3, 1, 1}});
CASE(WideHead2, WideHead{8192, 2560, false, tokens, {4, 1, 1}});
CASE(QkvOnce, Linear{2560, 1024, false, false, norm, tokens, {16, 8, 0, 1, 1, true}});
CASE(OOnce, Linear{1024, 2048, false, true, {}, tokens, {8, 8, 0, 1, 1, true}});
CASE(DownOnce, Linear{1024, 3072, false, true, {}, tokens, {8, 12, 1536, 2, 1, true}});
CASE(DownShort, Linear{1024, 3072, false, true, {}, tokens, {8, 8, 1000, 2, 1, true}});
CASE(Qkv48, Linear{1000, 1024, false, false, norm, tokens, {48, 8, 0, 1, 1, true}});
CASE(Up48, LinearSwiglu{3072, 1024, 32, false, norm, tokens, {48, 8, 0, 1, 1, true, 1}});
CASE(Up32, LinearSwiglu{328, 512, 8, true, {}, tokens, {32, 4, 256, 3, 1}});
CASE(QkvColumn, Linear{2560, 1024, false, false, norm, tokens, {16, 16, 0, 1, 1, true, 2, 1}});
CASE(OColumns, Linear{1024, 2048, true, true, {}, tokens, {8, 16, 0, 1, 1, false, 2, 2}});
CASE(UpColumn, LinearSwiglu{3072, 1024, 32, false, norm, tokens, {48, 8, 0, 1, 1, true, 2, 1}});
CASE(HeadColumn, HeadArgmax{8192, 256, false, norm, tokens, {16, 4, 0, 3, 1, false, 1, 1}});
CASE(UpOnce, LinearSwiglu{3072, 1024, 32, false, norm, tokens, {16, 8, 0, 1, 1, true}});

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) filter = argv[1];
  check_linear<QkvColumn, float, float>(1);
  check_linear<WholeOnce, float, float>(1);
  check_swiglu_product<UpColumn, float, Bf16>(1);
  for (int rows : {1, 2, 7, 8, 9, 17}) {
    check_linear<OColumns, Bf16, float>(rows, 33);
    check_head<HeadColumn, float>(rows, 57);
    check_linear<Linear1Case, Bf16, float>(rows);
    check_linear<Linear2Case, Bf16, Bf16>(rows, 5);
    check_linear<Linear3Case, float, float>(rows);
    check_linear<Linear4Case, float, float>(rows);
    check_linear<Linear5Case, Bf16, float>(rows);
    check_linear<Linear6Case, Bf16, float>(rows, 60);
    check_swiglu_product<LinearSwiglu7Case, Bf16, Bf16>(rows);
    check_swiglu_product<LinearSwiglu8Case, Bf16, float>(rows, 7);
    check_swiglu_product<LinearSwiglu9Case, float, Bf16>(rows);
    check_head<HeadArgmax10Case, Bf16>(rows, 7);
    check_head<HeadArgmax11Case, float>(rows, 130);
    check_linear<WholeTiles, Bf16, float>(rows, 11);
    check_linear<WholeParts, Bf16, float>(rows, 6);
    check_head<WholeHead, float>(rows, 130);
    if (rows <= 8) check_swiglu_product<WholeUp, float, Bf16>(rows);
    if (rows <= 8) {
      check_linear<QkvOnce, float, float>(rows);
      check_linear<OOnce, Bf16, float>(rows);
      check_linear<DownOnce, Bf16, float>(rows);
      check_linear<DownShort, Bf16, float>(rows);
      check_swiglu_product<UpOnce, float, Bf16>(rows);
      check_swiglu_product<Up48, float, Bf16>(rows);
      check_linear<Qkv48, float, float>(rows);
    }
    check_swiglu_product<Up32, Bf16, float>(rows, 13);
    check_elementwise(rows);
    check_norm<RmsNorm12Case, false, Bf16>(rows);
    check_norm<RmsNorm13Case, true, Bf16>(rows);
    check_norm<RmsNorm14Case, true, float>(rows);
  }
  check_linear<Linear15Case, Bf16, float>(64);
  check_linear<Linear16Case, Bf16, float>(131);

  check_attention<16, 2, 128, 64, 8, 8>({1}, {1});
  check_attention<16, 2, 128, 64, 8, 8>({129}, {1});
  check_attention<16, 2, 128, 64, 8, 4>({1500, 64, 65, 1, 17}, {1, 1, 1, 1, 1});
  check_attention<20, 4, 128, 64, 4, 8>({1027, 16, 33}, {1, 1, 1});
  check_attention<8, 2, 16, 16, 1, 4>({1, 37, 300}, {1, 1, 1});
  check_attention<3, 3, 32, 32, 2, 4>({100, 5}, {1, 1});
  check_attention<4, 2, 64, 64, 1, 8>({67, 64}, {1, 1});
  check_attention<16, 2, 128, 64, 8, 8, 8>({8001, 2100, 2048, 2049, 1}, {1, 1, 1, 1, 1});
  check_attention<20, 4, 128, 64, 8, 8, 4>({5000, 100, 3000}, {1, 1, 1});
  check_attention<8, 2, 16, 16, 1, 4, 4>({1, 37, 300, 130}, {1, 1, 1, 1});
  check_attention<3, 3, 32, 32, 2, 4, 4>({700, 5}, {1, 1});
  check_attention<16, 2, 128, 64, 4, 8, 1, 3>({385, 384, 300, 1600, 10}, {1, 1, 1, 1, 1});
  check_attention<20, 4, 128, 64, 1, 4, 1, 1>({1000, 7}, {1, 1});
  check_attention<16, 2, 128, 64, 8, 8, 8, 3>({8001, 400, 1000}, {1, 1, 1});
  check_attention<16, 2, 128, 64, 1, 8, 32, 1>({8001, 400, 1000, 127}, {1, 1, 1, 1});
  check_attention<20, 4, 128, 64, 2, 8, 8, 2>({3001, 500, 1000, 127}, {1, 1, 1, 1});
  check_attention<16, 2, 128, 64, 8, 8>({67}, {67});
  check_attention<20, 4, 128, 64, 8, 8>({300, 1, 129, 70}, {131, 1, 129, 1});
  check_attention<16, 2, 128, 64, 8, 8>({700}, {513});
  check_attention<20, 4, 128, 32, 8, 8>({129, 128, 500, 3}, {129, 128, 2, 3});
  check_attention<20, 4, 128, 64, 8, 8>({197, 500, 1, 260, 33, 700, 2, 131}, {5, 129, 1, 2, 33, 300, 1, 1});
  check_attention<16, 2, 128, 16, 8, 8>({1000, 1, 77, 300, 12}, {130, 1, 77, 1, 12});
  check_attention<8, 2, 16, 16, 1, 4>({100, 31}, {90, 31});
  check_attention<3, 3, 32, 32, 1, 4>({100, 31}, {13, 31});
  check_attention<4, 2, 64, 64, 1, 4>({256, 2}, {256, 2});

  for (int count : {1, 3, 67}) {
    check_router<MoeRouter17Case, float>(count, 2);
    check_router<MoeRouter18Case, Bf16>(count, 1);
    check_router<MoeRouter19Case, float>(count, 3);
    for (int pattern = 0; pattern < 3; ++pattern) {
      check_experts<MoeFfn20Case, MoeFfn21Case>(count, pattern);
      check_experts<MoeFfn22Case, MoeFfn23Case>(count, pattern);
    }
  }
  check_experts<MoeFfn24Case, MoeFfn25Case>(1, 0);
  for (int count : {1, 7, 8, 16, 64, 130}) check_experts<WholeExpertUp, WholeExpertDown>(count, count % 3);
  for (int count : {1, 3, 7, 17}) {
    check_norm_router<NormRouter1, false, float>(count, 0);
    check_norm_router<NormRouter2, false, Bf16>(4 * count - 1, 0);
    if (count <= 8) check_norm_router<RouterSwiglu1, true, Bf16>(count, 7);
  }
  check_norm_router<RouterSwiglu2, true, float>(1, 132);
  for (int rows : {1, 17, 33, 64}) {
    check_wide<Wide1, float>(rows);
    check_wide<Wide2, float>(rows);
    check_wide<Wide3, float>(rows);
    check_wide<Wide4, Bf16>(rows);
    check_wide<Wide5, Bf16>(rows);
    check_wide_head<WideHead1>(rows, 4);
    check_wide_head<WideHead2>(rows, 100);
  }
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures != 0;
}
