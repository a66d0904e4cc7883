// The part of the CUDA driver API that the runtime uses, as it finds it in libcuda.so.1 when a package for a GPU is
// loaded: no header and no library of a toolkit is needed, to build or to run. Types and numbers are those of cuda.h;
// test/native/cuda_abi.cpp compares them with a toolkit's header. Nothing here knows a plan.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "../status.hpp"

namespace ern::cuda {

using Device = int;
using Pointer = unsigned long long;  // CUdeviceptr
using Context = struct CUctx_st*;
using Module = struct CUmod_st*;
using Function = struct CUfunc_st*;
using Stream = struct CUstream_st*;
using Event = struct CUevent_st*;
using Graph = struct CUgraph_st*;
using GraphExec = struct CUgraphExec_st*;

// CUresult, as far as we tell them apart.
enum Error : int {
  success = 0,
  error_invalid_value = 1,
  error_out_of_memory = 2,
  error_no_device = 100,
  error_invalid_image = 200,
  error_no_binary = 209,
  error_invalid_ptx = 218,
  error_unsupported_ptx = 222,
  error_not_found = 500,
  error_not_ready = 600,
  error_launch_out_of_resources = 701,
  error_system_driver_mismatch = 803,
};

enum DeviceAttribute : int {
  attribute_multiprocessors = 16,
  attribute_major = 75,
  attribute_minor = 76,
  attribute_shared_bytes = 97,  // dynamic, of a block that asks for it
};

enum FunctionAttribute : int { function_max_threads = 0, function_static_shared = 1, function_dynamic_shared = 8 };

inline constexpr unsigned stream_non_blocking = 1, event_no_timing = 2, capture_thread_local = 1;

enum LaunchAttributeId : int { launch_cooperative = 2, launch_cluster = 4, launch_programmatic = 6 };

// CUlaunchAttribute: an id, padding, and a union of 64 bytes.
struct LaunchAttribute {
  int id;
  char pad[4];
  union {
    char bytes[64];
    int cooperative;
    int programmatic;
    unsigned cluster[3];
  } value;
};
static_assert(sizeof(LaunchAttribute) == 72);

struct LaunchConfig {
  unsigned grid[3];
  unsigned block[3];
  unsigned shared_bytes;
  Stream stream;
  LaunchAttribute* attributes;
  unsigned attribute_count;
};
static_assert(sizeof(LaunchConfig) == 56);

struct alignas(128) TensorMap {
  uint64_t opaque[16];
};
enum TensorMapType : int { map_float32 = 7, map_bfloat16 = 9 };
enum TensorMapSwizzle : int { swizzle_none = 0, swizzle_32 = 1, swizzle_64 = 2, swizzle_128 = 3 };
inline constexpr int map_no_interleave = 0, map_promote_256 = 3, map_zeros_outside = 0;

// name, symbol, arguments
#define ERN_CUDA_CALLS(X)                                                                                              \
  X(init, cuInit, unsigned)                                                                                            \
  X(driver_version, cuDriverGetVersion, int*)                                                                          \
  X(error_name, cuGetErrorName, int, const char**)                                                                     \
  X(error_string, cuGetErrorString, int, const char**)                                                                 \
  X(device_count, cuDeviceGetCount, int*)                                                                              \
  X(device_get, cuDeviceGet, Device*, int)                                                                             \
  X(device_name, cuDeviceGetName, char*, int, Device)                                                                  \
  X(device_attribute, cuDeviceGetAttribute, int*, int, Device)                                                         \
  X(context_retain, cuDevicePrimaryCtxRetain, Context*, Device)                                                        \
  X(context_release, cuDevicePrimaryCtxRelease_v2, Device)                                                             \
  X(context_set, cuCtxSetCurrent, Context)                                                                             \
  X(memory_info, cuMemGetInfo_v2, size_t*, size_t*)                                                                    \
  X(alloc, cuMemAlloc_v2, Pointer*, size_t)                                                                            \
  X(free, cuMemFree_v2, Pointer)                                                                                       \
  X(host_alloc, cuMemHostAlloc, void**, size_t, unsigned)                                                              \
  X(host_free, cuMemFreeHost, void*)                                                                                   \
  X(copy_in, cuMemcpyHtoDAsync_v2, Pointer, const void*, size_t, Stream)                                               \
  X(copy_out, cuMemcpyDtoHAsync_v2, void*, Pointer, size_t, Stream)                                                    \
  X(copy, cuMemcpyDtoDAsync_v2, Pointer, Pointer, size_t, Stream)                                                      \
  X(set_bytes, cuMemsetD8Async, Pointer, unsigned char, size_t, Stream)                                                \
  X(module_load, cuModuleLoadData, Module*, const void*)                                                               \
  X(module_unload, cuModuleUnload, Module)                                                                             \
  X(module_function, cuModuleGetFunction, Function*, Module, const char*)                                              \
  X(function_attribute, cuFuncGetAttribute, int*, int, Function)                                                       \
  X(set_function_attribute, cuFuncSetAttribute, Function, int, int)                                                    \
  X(launch, cuLaunchKernelEx, const LaunchConfig*, Function, void**, void**)                                           \
  X(stream_create, cuStreamCreate, Stream*, unsigned)                                                                  \
  X(stream_destroy, cuStreamDestroy_v2, Stream)                                                                        \
  X(stream_synchronize, cuStreamSynchronize, Stream)                                                                   \
  X(stream_wait, cuStreamWaitEvent, Stream, Event, unsigned)                                                           \
  X(stream_begin_capture, cuStreamBeginCapture_v2, Stream, int)                                                        \
  X(stream_end_capture, cuStreamEndCapture, Stream, Graph*)                                                            \
  X(graph_instantiate, cuGraphInstantiateWithFlags, GraphExec*, Graph, unsigned long long)                             \
  X(graph_launch, cuGraphLaunch, GraphExec, Stream)                                                                    \
  X(graph_upload, cuGraphUpload, GraphExec, Stream)                                                                    \
  X(graph_destroy, cuGraphDestroy, Graph)                                                                              \
  X(graph_exec_destroy, cuGraphExecDestroy, GraphExec)                                                                 \
  X(event_create, cuEventCreate, Event*, unsigned)                                                                     \
  X(event_destroy, cuEventDestroy_v2, Event)                                                                           \
  X(event_record, cuEventRecord, Event, Stream)                                                                        \
  X(event_synchronize, cuEventSynchronize, Event)                                                                      \
  X(event_elapsed, cuEventElapsedTime_v2, float*, Event, Event)                                                        \
  X(tensor_map_encode, cuTensorMapEncodeTiled, TensorMap*, int, unsigned, void*, const uint64_t*, const uint64_t*,     \
    const uint32_t*, const uint32_t*, int, int, int, int)

struct Driver {
#define ERN_CUDA_POINTER(name, symbol, ...) int (*name)(__VA_ARGS__) = nullptr;
  ERN_CUDA_CALLS(ERN_CUDA_POINTER)
#undef ERN_CUDA_POINTER

  // The process's driver, opened and initialised by the first call; it stays until the process ends.
  static Result<const Driver*> get();

  // `what` failed with this error: out of memory, or a device that failed.
  Status failure(int error, const char* what) const;
};

// CUDA 12.4 as cuDriverGetVersion says it: the oldest that knows all calls above and loads what nvcc 13 makes.
inline constexpr int oldest_driver = 12040;

}  // namespace ern::cuda
