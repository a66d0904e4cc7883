// Weights made up on the spot, so that any model can be built and timed without a checkpoint. Element e of weight w is
// a function of (seed, w, e) alone: the same numbers on any machine, with any number of threads.
//
//   h    = random64(random64(seed, w), e / 4)                 four elements share a 64-bit number
//   u    = bits [16 * (e % 4) + 4, 16 * (e % 4) + 16) of h    an index in [0, 4096)
//   value = scale * quantile((u + 0.5) / 4096)                uniform on [-1, 1), or standard normal
//
// rounded to f32, then to bf16 where the weight is bf16.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "plan.hpp"
#include "random.hpp"

namespace ern {

inline constexpr int fill_levels = 4096;

// Nearest, ties to even; for finite values.
inline uint16_t to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

// Quantile of the standard normal distribution for p in (0, 1), by bisection: 4096 calls, once for each weight's table.
inline double normal_quantile(double p) {
  double low = -10, high = 10;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (0.5 * std::erfc(-middle * M_SQRT1_2) < p ? low : high) = middle;
  }
  return low;
}

// The numbers of one weight, ready to be drawn from.
template <class Element>
class Filler {
 public:
  Filler(uint64_t seed, uint32_t index, const SyntheticWeight& weight, const std::vector<double>& normal)
      : stream_(random64(seed, index)), table_(fill_levels) {
    for (int u = 0; u < fill_levels; ++u) {
      const double quantile =
          weight.fill == Fill::normal ? normal[static_cast<size_t>(u)] : (2.0 * u + 1) / fill_levels - 1;
      const auto value = static_cast<float>(weight.fill == Fill::constant ? weight.scale : weight.scale * quantile);
      if constexpr (sizeof(Element) == 2) table_[static_cast<size_t>(u)] = to_bf16(value);
      else table_[static_cast<size_t>(u)] = value;
    }
  }

  // What fill() draws with, for those who draw elsewhere.
  uint64_t stream() const { return stream_; }
  const std::vector<Element>& table() const { return table_; }

  // Elements [begin, end) of the weight that starts at `data`; begin is a multiple of 4.
  void fill(Element* data, uint64_t begin, uint64_t end) const {
    const Element* table = table_.data();
    uint64_t e = begin;
    for (; e + 4 <= end; e += 4) {
      const uint64_t h = random64(stream_, e / 4);
      data[e] = table[h >> 4 & 0xFFF];
      data[e + 1] = table[h >> 20 & 0xFFF];
      data[e + 2] = table[h >> 36 & 0xFFF];
      data[e + 3] = table[h >> 52];
    }
    const uint64_t h = random64(stream_, e / 4);
    for (uint64_t rest = end - e, lane = 0; lane < rest; ++lane) data[e + lane] = table[h >> (16 * lane + 4) & 0xFFF];
  }

 private:
  uint64_t stream_;
  std::vector<Element> table_;
};

inline std::vector<double> normal_quantiles() {
  std::vector<double> values(fill_levels);
  for (int u = 0; u < fill_levels; ++u) values[static_cast<size_t>(u)] = normal_quantile((u + 0.5) / fill_levels);
  return values;
}

}  // namespace ern
