// Checks of norms and of what works value by value. See check.cu.
#pragma once

#include "../../../runtime/device/cuda/argmax.cuh"
#include "../../../runtime/device/cuda/elementwise.cuh"
#include "../../../runtime/device/cuda/rms_norm.cuh"
#include "common.cuh"

namespace {

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

}  // namespace
