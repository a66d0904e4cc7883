// Weights made up on the device: the numbers of runtime/src/synthetic.hpp, which says what element e of a weight is.
//
//   data    T [elements], float or the bits of bf16
//   stream  random64(seed, index of the weight)
//   table   T [4096]: the weight's quantiles, rounded
//
// Launch: any threads, any grid; a thread takes 4 elements, which share a random number, in turns. No part of a step.
#pragma once

#include <cstdint>

namespace ern::cuda {

__device__ __forceinline__ uint64_t mix64(uint64_t x) {
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
  x = (x ^ x >> 27) * 0x94D049BB133111EBu;
  return x ^ x >> 31;
}

__device__ __forceinline__ uint64_t random64(uint64_t seed, uint64_t counter) {
  constexpr uint64_t golden = 0x9E3779B97F4A7C15u;
  return mix64(mix64(seed + golden) ^ (counter + 1) * golden);
}

template <class T>
__device__ __forceinline__ void fill_synthetic(T* data, uint64_t elements, uint64_t stream, const T* table) {
  const uint64_t step = static_cast<uint64_t>(gridDim.x) * blockDim.x;
  for (uint64_t i = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i * 4 < elements; i += step) {
    const uint64_t h = random64(stream, i);
    for (uint64_t lane = 0; lane < 4 && i * 4 + lane < elements; ++lane)
      data[i * 4 + lane] = table[h >> (16 * lane + 4) & 0xFFF];
  }
}

}  // namespace ern::cuda
