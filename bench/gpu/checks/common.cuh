// What all checks share: cases, names, float64 references. See check.cu.
#pragma once

#include "../harness.cuh"

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

}  // namespace
