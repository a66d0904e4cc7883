// linear_swiglu against doubles for each group, at widths that end inside a panel; every row has the same bits in any batch on any number of threads.
#include "device/cpu/linear_swiglu.hpp"

#include "matmul_support.hpp"

using namespace test;
using ern::cpu::LinearSwiglu;

namespace {

constexpr int most_rows = 40;

template <LinearSwiglu problem, class X, class W, class Y>
void check() {
  constexpr int m = problem.m, k = problem.k;
  Random random(m * 31 + k);
  const auto x = random_values<X>(most_rows * k, 1.0f, random);
  const auto gate = random_values<W>(m * k, 0.4f, random);
  const auto up = random_values<W>(m * k, 0.4f, random);
  const auto gate_bias = random_values<float>(m, 1.0f, random);
  const auto up_bias = random_values<float>(m, 1.0f, random);
  const auto packed = pack(interleave(gate, up, m, k, problem.group), 2 * m, k);
  const auto bias = interleave(gate_bias, up_bias, m, 1, problem.group);
  const auto g = product(x.data(), most_rows, gate.data(), m, k), u = product(x.data(), most_rows, up.data(), m, k);
  std::vector<double> want(most_rows * m);
  for (int i = 0; i < most_rows * m; ++i) {
    want[i] = problem.bias ? silu(g[i] + gate_bias[i % m]) * (u[i] + up_bias[i % m]) : silu(g[i]) * u[i];
  }

  const float* b = problem.bias ? bias.data() : nullptr;
  Buffer<Y> whole(most_rows * m);
  run_team(1, [&](Team& team) { ern::cpu::linear_swiglu<problem>(most_rows, x.data(), packed.data(), b, whole.data(), team); });
  const double off = nmse(whole.data(), want);
  CHECK(off < bar<Y>, "m %d k %d group %d: nmse %.3g", m, k, problem.group, off);
  for (const int rows : {1, 2, 5, 8, 17, 40}) {
    for (const int threads : {1, 2, 3, 9}) {
      const int first = most_rows - rows;
      Buffer<Y> y(rows * m);
      run_team(threads, [&](Team& team) { ern::cpu::linear_swiglu<problem>(rows, x.data() + first * k, packed.data(), b, y.data(), team); });
      CHECK(std::memcmp(y.data(), whole.data() + first * m, rows * m * sizeof(Y)) == 0 && y.intact(),
            "m %d k %d: %d rows on %d threads differ", m, k, rows, threads);
    }
  }
}

template <int M, int K, int Group, bool Bias = false>
void check_types() {
  constexpr LinearSwiglu problem{.m = M, .k = K, .group = Group, .bias = Bias, .tiling = {.k_block = 32, .few_block = 16, .few = 2, .row_block = 24}};
  check<problem, Bf16, Bf16, Bf16>();
  check<problem, Bf16, Bf16, float>();
  check<problem, float, Bf16, float>();
  check<problem, float, float, float>();
}

}  // namespace

int main() {
  check_types<96, 64, 32, true>();
  check_types<160, 33, 32>();
  check_types<48, 32, 16, true>();
  check_types<24, 96, 8>();
  check_types<8, 7, 8, true>();
  std::printf("linear_swiglu: %d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
