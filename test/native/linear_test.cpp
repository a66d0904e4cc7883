// linear against doubles at awkward shapes; every row alone, in any batch and on any number of threads has the same bits.
#include "device/cpu/linear.hpp"

#include "matmul_support.hpp"

using namespace test;
using ern::cpu::Linear;
using ern::cpu::Tiling;

namespace {

constexpr int most_rows = 100;

template <Linear problem, class X, class W, class Y>
void check() {
  constexpr int n = problem.n, k = problem.k;
  Random random(n * 31 + k);
  auto x = random_values<X>(most_rows * k, 1.0f, random);
  x.push_back(ern::cpu::from_f32<X>(NAN));  // a K that is odd must not reach behind the last row
  const auto w = random_values<W>(n * k, 0.1f, random);
  const auto packed = pack(w, n, k);
  const auto bias = random_values<float>(n, 1.0f, random);
  const auto residual = random_values<float>(most_rows * n, 1.0f, random);
  auto want = product(x.data(), most_rows, w.data(), n, k);
  for (int i = 0; i < most_rows * n; ++i) {
    if (problem.bias) want[i] += bias[i % n];
    if (problem.residual) want[i] += residual[i];
  }

  // All rows on one thread are the measure for the rest.
  Buffer<Y> whole(most_rows * n);
  const float* b = problem.bias ? bias.data() : nullptr;
  const float* r = problem.residual ? residual.data() : nullptr;
  run_team(1, [&](Team& team) { ern::cpu::linear<problem>(most_rows, x.data(), packed.data(), b, r, whole.data(), team); });
  const double off = nmse(whole.data(), want);
  CHECK(off < bar<Y>, "n %d k %d: nmse %.3g", n, k, off);
  CHECK(whole.intact(), "n %d k %d: wrote outside of y", n, k);

  for (const int rows : {1, 2, 3, 5, 6, 7, 8, 9, 12, 13, 16, 17, 31, 64, 100}) {
    const int threads = 1 + rows % 4;
    const int first = most_rows - rows;  // other rows than the first, so that a row's place does not matter
    Buffer<Y> y(rows * n);
    run_team(threads, [&](Team& team) {
      ern::cpu::linear<problem>(rows, x.data() + first * k, packed.data(), b, r ? r + first * n : nullptr, y.data(), team);
    });
    CHECK(std::memcmp(y.data(), whole.data() + first * n, rows * n * sizeof(Y)) == 0,
          "n %d k %d: %d rows on %d threads differ from the same rows of 100", n, k, rows, threads);
    CHECK(y.intact(), "n %d k %d rows %d: wrote outside of y", n, k, rows);
  }
  for (const int threads : {2, 3, 4, 7, 33}) {
    Buffer<Y> y(most_rows * n);
    run_team(threads, [&](Team& team) { ern::cpu::linear<problem>(most_rows, x.data(), packed.data(), b, r, y.data(), team); });
    CHECK(y == whole && y.intact(), "n %d k %d: %d threads differ from one", n, k, threads);
  }
}

// Small blocks, so that 100 rows are several blocks of many tiles, 12 are a few tiles, and K is cut several times.
template <int N, int K, bool Bias = false, bool Residual = false>
constexpr Linear small{.n = N, .k = K, .bias = Bias, .residual = Residual, .tiling = {.k_block = 64, .few_block = 32, .few = 2, .row_block = 40}};

template <Linear problem>
void check_types() {
  check<problem, Bf16, Bf16, float>();
  check<problem, Bf16, Bf16, Bf16>();
  check<problem, float, Bf16, float>();
  check<problem, float, float, float>();
}

// y may be the residual.
void check_in_place() {
  constexpr Linear problem{.n = 100, .k = 32, .residual = true};
  Random random(5);
  const auto x = random_values<float>(9 * 32, 1.0f, random);
  const auto packed = pack(random_values<Bf16>(100 * 32, 0.1f, random), 100, 32);
  const auto residual = random_values<float>(9 * 100, 1.0f, random);
  Buffer<float> apart(9 * 100), inside(9 * 100);
  std::memcpy(inside.data(), residual.data(), residual.size() * sizeof(float));
  run_team(2, [&](Team& team) {
    ern::cpu::linear<problem>(9, x.data(), packed.data(), static_cast<const float*>(nullptr), residual.data(), apart.data(), team);
    team.barrier();
    ern::cpu::linear<problem>(9, x.data(), packed.data(), static_cast<const float*>(nullptr), inside.data(), inside.data(), team);
  });
  CHECK(apart == inside, "in place differs");
}

}  // namespace

int main() {
  check_types<small<16, 32>>();
  check_types<small<300, 33, true, true>>();
  check<small<24, 96, true>, Bf16, Bf16, Bf16>();
  check<small<24, 96, true>, float, Bf16, float>();
  check<small<96, 64, false, true>, Bf16, Bf16, float>();
  check<small<1, 1>, Bf16, Bf16, float>();
  check<small<1, 1>, float, float, float>();
  check<small<129, 7>, Bf16, Bf16, float>();
  check<small<129, 7>, float, Bf16, float>();
  check<Linear{.n = 320, .k = 128, .bias = true, .residual = true}, Bf16, Bf16, float>();
  check<Linear{.n = 2560, .k = 1024}, Bf16, Bf16, float>();
  check<Linear{.n = 72, .k = 3072, .residual = true}, Bf16, Bf16, float>();
  check<Linear{.n = 72, .k = 3072, .residual = true}, float, Bf16, float>();
  check_in_place();
  std::printf("linear: %d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
