// rms_norm and add_rms_norm against the formula in doubles, at widths with and without a tail.
#include "device/cpu/rms_norm.hpp"

#include "matmul_support.hpp"

namespace {

using namespace test;
using ern::cpu::to_f32;

constexpr float eps = 1e-5f;

template <int width, class W>
std::vector<double> expected(const std::vector<float>& x, const std::vector<float>* residual,
                             const std::vector<W>& weight) {
  std::vector<double> out;
  for (size_t row = 0; row < x.size() / width; ++row) {
    std::vector<double> values;
    double squares = 0;
    for (int i = 0; i < width; ++i) {
      values.push_back(double{x[row * width + i]} + (residual ? (*residual)[row * width + i] : 0));
      squares += values.back() * values.back();
    }
    for (int i = 0; i < width; ++i) out.push_back(values[i] / std::sqrt(squares / width + eps) * to_f32(weight[i]));
  }
  return out;
}

template <int width, class W, class Out>
void check(int rows, float scale) {
  Random random(width + rows);
  const std::vector<float> x = random_values<float>(rows * width, scale, random),
                           residual = random_values<float>(rows * width, scale, random);
  const std::vector<W> weight = random_values<W>(width, 2, random);

  Buffer<Out> plain(rows * width), added(rows * width);
  Buffer<float> sum(rows * width);
  run_team(1, [&](Team& team) {
    ern::cpu::rms_norm<width>(rows, x.data(), weight.data(), eps, plain.data(), team);
    ern::cpu::add_rms_norm<width>(rows, x.data(), residual.data(), weight.data(), eps, sum.data(), added.data(), team);
  });
  CHECK(plain.intact() && added.intact() && sum.intact(), "width %d: a guard was overwritten", width);
  const double error = nmse(plain.data(), expected<width>(x, nullptr, weight)),
               added_error = nmse(added.data(), expected<width>(x, &residual, weight));
  CHECK(error < bar<Out> && added_error < bar<Out>, "width %d scale %g: nmse %g, after a sum %g", width, scale, error,
        added_error);
  for (int i = 0; i < rows * width; ++i) CHECK(sum[i] == x[i] + residual[i], "width %d: sum at %d", width, i);

  for (int threads = 2; threads <= 4; ++threads) {
    Buffer<Out> again(rows * width), again_added(rows * width);
    std::vector<float> in_place = residual;
    run_team(threads, [&](Team& team) {
      ern::cpu::rms_norm<width>(rows, x.data(), weight.data(), eps, again.data(), team);
      ern::cpu::add_rms_norm<width>(rows, x.data(), in_place.data(), weight.data(), eps, in_place.data(),
                                    again_added.data(), team);
    });
    CHECK(again == plain && again_added == added, "width %d: %d threads differ", width, threads);
    CHECK(std::memcmp(in_place.data(), sum.data(), sum.size() * sizeof(float)) == 0,
          "width %d: sum in place of the residual", width);
  }
  // The norm of the kept sum is the same as the one made on the way.
  Buffer<Out> after(rows * width);
  run_team(1, [&](Team& team) { ern::cpu::rms_norm<width>(rows, sum.data(), weight.data(), eps, after.data(), team); });
  CHECK(after == added, "width %d: add, then norm differs from add_rms_norm", width);
}

}  // namespace

int main() {
  for (const int rows : {1, 7, 31}) {
    check<1024, Bf16, Bf16>(rows, 1);
    check<1024, Bf16, float>(rows, 100);
    check<96, Bf16, float>(rows, 1e-3f);
    check<2560, float, Bf16>(rows, 1);
    check<17, float, float>(rows, 1);
    check<3, Bf16, Bf16>(rows, 1);
    check<131, Bf16, float>(rows, 0);  // a row of zeros stays zero
  }
  if (failures != 0) std::printf("%d checks failed\n", failures);
  return failures == 0 ? 0 : 1;
}
