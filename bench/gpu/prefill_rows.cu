// What goes over rows in prefill, alone: norms, casts, rotation and append, the router, also with its norm. Routers are first compared with float64. usage: prefill_rows
#include "../../runtime/device/cuda/elementwise.cuh"
#include "../../runtime/device/cuda/moe_router_many.cuh"
#include "../../runtime/device/cuda/norm_router_many.cuh"
#include "../../runtime/device/cuda/rms_norm.cuh"
#include "harness.cuh"

using namespace ern::cuda;
using namespace bench;

namespace {

template <int experts_, int hidden_, int chosen_, bool correction_>
struct Router {
  static constexpr MoeRouter value{.experts = experts_, .hidden = hidden_, .chosen = chosen_, .correction = correction_};
};
template <class P>
__global__ void __launch_bounds__(256, 1) router_many(const Step* s, const float* x, const float* gate, const float* correction, float* logits, int32_t* indices, float* weights) {
  moe_router_many<P::value>(s, x, gate, correction, logits, indices, weights);
}
template <class P>
__global__ void __launch_bounds__(256, 1) router_each(const Step* s, const float* x, const float* gate, const float* correction, float* logits, int32_t* indices, float* weights) {
  moe_router<P::value>(s, x, nullptr, gate, correction, nullptr, logits, indices, weights);
}

template <class P>
struct RouterBuffers {
  static constexpr MoeRouter p = P::value;
  int tokens;
  Buffer<float> x, gate, correction, logits, weights;
  Buffer<int32_t> indices;
  DeviceStep step;
  explicit RouterBuffers(int tokens)
      : tokens(tokens), x(size_t(tokens) * p.hidden), gate(size_t(p.experts) * p.hidden), correction(p.experts), logits(size_t(tokens) * p.experts),
        weights(size_t(tokens) * p.chosen), indices(size_t(tokens) * p.chosen), step(tokens, 1, 1) {
    fill_normal(x, 1), fill_normal(correction, 0.02f), fill_normal(gate, 2 / std::sqrt(float(p.hidden)));
    logits.poison(), weights.poison(), indices.poison();
  }
  void many(cudaStream_t s) {
    launch(router_many<P>, {dim3(ceil_div(tokens, 16)), 256, size_t(moe_router_many_shared<p>())}, s, step.get(), x.device, gate.device, correction.device, logits.device, indices.device, weights.device);
  }
  void each(cudaStream_t s) {
    launch(router_each<P>, {dim3(8, tokens), 256, 0, 8}, s, step.get(), x.device, gate.device, correction.device, logits.device, indices.device, weights.device);
  }
};

template <class P>
struct NormBefore {
  static constexpr NormRouter value{.experts = P::value.experts, .hidden = P::value.hidden, .chosen = P::value.chosen, .correction = P::value.correction, .norm = {true, 1e-5f}};
};
template <class P>
__global__ void __launch_bounds__(RouteTile::threads, 2) norm_router_rows(const Step* s, const float* x, const Bf16* norm, const float* gate, const float* correction, Bf16* normed, float* logits, int32_t* indices,
                                                                                       float* weights) {
  norm_router_many<NormBefore<P>::value>(s, x, norm, gate, correction, normed, logits, indices, weights);
}
template <class P>
struct NormRouterBuffers : RouterBuffers<P> {
  Buffer<Bf16> norm, normed;
  explicit NormRouterBuffers(int tokens) : RouterBuffers<P>(tokens), norm(P::value.hidden), normed(this->x.count) { fill_normal(norm, 1), normed.poison(); }
  void all(cudaStream_t s) {
    launch(norm_router_rows<P>, {dim3(RouteTile::cluster, ceil_div(this->tokens, RouteTile::tokens)), RouteTile::threads, size_t(norm_router_many_shared<NormBefore<P>::value>()), RouteTile::cluster}, s, this->step.get(), this->x.device,
           norm.device, this->gate.device, this->correction.device, normed.device, this->logits.device, this->indices.device, this->weights.device);
  }
};

// What a router left, against float64 of the rows that it routes.
template <class P>
void check_choice(const std::string& name, RouterBuffers<P>& b, const std::vector<double>& rows, int tokens) {
  constexpr MoeRouter p = P::value;
  std::vector<double> want(size_t(tokens) * p.experts), want_weights(b.weights.count);
  for (int t = 0; t < tokens; ++t)
    for (int e = 0; e < p.experts; ++e)
      for (int i = 0; i < p.hidden; ++i) want[size_t(t) * p.experts + e] += rows[size_t(t) * p.hidden + i] * b.gate.host[size_t(e) * p.hidden + i];
  expect_close(name + " logits", b.logits, want, f32_limit);
  // The choice is checked on the kernel's own logits, where near ties cannot differ by much.
  std::vector<int32_t> want_indices;
  for (int t = 0; t < tokens; ++t) {
    const float* const logits = &b.logits.host[size_t(t) * p.experts];
    const double top = *std::max_element(logits, logits + p.experts);
    std::vector<double> prob(p.experts), key(p.experts);
    std::vector<int> order(p.experts);
    double sum = 0, norm = 0;
    for (int e = 0; e < p.experts; ++e) sum += prob[e] = std::exp(logits[e] - top), order[e] = e;
    for (int e = 0; e < p.experts; ++e) prob[e] /= sum, key[e] = prob[e] + (p.correction ? b.correction.host[e] : 0);
    std::stable_sort(order.begin(), order.end(), [&](int l, int r) { return key[l] > key[r]; });
    for (int j = 0; j < p.chosen; ++j) norm += prob[order[j]];
    for (int j = 0; j < p.chosen; ++j) want_indices.push_back(order[j]), want_weights[size_t(t) * p.chosen + j] = prob[order[j]] / norm;
  }
  expect_equal(name + " indices", b.indices, want_indices);
  expect_close(name + " weights", b.weights, want_weights, f32_limit);
}

template <class P>
void check_router(int tokens) {
  constexpr MoeRouter p = P::value;
  const std::string sizes = std::to_string(p.experts) + " " + std::to_string(p.hidden) + " tokens " + std::to_string(tokens);
  RouterBuffers<P> b(tokens);
  b.many(nullptr);
  CK(cudaDeviceSynchronize());
  check_choice("moe_router_many " + sizes, b, {b.x.host.begin(), b.x.host.end()}, tokens);

  NormRouterBuffers<P> n(tokens);
  n.all(nullptr);
  CK(cudaDeviceSynchronize());
  std::vector<double> rows(n.x.count);
  for (int t = 0; t < tokens; ++t) {
    const float* const x = &n.x.host[size_t(t) * p.hidden];
    double squares = 0;
    for (int i = 0; i < p.hidden; ++i) squares += double(x[i]) * x[i];
    for (int i = 0; i < p.hidden; ++i) rows[size_t(t) * p.hidden + i] = x[i] / std::sqrt(squares / p.hidden + 1e-5) * as_float(n.norm.host[i]);
  }
  expect_close("norm_router_many " + sizes + " normed", n.normed, rows, bf16_limit);
  check_choice("norm_router_many " + sizes, n, rows, tokens);
}

template <int width_> struct Width { static constexpr RmsNorm norm{width_, 1e-5f}; static constexpr Elementwise elements{.width = width_}; };
template <class P, class Out>
__global__ void __launch_bounds__(256, 1) norm(const Step* s, const float* x, const Bf16* w, Out* y) { rms_norm<P::norm>(s, x, w, y); }
template <class P>
__global__ void __launch_bounds__(256, 1) add_norm(const Step* s, const float* x, const float* r, const Bf16* w, float* sum, Bf16* y) { add_rms_norm<P::norm>(s, x, r, w, sum, y); }
template <class P>
__global__ void __launch_bounds__(256, 1) to_bf16(const Step* s, const float* x, Bf16* y) { cast<P::elements>(s, x, y); }

template <int heads, int kv_heads>
struct Append {
  static constexpr RopeKvAppend value{heads, {kv_heads, 128, 64, int64_t{2} * kv_heads * 64 * 128 * 2}};
};
__device__ const auto frequencies = rope_frequencies<128>(500000.0);
template <class P>
__global__ void __launch_bounds__(256, 1) append(const Step* s, const float* qkv, const int32_t* positions, const int32_t* slots, Bf16* q, Bf16* kv) {
  rope_kv_append<P::value>(s, qkv, positions, slots, frequencies, q, kv);
}

template <int width, int heads, int kv_heads>
void time_rows(int rows) {
  using W = Width<width>;
  using A = Append<heads, kv_heads>;
  constexpr int qkv_width = (heads + 2 * kv_heads) * 128;
  Buffer<float> x(size_t(rows) * width), r(x.count), sum(x.count), qkv(size_t(rows) * qkv_width);
  Buffer<Bf16> w(width), y(x.count), q(size_t(rows) * heads * 128), kv(size_t(rows) * 2 * kv_heads * 128);
  Buffer<int32_t> positions(size_t(rows) * 3), slots(rows);
  fill_normal(x, 1), fill_normal(r, 1), fill_normal(w, 1), fill_normal(qkv, 1);
  for (int i = 0; i < rows; ++i) positions.host[3 * i] = positions.host[3 * i + 1] = positions.host[3 * i + 2] = slots.host[i] = i;
  positions.upload(), slots.upload();
  DeviceStep step(rows, 1, 1);
  const int element_blocks = width >= 1024 ? rows * int(ceil_div(width, 1024)) : rows;
  const auto report = [&](const char* name, double bytes, double us) { std::printf("rows %5d width %4d %-16s %7.1f us %5.2f TB/s\n", rows, width, name, us, bytes / us / 1e6); };
  const double row_bytes = double(rows) * width * 4;
  report("rms_norm bf16", 1.5 * row_bytes, time_graph([&](cudaStream_t s) { launch(norm<W, Bf16>, {dim3(rows), 256}, s, step.get(), x.device, w.device, y.device); }, 4, 10));
  report("rms_norm f32", 2 * row_bytes, time_graph([&](cudaStream_t s) { launch(norm<W, float>, {dim3(rows), 256}, s, step.get(), x.device, w.device, sum.device); }, 4, 10));
  report("cast", 1.5 * row_bytes, time_graph([&](cudaStream_t s) { launch(to_bf16<W>, {dim3(element_blocks), 256}, s, step.get(), x.device, y.device); }, 4, 10));
  report("add_rms_norm", 3.5 * row_bytes, time_graph([&](cudaStream_t s) { launch(add_norm<W>, {dim3(rows), 256}, s, step.get(), x.device, r.device, w.device, sum.device, y.device); }, 4, 10));
  report("rope_kv_append", 1.5 * qkv_width * 4 * rows, time_graph([&](cudaStream_t s) { launch(append<A>, {dim3(rows), 256}, s, step.get(), qkv.device, positions.device, slots.device, q.device, kv.device); }, 4, 10));
}

}  // namespace

int main() {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  for (const int tokens : {1, 15, 64, 65, 200}) {
    check_router<Router<64, 2560, 6, true>>(tokens);
    check_router<Router<5, 36, 2, false>>(tokens);
    check_router<Router<130, 100, 8, true>>(tokens);
  }
  std::printf("checks: %d, failures: %d\n", checks, failures);
  for (const int rows : {2048, 8192}) {
    time_rows<1024, 16, 2>(rows);
    time_rows<2560, 20, 4>(rows);
    NormRouterBuffers<Router<64, 2560, 6, true>> b(rows);
    std::printf("rows %5d norm_router_many %.1f us\n", rows, time_graph([&](cudaStream_t s) { b.all(s); }, 2, 10));
    std::printf("rows %5d moe_router_many %.1f us\n", rows, time_graph([&](cudaStream_t s) { b.many(s); }, 2, 10));
    if (rows == 2048) std::printf("rows %5d moe_router, each row reads the gate: %.1f us\n", rows, time_graph([&](cudaStream_t s) { b.each(s); }, 2, 10));
  }
  return failures != 0;
}
