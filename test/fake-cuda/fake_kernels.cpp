// Products as the kernels' names describe them, so that the tuner's whole path runs without a GPU. Slow and obvious; not in the kernels' order of sums.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <thread>

#include "fake_cuda.hpp"
#include "tools/tune_numbers.hpp"

namespace fake {
namespace {

struct Name {
  bool x_bf16 = false, out_bf16 = false, bias = false, norm = false, add = false;
  long n = 0, k = 0;

  explicit Name(const std::string& kernel) {
    char x[8] = "", out[8] = "";
    if (std::sscanf(kernel.c_str(), "linear_%7[a-z0-9]_%7[a-z0-9]_n%ld_k%ld", x, out, &n, &k) != 4) n = 0;
    x_bf16 = std::strcmp(x, "bf16") == 0, out_bf16 = std::strcmp(out, "bf16") == 0;
    const std::string rest = kernel + "_";
    bias = rest.find("_bias_") != rest.npos, norm = rest.find("_norm_") != rest.npos, add = rest.find("_add_") != rest.npos;
  }
};

float widen(uint16_t bits) {
  const uint32_t wide = uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}
uint16_t narrow(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return ern::tune::bf16_bits(bits);
}
float read(uint64_t at, bool bf16, long i) {
  return bf16 ? widen(reinterpret_cast<const uint16_t*>(at)[i]) : reinterpret_cast<const float*>(at)[i];
}
void write(uint64_t at, bool bf16, long i, float value) {
  if (bf16) reinterpret_cast<uint16_t*>(at)[i] = narrow(value);
  else reinterpret_cast<float*>(at)[i] = value;
}

void fill(const std::vector<uint64_t>& p) {
  const auto base = static_cast<uint32_t>(p[2]);
  float scale;
  std::memcpy(&scale, &p[3], 4);
  for (uint64_t i = 0; i < p[1]; ++i) write(p[0], p[4] != 0, static_cast<long>(i), ern::tune::weight_number(static_cast<uint32_t>(i), base, scale));
}

void product(const Name& name, const std::vector<uint64_t>& p, const std::string& behaviour) {
  const int32_t rows = *reinterpret_cast<const int32_t*>(p[0]);
  size_t next = 3;
  const uint64_t x = p[1], weight = p[2];
  const uint64_t bias = name.bias ? p[next++] : 0, norm = name.norm ? p[next++] : 0, residual = name.add ? p[next++] : 0, out = p[next];
  for (long row = 0; row < rows; ++row) {
    std::vector<double> in(static_cast<size_t>(name.k));
    double squares = 0;
    for (long i = 0; i < name.k; ++i) {
      in[static_cast<size_t>(i)] = read(x, name.x_bf16, row * name.k + i);
      squares += in[static_cast<size_t>(i)] * in[static_cast<size_t>(i)];
    }
    const double scale = name.norm ? 1 / std::sqrt(squares / static_cast<double>(name.k) + 1e-5) : 1;
    for (long i = 0; name.norm && i < name.k; ++i) {
      double& value = in[static_cast<size_t>(i)];
      value = widen(narrow(static_cast<float>(value * widen(reinterpret_cast<const uint16_t*>(norm)[i]))));
    }
    for (long column = 0; column < name.n; ++column) {
      double sum = 0;
      for (long i = 0; i < name.k; ++i) sum += in[static_cast<size_t>(i)] * read(weight, true, column * name.k + i);
      sum *= scale;
      if (bias) sum += read(bias, false, column);
      if (residual) sum += read(residual, name.out_bf16, row * name.n + column);
      if (behaviour == "wrong" && column == name.n - 1) sum += 1;
      write(out, name.out_bf16, row * name.n + column, static_cast<float>(sum));
    }
  }
  if (behaviour == "bits") *reinterpret_cast<uint8_t*>(out) ^= 1;
  if (behaviour == "overrun") write(out, name.out_bf16, rows * name.n, 0);
}

}  // namespace

size_t compute_parameters(const std::string& kernel) {
  if (kernel == "tune_fill") return 5;
  const Name name(kernel);
  return name.n > 0 ? 4u + name.bias + name.norm + name.add : 0;
}

void compute(const std::string& kernel, const std::vector<uint64_t>& parameters, bool timed) {
  State& s = state();
  if (kernel == "tune_fill") return fill(parameters);
  const bool meant = !s.variant.empty() && kernel.find(s.variant) != kernel.npos;
  const std::string behaviour = meant ? s.behaviour : "";
  if (behaviour == "hang") std::this_thread::sleep_for(std::chrono::hours(1));
  if (behaviour == "trap") s.sticky = 719;
  uint32_t hash = 0;
  for (const char c : kernel) hash = ern::tune::mix(hash + static_cast<unsigned char>(c));
  s.nanoseconds += 4000 + hash % 4000;
  if (!timed && behaviour != "idle") product(Name(kernel), parameters, behaviour);
}

}  // namespace fake
