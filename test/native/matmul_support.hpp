// What the tests of the matmul kernels share: seeded data, guarded buffers, packing by the layout headers, a team of threads, and how far a
// result is from a reference in doubles. Expected values are each test's own.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

#include "device/cpu/simd.hpp"
#include "device/layout/interleave.hpp"
#include "device/layout/panel.hpp"

namespace test {

using ern::Barrier;
using ern::Team;
using ern::cpu::Bf16;

inline int failures = 0;

#define CHECK(condition, ...)                          \
  do {                                                 \
    if (!(condition)) {                                \
      ++test::failures;                                \
      std::printf("%s:%d: ", __FILE__, __LINE__);      \
      std::printf(__VA_ARGS__);                        \
      std::printf("\n");                               \
    }                                                  \
  } while (0)

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
  uint32_t bits() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state_ >> 33) ^ static_cast<uint32_t>(state_ >> 11);
  }
  float uniform() { return static_cast<float>(bits() >> 8) * 0x1p-24f * 2 - 1; }
  int below(int n) { return static_cast<int>(bits() % static_cast<uint32_t>(n)); }

 private:
  uint64_t state_;
};

// Exactly `count` elements on the heap, so that a sanitizer sees one too many; poisoned with NaNs, with a guard on both sides.
template <class T>
class Buffer {
 public:
  explicit Buffer(size_t count) : count_(count), bytes_(new unsigned char[count * sizeof(T) + 2 * guard]) {
    std::memset(bytes_.get(), 0xff, count * sizeof(T) + 2 * guard);  // a NaN as f32 and as bf16
  }
  T* data() { return reinterpret_cast<T*>(bytes_.get() + guard); }
  const T* data() const { return reinterpret_cast<const T*>(bytes_.get() + guard); }
  T& operator[](size_t i) { return data()[i]; }
  const T& operator[](size_t i) const { return data()[i]; }
  size_t size() const { return count_; }
  bool intact() const {
    for (size_t i = 0; i < guard; ++i) {
      if (bytes_[i] != 0xff || bytes_[guard + count_ * sizeof(T) + i] != 0xff) return false;
    }
    return true;
  }
  bool operator==(const Buffer& other) const {
    return count_ == other.count_ && std::memcmp(data(), other.data(), count_ * sizeof(T)) == 0;
  }

 private:
  static constexpr size_t guard = 64;
  size_t count_;
  std::unique_ptr<unsigned char[]> bytes_;
};

// Inputs have no guard: the sanitizer's redzone begins right behind them.
template <class T>
std::vector<T> random_values(size_t count, float scale, Random& random) {
  std::vector<T> out(count);
  for (T& value : out) value = ern::cpu::from_f32<T>(random.uniform() * scale);
  return out;
}

template <class T>
std::vector<T> pack(const std::vector<T>& matrix, int64_t rows, int64_t cols) {
  const ern::layout::Panel64 place{rows, cols};
  std::vector<T> out(place.elements(), T{});
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < cols; ++col) out[place.offset(row, col)] = matrix[row * cols + col];
  }
  return out;
}

// gate and up, both [rows, cols], as one matrix of interleaved rows.
template <class T>
std::vector<T> interleave(const std::vector<T>& gate, const std::vector<T>& up, int64_t rows, int64_t cols, int64_t group) {
  std::vector<T> out(2 * rows * cols);
  const ern::layout::Interleave order{group};
  for (int64_t row = 0; row < rows; ++row) {
    std::memcpy(&out[order.row(false, row) * cols], &gate[row * cols], cols * sizeof(T));
    std::memcpy(&out[order.row(true, row) * cols], &up[row * cols], cols * sizeof(T));
  }
  return out;
}

// x [rows, k] . w [n, k]^T in doubles.
template <class X, class W>
std::vector<double> product(const X* x, int64_t rows, const W* w, int64_t n, int64_t k) {
  std::vector<double> out(rows * n);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t i = 0; i < k; ++i) {
        sum += static_cast<double>(ern::cpu::to_f32(x[r * k + i])) * ern::cpu::to_f32(w[j * k + i]);
      }
      out[r * n + j] = sum;
    }
  }
  return out;
}

inline double silu(double x) { return x / (1 + std::exp(-x)); }

// sum (got - want)^2 / sum want^2; NaN if anything is.
template <class T>
double nmse(const T* got, const std::vector<double>& want) {
  double error = 0, power = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double off = ern::cpu::to_f32(got[i]) - want[i];
    error += off * off;
    power += want[i] * want[i];
  }
  return power > 0 ? error / power : error;
}

// Bars of design.md, section 5.
template <class T>
constexpr double bar = std::is_same_v<T, Bf16> ? 1e-5 : 1e-10;

template <class Fn>
void run_team(int size, const Fn& fn) {
  Barrier barrier;
  std::vector<std::thread> threads;
  for (int rank = 1; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      Team team{rank, size, &barrier};
      fn(team);
    });
  }
  Team team{0, size, &barrier};
  fn(team);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace test
