// Checks of products of a few rows: linear, linear_swiglu, head_argmax. See check.cu.
#pragma once

#include "../../../runtime/device/cuda/head_argmax.cuh"
#include "../../../runtime/device/cuda/linear.cuh"
#include "../../../runtime/device/cuda/linear_swiglu.cuh"
#include "common.cuh"

namespace {

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

}  // namespace
