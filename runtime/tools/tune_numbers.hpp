// The numbers that kernels are tuned on: element i of a weight is a function of (seed, stream, i) alone, the same here, on a GPU and in
// src/tune/numbers.ts. Every step is exact but the rounding to the weight's type.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define ERN_TUNE_BOTH __host__ __device__
#else
#define ERN_TUNE_BOTH
#endif

namespace ern::tune {

ERN_TUNE_BOTH inline uint32_t mix(uint32_t x) {
  x = (x ^ x >> 16) * 0x7feb352du;
  x = (x ^ x >> 15) * 0x846ca68bu;
  return x ^ x >> 16;
}

ERN_TUNE_BOTH inline uint32_t stream_base(uint32_t seed, uint32_t stream) { return mix(seed ^ stream * 0x9e3779b9u); }

ERN_TUNE_BOTH inline float weight_number(uint32_t i, uint32_t base, float scale) {
  return (static_cast<float>(mix(i + base) >> 8) * 0x1p-24f - 0.5f) * scale;
}

// Rounds to nearest even; numbers here are finite.
ERN_TUNE_BOTH inline uint16_t bf16_bits(uint32_t bits) { return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16); }

}  // namespace ern::tune
