// Holds the runtime's own declarations of the CUDA driver API to a toolkit's header: compiles, or does not.
#include <cuda.h>

#include <cstddef>
#include <type_traits>

#include "src/cuda/driver.hpp"

namespace c = ern::cuda;

static_assert(c::success == CUDA_SUCCESS && c::error_invalid_value == CUDA_ERROR_INVALID_VALUE);
static_assert(c::error_out_of_memory == CUDA_ERROR_OUT_OF_MEMORY && c::error_no_device == CUDA_ERROR_NO_DEVICE);
static_assert(c::error_invalid_image == CUDA_ERROR_INVALID_IMAGE && c::error_no_binary == CUDA_ERROR_NO_BINARY_FOR_GPU);
static_assert(c::error_invalid_ptx == CUDA_ERROR_INVALID_PTX && c::error_unsupported_ptx == CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
static_assert(c::error_not_found == CUDA_ERROR_NOT_FOUND && c::error_not_ready == CUDA_ERROR_NOT_READY);
static_assert(c::error_launch_out_of_resources == CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
static_assert(c::error_system_driver_mismatch == CUDA_ERROR_SYSTEM_DRIVER_MISMATCH);

static_assert(c::attribute_multiprocessors == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
static_assert(c::attribute_major == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
static_assert(c::attribute_minor == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
static_assert(c::attribute_shared_bytes == CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
static_assert(c::function_max_threads == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK);
static_assert(c::function_static_shared == CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES);
static_assert(c::function_dynamic_shared == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
static_assert(c::stream_non_blocking == CU_STREAM_NON_BLOCKING && c::event_no_timing == CU_EVENT_DISABLE_TIMING);
static_assert(c::capture_thread_local == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);

static_assert(c::launch_cooperative == CU_LAUNCH_ATTRIBUTE_COOPERATIVE);
static_assert(c::launch_cluster == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION);
static_assert(c::launch_programmatic == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION);
static_assert(sizeof(c::LaunchAttribute) == sizeof(CUlaunchAttribute));
static_assert(offsetof(c::LaunchAttribute, value) == offsetof(CUlaunchAttribute, value));
static_assert(sizeof(c::LaunchConfig) == sizeof(CUlaunchConfig));
static_assert(offsetof(c::LaunchConfig, shared_bytes) == offsetof(CUlaunchConfig, sharedMemBytes));
static_assert(offsetof(c::LaunchConfig, stream) == offsetof(CUlaunchConfig, hStream));
static_assert(offsetof(c::LaunchConfig, attributes) == offsetof(CUlaunchConfig, attrs));
static_assert(offsetof(c::LaunchConfig, attribute_count) == offsetof(CUlaunchConfig, numAttrs));

static_assert(sizeof(c::TensorMap) == sizeof(CUtensorMap) && alignof(c::TensorMap) == alignof(CUtensorMap));
static_assert(c::map_float32 == CU_TENSOR_MAP_DATA_TYPE_FLOAT32 && c::map_bfloat16 == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16);
static_assert(c::swizzle_none == CU_TENSOR_MAP_SWIZZLE_NONE && c::swizzle_32 == CU_TENSOR_MAP_SWIZZLE_32B);
static_assert(c::swizzle_64 == CU_TENSOR_MAP_SWIZZLE_64B && c::swizzle_128 == CU_TENSOR_MAP_SWIZZLE_128B);
static_assert(c::map_no_interleave == CU_TENSOR_MAP_INTERLEAVE_NONE && c::map_promote_256 == CU_TENSOR_MAP_L2_PROMOTION_L2_256B);
static_assert(c::map_zeros_outside == CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);

// Calls take as many arguments of the same sizes: handles and enums are ours, so types differ and nothing else.
template <class T>
constexpr size_t size_of = std::is_reference_v<T> ? sizeof(void*) : sizeof(T);
template <class Ours, class Theirs>
constexpr bool alike = false;
template <class... A, class... B>
constexpr bool alike<int (*)(A...), CUresult (*)(B...)> = [] {
  if constexpr (sizeof...(A) == sizeof...(B)) return ((size_of<A> == size_of<B>) && ...);
  else return false;
}();
#define ERN_ALIKE(name, symbol, ...) static_assert(alike<decltype(c::Driver::name), decltype(&symbol)>, #symbol);
ERN_CUDA_CALLS(ERN_ALIKE)
