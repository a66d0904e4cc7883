// Random numbers without state: each is a function of what it is for, so it doesn't matter who computes it, when, or
// how often.
#pragma once

#include <cstdint>

namespace ern {

// A bijection of 64 bits in which every input bit reaches every output bit (the finaliser of splitmix64: Steele, Lea
// and Flood, 2014).
inline uint64_t mix64(uint64_t x) {
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
  x = (x ^ x >> 27) * 0x94D049BB133111EBu;
  return x ^ x >> 31;
}

// Number `counter` of the stream `seed`.
inline uint64_t random64(uint64_t seed, uint64_t counter) {
  constexpr uint64_t golden = 0x9E3779B97F4A7C15u;  // 2^64 / golden ratio, odd: consecutive counters land far apart
  return mix64(mix64(seed + golden) ^ (counter + 1) * golden);
}

// In [0, 1), 53 bits.
inline double random_unit(uint64_t seed, uint64_t counter) {
  return static_cast<double>(random64(seed, counter) >> 11) * 0x1p-53;
}

}  // namespace ern
