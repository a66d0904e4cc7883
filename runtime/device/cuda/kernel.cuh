// What every CUDA kernel shares: the step, dependent launches, element types, memory access, tensor-core products.
//
// A header here holds the body of one op: a __device__ function template over the op's sizes and a struct of tunables. A
// generated .cu fixes them and defines the extern "C" __global__ function; it names the tunables and the launch shape.
//
// Order between launches. Launches of a step may be programmatic dependents of one another: a kernel may start while the
// ones before it still run. So
//   - start_dependents() comes first: who comes next may start and fetch its weights;
//   - wait_for_inputs() comes before the first read of anything that an earlier launch of the step writes, and before the
//     first write, in every block that has something to do. Blocks without work may leave at once, as long as another one of the launch waits: the
//     launch ends with that, and so after everything before it. Weights may be read before it;
//   - the first launch of a step (embedding) starts its dependents by ending. Therefore what the host or the previous
//     step's last launch wrote (Step, ids, positions, slots, query_start, context, block_table, and cache entries of
//     earlier steps) stands still for all others and may be read before the wait as well.
// A launch may also call start_dependents() after its wait ("late"): then whoever starts knows that everything before that launch has ended. The
// experts of a mixture use it: when a launch between the router and them is late, the router's choice stands still for the launches after
// it, and their weights too can be fetched before the wait (moe_ffn.cuh; src/passes/lower/late-launches.ts says which one is late).
// Both are right, and do nothing, when launches are not programmatic dependents, and on archs before sm_90.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace ern::cuda {

#define ERN_DEVICE __device__ __forceinline__

using Bf16 = __nv_bfloat16;

// What changes from step to step; in device memory, since a captured graph repeats its parameters.
struct Step {
  int32_t tokens;        // T, rows of this step
  int32_t sequences;     // S
  int32_t block_stride;  // entries in each row of the block table
  int32_t reserved;
};

// What a kernel's rows are.
enum class Rows { tokens, sequences };

ERN_DEVICE int rows_of(const Step* step, Rows rows) { return rows == Rows::tokens ? step->tokens : step->sequences; }

constexpr int warp_size = 32;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

ERN_DEVICE int lane_id() { return static_cast<int>(threadIdx.x) % warp_size; }
ERN_DEVICE int warp_id() { return static_cast<int>(threadIdx.x) / warp_size; }

ERN_DEVICE void start_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

ERN_DEVICE void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// --- memory ---------------------------------------------------------------------------------------------------------

// 16 bytes of what stands still during a step: not kept in L1. Volatile: stays before the wait.
ERN_DEVICE uint4 load_still(const void* at) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(at));
  return v;
}

// The same for a weight, which a step reads once: the first to leave L2 (what createpolicy.fractional.L2::evict_first gives).
constexpr uint64_t evict_first = 0x12F0000000000000;
ERN_DEVICE uint4 load_weight(const void* at) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.u32 {%0, %1, %2, %3}, [%4], %5;"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(at), "l"(evict_first));
  return v;
}

// 16 bytes that an earlier launch wrote: through L2, since L1 may have lines of before.
ERN_DEVICE uint4 load_fresh(const void* at) { return __ldcg(static_cast<const uint4*>(at)); }
ERN_DEVICE float4 load_fresh4(const float* at) { return __ldcg(reinterpret_cast<const float4*>(at)); }

ERN_DEVICE float to_float(float x) { return x; }
ERN_DEVICE float to_float(Bf16 x) { return __bfloat162float(x); }

template <class T>
ERN_DEVICE T round_to(float x) {
  if constexpr (sizeof(T) == 2) return __float2bfloat16_rn(x);
  else return x;
}

ERN_DEVICE float silu(float x) { return x / (1.0f + __expf(-x)); }

// Two floats as one register of bf16, a in the low half.
ERN_DEVICE uint32_t pack_bf16(float a, float b) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
ERN_DEVICE float low_bf16(uint32_t pair) { return __uint_as_float(pair << 16); }
ERN_DEVICE float high_bf16(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

// Eight consecutive values as floats, and back; `at` is aligned to 16 bytes.
ERN_DEVICE void load8(const Bf16* at, float (&out)[8]) {
  const uint4 v = load_fresh(at);
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) out[2 * i] = low_bf16(words[i]), out[2 * i + 1] = high_bf16(words[i]);
}
ERN_DEVICE void load8(const float* at, float (&out)[8]) {
  const float4 a = load_fresh4(at), b = load_fresh4(at + 4);
  out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w, out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
}
ERN_DEVICE uint4 pack8(const float (&x)[8]) {
  return {pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7])};
}
ERN_DEVICE void store8(Bf16* at, const float (&x)[8]) { *reinterpret_cast<uint4*>(at) = pack8(x); }
ERN_DEVICE void store8(float* at, const float (&x)[8]) {
  reinterpret_cast<float4*>(at)[0] = {x[0], x[1], x[2], x[3]};
  reinterpret_cast<float4*>(at)[1] = {x[4], x[5], x[6], x[7]};
}

ERN_DEVICE uint32_t shared_address(const void* at) { return static_cast<uint32_t>(__cvta_generic_to_shared(at)); }

// --- sums over lanes ------------------------------------------------------------------------------------------------

ERN_DEVICE float warp_sum(float x) {
#pragma unroll
  for (int mask = warp_size / 2; mask > 0; mask /= 2) x += __shfl_xor_sync(~0u, x, mask);
  return x;
}

// Of this lane and those before it.
template <class Count>
ERN_DEVICE Count warp_sum_until(Count x) {
#pragma unroll
  for (int step = 1; step < warp_size; step *= 2) {
    const Count before = __shfl_up_sync(~0u, x, step);
    if (lane_id() >= step) x += before;
  }
  return x;
}

// Over all threads of a block of `Warps` warps, in one order; everybody gets it. Every thread calls it.
template <int Warps>
ERN_DEVICE float block_sum(float x) {
  __shared__ float parts[Warps];
  x = warp_sum(x);
  __syncthreads();
  if (lane_id() == 0) parts[warp_id()] = x;
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int i = 0; i < Warps; ++i) sum += parts[i];
  return sum;
}

// --- tensor cores ---------------------------------------------------------------------------------------------------

// d[16, 8] += a[16, 16] . b[16, 8], bf16 in, f32 out. With lane = 4 * group + quad:
//   a0 (row group,     k 2 quad, +1)   a1 (row group + 8, same k)   a2, a3: as a0, a1 with k + 8
//   b0 (k 2 quad, +1, column group)    b1: as b0 with k + 8
//   d0, d1 (row group, columns 2 quad, +1)   d2, d3: row group + 8
ERN_DEVICE void mma(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  asm(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// A block of 32 k: d[16, 8] += rows[16, 32] . columns[8, 32]^T, where lane 4 * group + quad brings 16 contiguous bytes, k =
// 8 quad .. 8 quad + 7, of row `group` (low), of row `group` + 8 (high) and of column `group`. Which k meets which place of
// the instruction does not matter as long as both sides agree: so operands come straight from row-major memory.
constexpr int k_block = 32;
constexpr int lane_k = 8;
ERN_DEVICE void mma_block(float (&d)[4], const uint4& low, const uint4& high, const uint4& columns) {
  mma(d, low.x, high.x, low.y, high.y, columns.x, columns.y);
  mma(d, low.z, high.z, low.w, high.w, columns.z, columns.w);
}

}  // namespace ern::cuda
