// What the figures of `ernie-compile bench` are held against on a GPU: a large copy, as kernels move data, and products of bf16 tiles that lie in shared
// memory or registers, so that nothing keeps the tensor cores from their work. Numbers are random signs and fractions: a GPU's clocks depend on what it multiplies.
#include <cstdint>

#include "device/cuda/kernel.cuh"
#include "device/cuda/wgmma.cuh"
#include "tools/gpu_limits.hpp"

using namespace ern::cuda;

// Any grid.
extern "C" __global__ void __launch_bounds__(ern::limits::threads) gpu_copy(uint4* __restrict__ to, const uint4* __restrict__ from, uint64_t count) {
  constexpr int unroll = 4;
  const uint64_t step = uint64_t{gridDim.x} * blockDim.x;
  for (uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += unroll * step) {
    uint4 words[unroll];
#pragma unroll
    for (int j = 0; j < unroll; ++j)
      if (i + j * step < count) words[j] = __ldcs(from + i + j * step);
#pragma unroll
    for (int j = 0; j < unroll; ++j)
      if (i + j * step < count) __stcs(to + i + j * step, words[j]);
  }
}

// Two bf16 numbers in +-[1, 2).
ERN_DEVICE uint32_t random_pair(uint32_t seed) {
  uint32_t x = seed * 0x9E3779B9u + 0x7F4A7C15u;
  x = (x ^ (x >> 16)) * 0x85EBCA6Bu;
  x ^= x >> 13;
  return (x & 0x807F807Fu) | 0x3F803F80u;
}

// One block a multiprocessor. `sums`, a float a thread, has what came out, so that nothing is left out.
extern "C" __global__ void __launch_bounds__(ern::limits::threads) gpu_multiply(float* sums, int rounds) {
  float sum = 0;
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  constexpr int n = 256, k = 64;
  __shared__ alignas(1024) uint32_t a[2][64 * k / 2];
  __shared__ alignas(1024) uint32_t b[n * k / 2];
  for (int i = threadIdx.x; i < 2 * 64 * k / 2; i += blockDim.x) (&a[0][0])[i] = random_pair(i);
  for (int i = threadIdx.x; i < n * k / 2; i += blockDim.x) b[i] = random_pair(i + 0x10000);
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  float d[n / 2] = {};
  const uint64_t rows = wgmma_operand(a[threadIdx.x / warpgroup_size]), columns = wgmma_operand(b);
  for (int round = 0; round < rounds; ++round) {
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < k / wgmma_k; ++i) Wgmma<n>::multiply(d, rows + i * wgmma_next_k, columns + i * wgmma_next_k, true);
    wgmma_commit();
    wgmma_wait<1>();
  }
  wgmma_wait<0>();
  wgmma_hold(d);
#pragma unroll
  for (int i = 0; i < n / 2; ++i) sum += d[i];
#else
  // As many as the other way: 8 warps of 128 products of [16, 16] by [8, 16] each.
  constexpr int tiles = 8, of_round = 128;
  float d[tiles][4] = {};
  uint32_t a[4], b[tiles][2];
  for (int i = 0; i < 4; ++i) a[i] = random_pair(threadIdx.x * 4 + i);
  for (int i = 0; i < 2 * tiles; ++i) b[i / 2][i % 2] = random_pair(threadIdx.x * 16 + i + 0x10000);
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int i = 0; i < of_round; ++i) mma(d[i % tiles], a[0], a[1], a[2], a[3], b[i % tiles][0], b[i % tiles][1]);
  }
#pragma unroll
  for (int i = 0; i < tiles; ++i) sum += d[i][0] + d[i][1] + d[i][2] + d[i][3];
#endif
  sums[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
