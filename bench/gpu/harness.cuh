// What the GPU checks and benchmarks share: launches with programmatic dependence and clusters, buffers that are random or poisoned, float64
// references on the host, and times of graph replays. Nothing of a kernel.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "../../runtime/device/cuda/kernel.cuh"
#include "../../runtime/device/cuda/tma.cuh"

#define CK(call)                                                                             \
  do {                                                                                       \
    const cudaError_t status_ = (call);                                                      \
    if (status_ != cudaSuccess) {                                                            \
      std::printf("%s:%d %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(status_)); \
      std::exit(1);                                                                          \
    }                                                                                        \
  } while (0)

namespace bench {

using ern::cuda::Bf16;
using ern::cuda::Step;

struct Launch {
  dim3 grid;
  int threads;
  size_t shared = 0;
  int cluster = 1;
  bool dependent = true;
};

template <class... Params, class... Args>
void launch(void (*kernel)(Params...), const Launch& shape, cudaStream_t stream, Args... args) {
  if (shape.shared > 48 * 1024) CK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared)));
  if (shape.cluster > 8) CK(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = dim3(shape.threads);
  config.dynamicSmemBytes = shape.shared;
  config.stream = stream;
  cudaLaunchAttribute attributes[2];
  int count = 0;
  if (shape.dependent) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (shape.cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count].val.clusterDim.x = shape.cluster;
    attributes[count].val.clusterDim.y = attributes[count].val.clusterDim.z = 1;
    ++count;
  }
  config.attrs = attributes;
  config.numAttrs = count;
  CK(cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...));
}

// Boxes of 64 k x `high` rows of bf16 [rows, k].
inline ern::cuda::TensorMap row_map(const Bf16* data, int rows, int k, int high = 64) {
  using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                              CUtensorMapFloatOOBfill);
  static Encode encode = nullptr;
  cudaDriverEntryPointQueryResult found;
  if (!encode) CK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", reinterpret_cast<void**>(&encode), 12000, cudaEnableDefault, &found));
  CUtensorMap map;
  const cuuint64_t sizes[2] = {cuuint64_t(k), cuuint64_t(rows)}, strides[1] = {cuuint64_t(k) * 2};
  const cuuint32_t box[2] = {64, cuuint32_t(high)}, steps[2] = {1, 1};
  if (encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<Bf16*>(data), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) != CUDA_SUCCESS)
    std::printf("no tensor map\n"), std::exit(1);
  ern::cuda::TensorMap result;
  static_assert(sizeof result == sizeof map);
  std::memcpy(&result, &map, sizeof map);
  return result;
}

inline std::mt19937& random_engine() {
  static std::mt19937 engine(std::getenv("SEED") ? std::atoi(std::getenv("SEED")) : std::random_device{}());
  return engine;
}

// Device memory with a host side. Freed at exit of the process only where `keep`.
template <class T>
struct Buffer {
  T* device = nullptr;
  size_t count = 0;
  std::vector<T> host;

  explicit Buffer(size_t n, bool host_side = true) : count(n), host(host_side ? n : 0) { CK(cudaMalloc(&device, (n ? n : 1) * sizeof(T))); }
  Buffer(const Buffer&) = delete;
  ~Buffer() { cudaFree(device); }
  void upload() { CK(cudaMemcpy(device, host.data(), count * sizeof(T), cudaMemcpyHostToDevice)); }
  void download() { CK(cudaMemcpy(host.data(), device, count * sizeof(T), cudaMemcpyDeviceToHost)); }
  // All ones: NaN for floats, so that what a kernel forgets to write, or reads without need, shows.
  void poison() { CK(cudaMemset(device, 0xff, count * sizeof(T))); }
};

inline float as_float(float x) { return x; }
inline float as_float(Bf16 x) { return __bfloat162float(x); }

template <class T>
void fill_normal(Buffer<T>& buffer, float scale) {
  std::normal_distribution<float> normal(0, scale);
  for (auto& x : buffer.host) x = ern::cuda::Bf16(normal(random_engine()));
  buffer.upload();
}
template <>
inline void fill_normal(Buffer<float>& buffer, float scale) {
  std::normal_distribution<float> normal(0, scale);
  for (auto& x : buffer.host) x = normal(random_engine());
  buffer.upload();
}

inline int failures = 0, checks = 0;

// ||a - b||^2 / ||b||^2 of a device result and a reference; fails on NaN and above the limit.
template <class T>
void expect_close(const std::string& what, Buffer<T>& out, const std::vector<double>& reference, double limit) {
  out.download();
  double difference = 0, size = 0;
  for (size_t i = 0; i < reference.size(); ++i) {
    const double d = as_float(out.host[i]) - reference[i];
    difference += d * d, size += reference[i] * reference[i];
  }
  const double nmse = difference / (size > 0 ? size : 1);
  ++checks;
  if (!(nmse <= limit)) {
    ++failures;
    std::printf("FAIL %-60s nmse %.2e (limit %.0e)\n", what.c_str(), nmse, limit);
  } else if (std::getenv("VERBOSE")) {
    std::printf("ok   %-60s nmse %.2e\n", what.c_str(), nmse);
  }
}

inline void expect_equal(const std::string& what, Buffer<int32_t>& out, const std::vector<int32_t>& reference) {
  out.download();
  size_t wrong = 0;
  for (size_t i = 0; i < reference.size(); ++i) wrong += out.host[i] != reference[i];
  ++checks;
  if (wrong) {
    ++failures;
    std::printf("FAIL %-60s %zu of %zu differ\n", what.c_str(), wrong, reference.size());
  } else if (std::getenv("VERBOSE")) {
    std::printf("ok   %-60s exact\n", what.c_str());
  }
}

// Limits of the project: results in f32, and results rounded to bf16 (or from operands rounded on the way).
constexpr double f32_limit = 1e-10, bf16_limit = 1e-5;

struct DeviceStep {
  Buffer<Step> step{1};
  DeviceStep(int tokens, int sequences, int block_stride) { set(tokens, sequences, block_stride); }
  void set(int tokens, int sequences, int block_stride) {
    step.host[0] = {tokens, sequences, block_stride, 0};
    step.upload();
  }
  const Step* get() const { return step.device; }
};

// Median time in us of one replay of what `record` puts on the stream, which is captured `repeat` times in a graph.
inline double time_graph(const std::function<void(cudaStream_t)>& record, int repeat = 1, int replays = 30) {
  cudaStream_t stream;
  CK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  CK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < repeat; ++i) record(stream);
  CK(cudaStreamEndCapture(stream, &graph));
  CK(cudaGraphInstantiate(&executable, graph, 0));
  for (int i = 0; i < 5; ++i) CK(cudaGraphLaunch(executable, stream));
  CK(cudaStreamSynchronize(stream));
  cudaEvent_t begin, end;
  CK(cudaEventCreate(&begin));
  CK(cudaEventCreate(&end));
  std::vector<float> times;
  for (int i = 0; i < replays; ++i) {
    CK(cudaEventRecord(begin, stream));
    CK(cudaGraphLaunch(executable, stream));
    CK(cudaEventRecord(end, stream));
    CK(cudaStreamSynchronize(stream));
    float ms;
    CK(cudaEventElapsedTime(&ms, begin, end));
    times.push_back(ms * 1000 / repeat);
  }
  std::sort(times.begin(), times.end());
  CK(cudaGraphExecDestroy(executable));
  CK(cudaGraphDestroy(graph));
  CK(cudaEventDestroy(begin));
  CK(cudaEventDestroy(end));
  CK(cudaStreamDestroy(stream));
  return times[times.size() / 2];
}

}  // namespace bench
