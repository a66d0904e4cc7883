// head_argmax: logits against doubles, ids against a plain search, with ties, NaNs, infinities and padding that would win if it were looked at.
#include "device/cpu/head_argmax.hpp"

#include <limits>

#include "matmul_support.hpp"

using namespace test;
using ern::cpu::HeadArgmax;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();

int first_largest(const float* logits, int n) {
  int best = -1;
  for (int i = 0; i < n; ++i) {
    if (logits[i] > (best < 0 ? -inf : logits[best])) best = i;
  }
  return best < 0 ? 0 : best;
}

template <HeadArgmax problem, class X, class W>
void check() {
  constexpr int n = problem.n, k = problem.k, most_rows = 19;
  Random random(n + k);
  const auto x = random_values<X>(most_rows * k, 1.0f, random);
  auto w = random_values<W>(n * k, 0.1f, random);
  // Equal rows make exact ties, in one panel and across threads.
  for (int row = 0; row + 1 < n; ++row) {
    if (row % 3 == 0) std::memcpy(&w[(n - 1 - row) * k], &w[row * k], k * sizeof(W));
  }
  const auto packed = pack(w, n, k);
  const auto bias = random_values<float>(n, 0.1f, random);
  auto want = product(x.data(), most_rows, w.data(), n, k);
  for (int i = 0; i < most_rows * n; ++i) want[i] += problem.bias ? bias[i % n] : 0;
  Buffer<float> whole(most_rows * n);
  for (const int rows : {19, 1, 2, 8}) {
    for (const int threads : {1, 2, 3, 5}) {
      Buffer<float> logits(rows * n);
      Buffer<int32_t> ids(rows);
      Buffer<char> workspace(ern::cpu::head_argmax_workspace(rows));
      run_team(threads, [&](Team& team) {
        ern::cpu::head_argmax<problem>(rows, x.data(), packed.data(), problem.bias ? bias.data() : nullptr, logits.data(), ids.data(), workspace.data(), team);
      });
      if (rows == most_rows && threads == 1) {
        const double off = nmse(logits.data(), want);
        CHECK(off < 1e-10, "n %d k %d: nmse %.3g", n, k, off);
        std::memcpy(whole.data(), logits.data(), sizeof(float) * most_rows * n);
      }
      CHECK(std::memcmp(logits.data(), whole.data(), rows * n * sizeof(float)) == 0, "n %d: %d rows on %d threads differ", n, rows, threads);
      for (int row = 0; row < rows; ++row) {
        const int expected = first_largest(logits.data() + row * n, n);
        CHECK(ids[row] == expected, "n %d row %d threads %d: id %d, expected %d", n, row, threads, ids[row], expected);
      }
      CHECK(logits.intact() && ids.intact() && workspace.intact(), "n %d: wrote outside", n);
    }
  }
}

// k = 1 and x = 1: the logits are what the bias says, so each special value can be put in each place.
void check_special() {
  constexpr int n = 133;
  constexpr HeadArgmax problem{.n = n, .k = 1, .bias = true};
  const std::vector<float> x(1, 0.0f);
  const std::vector<Bf16> packed = pack(std::vector<Bf16>(n, Bf16{0}), n, 1);
  const auto run = [&](const std::vector<float>& bias, int threads) {
    Buffer<float> logits(n);
    Buffer<int32_t> ids(1);
    Buffer<char> workspace(ern::cpu::head_argmax_workspace(1));
    run_team(threads, [&](Team& team) { ern::cpu::head_argmax<problem>(1, x.data(), packed.data(), bias.data(), logits.data(), ids.data(), workspace.data(), team); });
    return ids[0];
  };
  for (const int threads : {1, 2, 3}) {
    for (const int place : {0, 1, 15, 16, 63, 64, 127, 128, 132}) {
      std::vector<float> bias(n, -5.0f);  // below the padding's zero
      bias[place] = -4.0f;
      CHECK(run(bias, threads) == place, "largest at %d", place);
      for (int i = 3; i < n; i += 8) {
        if (i % 64 != place % 64) bias[i] = NAN;
      }
      for (const int i : {place - 16, place - 8, place + 8, place + 16}) {  // in the same lane of a neighbouring vector
        if (i >= 0 && i < n) bias[i] = NAN;
      }
      CHECK(run(bias, threads) == place, "largest at %d among NaNs", place);
      std::vector<float> masked(n, -inf);
      masked[place] = -1e30f;
      CHECK(run(masked, threads) == place, "the one finite value at %d", place);
      std::vector<float> high(n, 1.0f);
      high[place] = inf;
      CHECK(run(high, threads) == place, "infinity at %d", place);
    }
    CHECK(run(std::vector<float>(n, -inf), threads) == 0, "nothing above -inf");
    CHECK(run(std::vector<float>(n, NAN), threads) == 0, "all NaN");
    CHECK(run(std::vector<float>(n, 2.0f), threads) == 0, "all equal");
  }
}

template <int N, int K, bool Bias = false>
void check_types() {
  constexpr HeadArgmax problem{.n = N, .k = K, .bias = Bias};
  check<problem, Bf16, Bf16>();
  check<problem, float, Bf16>();
  check<problem, float, float>();
}

}  // namespace

int main() {
  check_types<300, 64>();
  check_types<16, 33, true>();
  check_types<1, 5>();
  check_types<1003, 96, true>();
  check_special();
  std::printf("head_argmax: %d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
