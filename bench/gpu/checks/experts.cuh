// Checks of routers and experts. See check.cu.
#pragma once

#include "../../../runtime/device/cuda/moe_ffn.cuh"
#include "../../../runtime/device/cuda/moe_router.cuh"
#include "../maps.cuh"
#include "common.cuh"

namespace {

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
template <class P> __global__ void __launch_bounds__(P::value.norm.threads, 1) combine_norm_kernel(const Step* s, const float* rows, const int32_t* i, const float* w, const float* addend, const Bf16* norm, float* out, Bf16* normed) {
  moe_combine_norm<P::value>(s, rows, i, w, addend, norm, out, normed);
}
template <class Up> struct CombineNormOf { static constexpr CombineNorm value{{Up::value.hidden, 1e-5f}, Up::value.chosen, true, true}; };
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
  // With the norm behind it: the same sums to the bit.
  Buffer<float> again(out.count);
  Buffer<Bf16> norm(hidden), normed(out.count);
  fill_normal(norm, 1);
  again.poison(), normed.poison();
  launch(combine_norm_kernel<CombineNormOf<Up>>, {dim3(tokens), CombineNormOf<Up>::value.norm.threads}, nullptr, step.get(), back.device, indices.device, weights.device, addend.device, norm.device, again.device, normed.device);
  CK(cudaDeviceSynchronize());
  again.download();
  ++checks;
  if (std::memcmp(again.host.data(), out.host.data(), out.count * 4) != 0) ++failures, std::printf("FAIL %s combine_norm: other sums\n", name.c_str());
  expect_close(name + " combine_norm", normed, norm_reference(again.host, norm.host, tokens, hidden), bf16_limit);
}

}  // namespace
