// Tensor maps for the GPU checks and benchmarks, as runtime/src/cuda/cuda_executor.cpp makes them: bf16, 128-byte swizzle.
#pragma once

#include <cuda.h>
#include <dlfcn.h>

#include "../../runtime/device/cuda/tma.cuh"
#include "harness.cuh"

namespace bench {

using ern::cuda::TensorMap;

// `dims` elements, innermost first; `strides` bytes, of all axes but the innermost.
inline TensorMap make_map(const Bf16* data, std::vector<cuuint64_t> dims, std::vector<cuuint64_t> strides, std::vector<cuuint32_t> box) {
  using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                              const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  static const auto encode = reinterpret_cast<Encode>(dlsym(dlopen("libcuda.so.1", RTLD_NOW), "cuTensorMapEncodeTiled"));
  CUtensorMap map;
  const cuuint32_t steps[5] = {1, 1, 1, 1, 1};
  if (encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, static_cast<cuuint32_t>(dims.size()), const_cast<Bf16*>(data), dims.data(), strides.data(), box.data(),
             steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) != CUDA_SUCCESS) {
    std::printf("no tensor map\n");
    std::exit(1);
  }
  TensorMap result;
  static_assert(sizeof result == sizeof map);
  std::memcpy(&result, &map, sizeof map);
  return result;
}

// Of a matrix [rows, k]: boxes of 64 k.
inline TensorMap make_map(const Bf16* data, int64_t rows, int k, int box_rows) {
  return make_map(data, {static_cast<cuuint64_t>(k), static_cast<cuuint64_t>(rows)}, {static_cast<cuuint64_t>(k) * 2}, {64, static_cast<cuuint32_t>(box_rows)});
}

// Of the rows of attention's query, and of one layer's part of the cache.
inline TensorMap query_map(const Bf16* q, int64_t rows, int heads) { return make_map(q, rows, heads * 128, 128); }
inline TensorMap cache_map(const Bf16* kv, int kv_heads, int block_size, int64_t block_bytes) {
  return make_map(kv, {128, static_cast<cuuint64_t>(2 * kv_heads * block_size), 1 << 24}, {256, static_cast<cuuint64_t>(block_bytes)},
                  {64, static_cast<cuuint32_t>(std::min(block_size, 128)), 1});
}

}  // namespace bench
