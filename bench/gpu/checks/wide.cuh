// Checks of products of 9 to 64 rows. See check.cu.
#pragma once

#include "../../../runtime/device/cuda/wide.cuh"
#include "../maps.cuh"
#include "common.cuh"

namespace {

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
  const std::string name = tag("wide", {p.n, p.k, rows, p.swiglu, p.group, p.tiling.cluster, p.tiling.stages, p.tiling.columns});
  if (!wanted(name)) return;
  const int width = p.swiglu ? p.n / 2 : p.n;
  Buffer<Bf16> x(size_t(rows) * p.k), w(size_t(p.n) * p.k);
  Buffer<float> bias(p.n), residual(size_t(rows) * p.n);
  Buffer<Y> y(size_t(rows) * width);
  fill_normal(x, 1), fill_normal(w, 1 / std::sqrt(float(p.k))), fill_normal(bias, 1), fill_normal(residual, 1);
  y.poison();
  DeviceStep step(rows, rows, 0);
  launch(wide_kernel<P, Y>, {dim3(ceil_div(p.n, wide_rows) * p.tiling.cluster), wide_threads, size_t(wide_shared_bytes(p.tiling)), p.tiling.cluster}, nullptr, step.get(), bias.device, residual.device, y.device, row_map(x.device, rows, p.k, p.tiling.columns),
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
  const std::string name = tag("wide head", {p.n, p.k, rows, blocks, p.tiling.columns});
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
    launch(wide_head_kernel<P>, {dim3(blocks), wide_threads, size_t(wide_head_shared_bytes(p.tiling))}, nullptr, step.get(), bias.device, logits.device, ids.device, (void*)workspace.device, arrivals.device, row_map(x.device, rows, p.k, p.tiling.columns),
           row_map(w.device, p.n, p.k));
    CK(cudaDeviceSynchronize());
    std::vector<double> want = product_reference(widen(x.host), w.host.data(), rows, p.n, p.k);
    if (p.bias) for (size_t i = 0; i < want.size(); ++i) want[i] += bias.host[i % p.n];
    expect_close(name, logits, want, f32_limit);
    expect_equal(name + " ids", ids, argmax_reference(logits.host, rows, p.n));
  }
}

}  // namespace
