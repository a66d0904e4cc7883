// Checks of a norm and a router in one launch, also beside a product. See check.cu.
#pragma once

#include "../../../runtime/device/cuda/norm_router.cuh"
#include "common.cuh"
#include "experts.cuh"

namespace {

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
      launch(norm_router_kernel<P, W>, {dim3(p.routers, ceil_div(tokens, p.most)), p.warps * 32}, nullptr, step.get(), x.device, norm.device, gate.device, correction.device, normed.device, logits.device,
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

}  // namespace
