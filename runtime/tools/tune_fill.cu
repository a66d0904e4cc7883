// Fills a weight in row order with the numbers of tune_numbers.hpp, for the tuner's process on a GPU. Any threads, any grid.
#include <cstdint>

#include "tools/tune_numbers.hpp"

extern "C" __global__ void __launch_bounds__(256) tune_fill(void* data, uint64_t elements, uint32_t base, float scale, int bf16) {
  const uint64_t step = static_cast<uint64_t>(gridDim.x) * blockDim.x;
  for (uint64_t i = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < elements; i += step) {
    const float value = ern::tune::weight_number(static_cast<uint32_t>(i), base, scale);
    if (bf16) static_cast<uint16_t*>(data)[i] = ern::tune::bf16_bits(__float_as_uint(value));
    else static_cast<float*>(data)[i] = value;
  }
}
