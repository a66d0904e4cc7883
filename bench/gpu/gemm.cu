// The prefill products of the 0.3B and the 21B-A3B on a GPU: each variant is first compared with a plain kernel that sums in double, then timed in turns
// with buffers that rotate through more memory than L2 holds. bench/gpu/gemm_peer.py times cuBLAS on the same shapes.
//
//   nvcc -O3 -std=c++20 -I runtime -gencode=arch=compute_90a,code=sm_90a -o gemm bench/gpu/gemm.cu && ./gemm [reps [name]]
#include <cuda.h>
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "device/cuda/gemm.cuh"

using namespace ern::cuda;

#define CHECK(call)                                                                                     \
  do {                                                                                                  \
    if (const auto status = (call); status != 0) {                                                      \
      std::fprintf(stderr, "%s:%d: %s gives %d\n", __FILE__, __LINE__, #call, static_cast<int>(status)); \
      std::exit(1);                                                                                     \
    }                                                                                                   \
  } while (0)

namespace {

using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                            const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

TensorMap make_map(const Bf16* data, int rows, int k, int box_rows) {
  static const Encode encode = reinterpret_cast<Encode>(dlsym(dlopen("libcuda.so.1", RTLD_NOW), "cuTensorMapEncodeTiled"));
  CUtensorMap map;
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(k), static_cast<cuuint64_t>(rows)}, strides[1] = {static_cast<cuuint64_t>(k) * 2};
  const cuuint32_t box[2] = {tile_k, static_cast<cuuint32_t>(box_rows)}, steps[2] = {1, 1};
  CHECK(encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<Bf16*>(data), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
               CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE));
  TensorMap result;
  static_assert(sizeof result == sizeof map);
  memcpy(&result, &map, sizeof map);
  return result;
}

// Problems and tilings come as types with a constant: a kernel's template arguments can't be values of a class.

template <class P, class Y>
__global__ void __launch_bounds__(gemm_threads, 1)
    run(const Step* step, const float* bias, const float* residual, Y* y, const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weight) {
  gemm<P::problem>(step, &x, &weight, bias, residual, y);
}

__global__ void fill(Bf16* data, int64_t count, uint32_t seed, float scale) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
    uint32_t h = static_cast<uint32_t>(i) * 2654435761u ^ seed;
    h ^= h >> 15, h *= 2246822519u, h ^= h >> 13, h *= 3266489917u, h ^= h >> 16;
    data[i] = __float2bfloat16(scale * (static_cast<float>(h & 0xffff) / 32768.0f - 1.0f));
  }
}

__global__ void fill_float(float* data, int64_t count, uint32_t seed) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x)
    data[i] = static_cast<float>((static_cast<uint32_t>(i) * 2654435761u ^ seed) >> 16) / 65536.0f - 0.5f;
}

// y in double, one thread a value; with swiglu gate and up apart by `group` rows.
__global__ void plain(const Bf16* x, const Bf16* w, const float* bias, const float* residual, double* y, int rows, int n, int k, int group) {
  const int out_n = group > 0 ? n / 2 : n;
  const int64_t at = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (at >= int64_t{rows} * out_n) return;
  const int64_t row = at / out_n, column = at % out_n;
  const auto dot = [&](int64_t c) {
    double sum = 0;
    for (int i = 0; i < k; ++i) sum += static_cast<double>(__bfloat162float(x[row * k + i])) * static_cast<double>(__bfloat162float(w[c * k + i]));
    return sum + (bias ? bias[c] : 0);
  };
  if (group > 0) {
    const int64_t gate_row = column / group * 2 * group + column % group;
    const double gate = dot(gate_row), up = dot(gate_row + group);
    y[at] = gate / (1 + exp(-gate)) * up;
  } else {
    y[at] = dot(column) + (residual ? residual[at] : 0);
  }
}

// Rotated, rounded results in double, from what `plain` left: queries [rows, heads * head_dim], then what belongs into the cache.
constexpr double theta = 500000;
__global__ void rotate_plain(double* y, const int32_t* positions, int rows, int n, int turned, int head_dim) {
  const int64_t at = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (at >= int64_t{rows} * turned / 2) return;
  const int64_t row = at / (turned / 2), column = at % (turned / 2) * 2;
  const float frequency = static_cast<float>(pow(theta, -static_cast<double>(column % head_dim) / head_dim));
  const double angle = static_cast<float>(positions[3 * row]) * frequency, c = cos(angle), s = sin(angle);
  double* const pair = y + row * n + column;
  const double a = pair[0], b = pair[1];
  pair[0] = a * c - b * s, pair[1] = b * c + a * s;
}

// The queries and the rows of the cache side by side again.
template <class P>
__global__ void join(const Bf16* q, const Bf16* kv, const int32_t* slots, float* y, int rows) {
  constexpr Gemm problem = P::problem;
  constexpr int head_dim = problem.cache.head_dim;
  const KvCache<problem.cache> cache{const_cast<Bf16*>(kv)};
  const int64_t at = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (at >= int64_t{rows} * problem.n) return;
  const int64_t row = at / problem.n;
  const int column = static_cast<int>(at % problem.n), head = column / head_dim, dim = column % head_dim;
  y[at] = __bfloat162float(head < problem.heads                             ? q[row * problem.heads * head_dim + column]
                           : head < problem.heads + problem.cache.kv_heads ? *cache.key(slots[row], head - problem.heads, dim)
                                                                           : *cache.value(slots[row], head - problem.heads - problem.cache.kv_heads, dim));
}

template <class P>
__global__ void __launch_bounds__(gemm_threads, 1) run_rope(const Step* step, const float* bias, const float* turns, const int32_t* slots, Bf16* q, Bf16* kv,
                                                            const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weight) {
  gemm_rope<P::problem>(step, &x, &weight, bias, turns, slots, q, kv);
}
template <int head_dim>
__device__ const auto frequencies = rope_frequencies<head_dim>(theta);
template <int head_dim>
__global__ void __launch_bounds__(256) run_turns(const Step* step, const int32_t* positions, float* turns) {
  rope_turns<RopeTurns{head_dim}>(step, positions, frequencies<head_dim>, turns);
}

template <class Y>
__global__ void errors(const Y* y, const double* want, int64_t count, double* sums) {
  double error = 0, power = 0;
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
    const double got = static_cast<double>(static_cast<float>(y[i])), difference = got - want[i];
    error += isfinite(got) ? difference * difference : 1e30, power += want[i] * want[i];
  }
  atomicAdd(sums, error), atomicAdd(sums + 1, power);
}

template <class T>
T* allocate(int64_t count) {
  void* data;
  CHECK(cudaMalloc(&data, static_cast<size_t>(count) * sizeof(T)));
  return static_cast<T*>(data);
}

int processors() {
  int count;
  CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, 0));
  return count;
}

constexpr int rotation = 4;  // sets of operands, together larger than L2 for the shapes that matter

struct Buffers {
  Bf16 *x, *w;
  float *bias, *residual;
  void* y;
  double* want;
  Step* step;
};
constexpr int64_t x_room = int64_t{16384 + 256} * 12288, w_room = int64_t{24576} * 12288, y_room = int64_t{16384 + 256} * 24576;

Buffers& buffers() {
  static Buffers b = [] {
    Buffers made{allocate<Bf16>(x_room), allocate<Bf16>(w_room), allocate<float>(32768), allocate<float>(y_room), allocate<float>(y_room),
                 nullptr, allocate<Step>(1)};
    fill<<<4096, 256>>>(made.x, x_room, 1, 1.0f);
    fill<<<4096, 256>>>(made.w, w_room, 2, 0.05f);
    fill_float<<<64, 256>>>(made.bias, 32768, 3);
    fill_float<<<4096, 256>>>(made.residual, y_room, 4);
    return made;
  }();
  return b;
}

// As the runtime launches it: one block a multiprocessor, in clusters.
template <class P, class Y>
void launch(const Step* step, const float* bias, const float* residual, Y* y, const TensorMap& x, const TensorMap& weight) {
  constexpr GemmTiling tiling = P::problem.tiling;
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(tiling.cluster), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = static_cast<unsigned>(processors() / tiling.cluster * tiling.cluster);
  config.blockDim = gemm_threads;
  config.dynamicSmemBytes = gemm_shared_bytes(tiling);
  config.attrs = &cluster;
  config.numAttrs = 1;
  CHECK(cudaLaunchKernelEx(&config, run<P, Y>, step, bias, residual, y, x, weight));
}

int failures = 0;
const char* only = "";  // names that are timed begin with it

template <class P, class Y>
void check(int rows) {
  constexpr Gemm problem = P::problem;
  Buffers& b = buffers();
  const int out_n = problem.swiglu ? problem.n / 2 : problem.n;
  const Step step{rows, 1, 1, 0};
  CHECK(cudaMemcpy(b.step, &step, sizeof step, cudaMemcpyHostToDevice));
  const int64_t count = int64_t{rows} * out_n;
  double* want = allocate<double>(count);
  double* sums = allocate<double>(2);
  CHECK(cudaMemset(sums, 0, 16));
  CHECK(cudaMemset(b.y, 0xff, static_cast<size_t>(count + 4096) * sizeof(Y)));
  if (getenv("PROGRESS")) { CHECK(cudaDeviceSynchronize()); std::printf("filled\n"); }
  plain<<<static_cast<unsigned>(ceil_div(count, 256)), 256>>>(b.x, b.w, problem.bias ? b.bias : nullptr, problem.residual ? b.residual : nullptr, want, rows,
                                                            problem.n, problem.k, problem.swiglu ? problem.group : 0);
  if (getenv("PROGRESS")) { CHECK(cudaDeviceSynchronize()); std::printf("n %d k %d rows %d tile %dx%d\n", problem.n, problem.k, rows, problem.tiling.rows, problem.tiling.columns); }
  auto kernel = run<P, Y>;
  CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, gemm_shared_bytes(problem.tiling)));
  launch<P, Y>(b.step, b.bias, b.residual, static_cast<Y*>(b.y), make_map(b.x, rows + 300, problem.k, problem.tiling.rows),
                                                                            make_map(b.w, problem.n, problem.k, problem.tiling.columns / problem.tiling.cluster));
  CHECK(cudaGetLastError());
  CHECK(cudaDeviceSynchronize());
  errors<<<256, 256>>>(static_cast<const Y*>(b.y), want, count, sums);
  std::vector<uint8_t> behind(4096 * sizeof(Y));
  CHECK(cudaMemcpy(behind.data(), static_cast<Y*>(b.y) + count, behind.size(), cudaMemcpyDeviceToHost));
  const bool intact = std::ranges::all_of(behind, [](uint8_t byte) { return byte == 0xff; });
  double found[2];
  CHECK(cudaMemcpy(found, sums, 16, cudaMemcpyDeviceToHost));
  const double nmse = found[0] / found[1], limit = sizeof(Y) == 2 ? 1e-5 : 1e-10;
  if (!(nmse < limit) || !intact) {
    ++failures;
    std::printf("WRONG n %d k %d rows %d tile %dx%d: nmse %.2e%s\n", problem.n, problem.k, rows, problem.tiling.rows, problem.tiling.columns, nmse,
                intact ? "" : ", wrote behind the end");
  }
  CHECK(cudaFree(want));
  CHECK(cudaFree(sums));
}

template <class P, class Y>
double time(int rows, int reps) {
  constexpr Gemm problem = P::problem;
  Buffers& b = buffers();
  const Step step{rows, 1, 1, 0};
  CHECK(cudaMemcpy(b.step, &step, sizeof step, cudaMemcpyHostToDevice));
  auto kernel = run<P, Y>;
  CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, gemm_shared_bytes(problem.tiling)));
  TensorMap x[rotation], w[rotation];
  const int64_t out_n = problem.swiglu ? problem.n / 2 : problem.n;
  const int64_t x_sets = std::min<int64_t>(rotation, x_room / (int64_t{rows} * problem.k)), w_sets = std::min<int64_t>(rotation, w_room / (int64_t{problem.n} * problem.k)),
                y_sets = std::min<int64_t>(rotation, y_room / (rows * out_n));
  for (int i = 0; i < rotation; ++i) {
    x[i] = make_map(b.x + i % x_sets * rows * problem.k, rows, problem.k, problem.tiling.rows);
    w[i] = make_map(b.w + i % w_sets * problem.n * problem.k, problem.n, problem.k, problem.tiling.columns / problem.tiling.cluster);
  }
  cudaEvent_t begin, end;
  CHECK(cudaEventCreate(&begin));
  CHECK(cudaEventCreate(&end));
  std::vector<double> times;
  for (int round = 0; round < 7; ++round) {
    CHECK(cudaEventRecord(begin));
    for (int i = 0; i < reps; ++i)
      launch<P, Y>(b.step, b.bias, b.residual, static_cast<Y*>(b.y) + i % y_sets * rows * out_n, x[i % rotation], w[i % rotation]);
    CHECK(cudaEventRecord(end));
    CHECK(cudaEventSynchronize(end));
    float ms;
    CHECK(cudaEventElapsedTime(&ms, begin, end));
    if (round > 0) times.push_back(ms / reps * 1e-3);
  }
  std::ranges::sort(times);
  return times[times.size() / 2];
}

// What qkv_rope_append reads and writes besides: `rows` rows at slots in another order than theirs.
struct RopeBuffers {
  int32_t *positions, *slots;
  float* turns;
  Bf16 *q, *kv;
  int64_t kv_elements;
  std::vector<int32_t> slot_of;
  template <class Problem>
  RopeBuffers(Problem problem, int rows) {
    const int blocks = static_cast<int>(ceil_div(rows, problem.cache.block_size)) + 2;
    const int64_t block_elements = problem.cache.kv_block_bytes / 2;
    kv_elements = blocks * block_elements;
    std::vector<int32_t> position(3 * static_cast<size_t>(rows));
    const int all = blocks * problem.cache.block_size;
    for (int i = 0; i < rows; ++i) {
      position[3 * i] = (i * 37 + 5) % 131072, position[3 * i + 1] = position[3 * i + 2] = -1;
      slot_of.push_back((i + 3 * problem.cache.block_size / 2) % all);
    }
    positions = allocate<int32_t>(3 * int64_t{rows}), slots = allocate<int32_t>(rows), turns = allocate<float>(int64_t{rows} * problem.cache.head_dim);
    q = allocate<Bf16>((int64_t{rows} + 300) * problem.heads * problem.cache.head_dim), kv = allocate<Bf16>(kv_elements);
    CHECK(cudaMemcpy(positions, position.data(), position.size() * 4, cudaMemcpyHostToDevice));
    CHECK(cudaMemcpy(slots, slot_of.data(), slot_of.size() * 4, cudaMemcpyHostToDevice));
    CHECK(cudaMemset(q, 0xff, (static_cast<size_t>(rows) + 300) * problem.heads * problem.cache.head_dim * 2));
    CHECK(cudaMemset(kv, 0xff, static_cast<size_t>(kv_elements) * 2));
    CHECK(cudaMemset(turns, 0xff, static_cast<size_t>(rows) * problem.cache.head_dim * 4));
  }
  ~RopeBuffers() {
    for (void* data : {static_cast<void*>(positions), static_cast<void*>(slots), static_cast<void*>(turns), static_cast<void*>(q), static_cast<void*>(kv)}) cudaFree(data);
  }
};

template <class P>
void launch_turns(const Step* step, const RopeBuffers& r, int rows) {
  constexpr int head_dim = P::problem.cache.head_dim;
  run_turns<head_dim><<<static_cast<unsigned>(ceil_div(rows, rope_turns_rows(head_dim))), 256>>>(step, r.positions, r.turns);
}

template <class P>
void launch_rope(const Step* step, const float* bias, const RopeBuffers& r, const TensorMap& x, const TensorMap& weight) {
  constexpr GemmTiling tiling = P::problem.tiling;
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(tiling.cluster), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = static_cast<unsigned>(processors() / tiling.cluster * tiling.cluster);
  config.blockDim = gemm_threads;
  config.dynamicSmemBytes = gemm_shared_bytes(tiling);
  config.attrs = &cluster;
  config.numAttrs = 1;
  CHECK(cudaLaunchKernelEx(&config, run_rope<P>, step, bias, static_cast<const float*>(r.turns), static_cast<const int32_t*>(r.slots), r.q, r.kv, x, weight));
}

template <class P>
void check_rope(int rows) {
  constexpr Gemm problem = P::problem;
  constexpr int head_dim = problem.cache.head_dim, turned = (problem.heads + problem.cache.kv_heads) * head_dim, queries = problem.heads * head_dim;
  Buffers& b = buffers();
  const Step step{rows, 1, 1, 0};
  CHECK(cudaMemcpy(b.step, &step, sizeof step, cudaMemcpyHostToDevice));
  const int64_t count = int64_t{rows} * problem.n;
  double* want = allocate<double>(count);
  float* got = allocate<float>(count);
  double* sums = allocate<double>(2);
  CHECK(cudaMemset(sums, 0, 16));
  RopeBuffers r(problem, rows);
  plain<<<static_cast<unsigned>(ceil_div(count, 256)), 256>>>(b.x, b.w, problem.bias ? b.bias : nullptr, nullptr, want, rows, problem.n, problem.k, 0);
  rotate_plain<<<static_cast<unsigned>(ceil_div(count, 256)), 256>>>(want, r.positions, rows, problem.n, turned, head_dim);
  CHECK(cudaFuncSetAttribute(run_rope<P>, cudaFuncAttributeMaxDynamicSharedMemorySize, gemm_shared_bytes(problem.tiling)));
  launch_turns<P>(b.step, r, rows);
  launch_rope<P>(b.step, b.bias, r, make_map(b.x, rows + 300, problem.k, problem.tiling.rows),
                 make_map(b.w, problem.n, problem.k, problem.tiling.columns / problem.tiling.cluster));
  CHECK(cudaGetLastError());
  CHECK(cudaDeviceSynchronize());
  join<P><<<static_cast<unsigned>(ceil_div(count, 256)), 256>>>(r.q, r.kv, r.slots, got, rows);
  errors<<<256, 256>>>(got, want, count, sums);
  double found[2];
  CHECK(cudaMemcpy(found, sums, 16, cudaMemcpyDeviceToHost));
  const auto written = [](const Bf16* data, int64_t elements) {
    std::vector<uint16_t> host(static_cast<size_t>(elements));
    CHECK(cudaMemcpy(host.data(), data, host.size() * 2, cudaMemcpyDeviceToHost));
    return static_cast<int64_t>(std::ranges::count_if(host, [](uint16_t word) { return word != 0xffff; }));
  };
  const int64_t q_written = written(r.q, (int64_t{rows} + 300) * queries), kv_written = written(r.kv, r.kv_elements);
  const bool intact = q_written == int64_t{rows} * queries && kv_written == int64_t{rows} * 2 * problem.cache.kv_heads * head_dim;
  const double nmse = found[0] / found[1];
  if (!(nmse < 1e-5) || !intact) {
    ++failures;
    std::printf("WRONG rotated n %d k %d rows %d tile %dx%d: nmse %.2e, %lld of q and %lld of kv written\n", problem.n, problem.k, rows, problem.tiling.rows,
                problem.tiling.columns, nmse, static_cast<long long>(q_written), static_cast<long long>(kv_written));
  }
  CHECK(cudaFree(want));
  CHECK(cudaFree(got));
  CHECK(cudaFree(sums));
}

template <int heads, int kv_heads, int head_dim, int k_, bool bias_, class T>
struct Rotated {
  static constexpr int block_size = 64;
  static constexpr Gemm problem{.n = (heads + 2 * kv_heads) * head_dim, .k = k_, .bias = bias_, .heads = heads,
                                .cache = {kv_heads, head_dim, block_size, int64_t{3} * 2 * kv_heads * block_size * head_dim * 2}, .tiling = T::tiling};
};

template <class... T>
void check_rotated() {
  for (const int rows : {1, 130, 517}) {
    (check_rope<Rotated<16, 2, 128, 1024, false, T>>(rows), ...);
    (check_rope<Rotated<4, 1, 64, 200, true, T>>(rows), ...);
    (check_rope<Rotated<20, 4, 128, 2560, false, T>>(rows), ...);
  }
}

template <int heads, int kv_heads, int k, class T>
void one_rotated(const char* name, int rows, int reps) {
  if (std::strncmp(name, only, std::strlen(only)) != 0) return;
  using P = Rotated<heads, kv_heads, 128, k, false, T>;
  constexpr Gemm problem = P::problem;
  Buffers& b = buffers();
  const Step step{rows, 1, 1, 0};
  CHECK(cudaMemcpy(b.step, &step, sizeof step, cudaMemcpyHostToDevice));
  CHECK(cudaFuncSetAttribute(run_rope<P>, cudaFuncAttributeMaxDynamicSharedMemorySize, gemm_shared_bytes(problem.tiling)));
  TensorMap x[rotation], w[rotation];
  for (int i = 0; i < rotation; ++i) {
    x[i] = make_map(b.x + int64_t{i} * rows * k, rows, k, problem.tiling.rows);
    w[i] = make_map(b.w + int64_t{i} * problem.n * k, problem.n, k, problem.tiling.columns / problem.tiling.cluster);
  }
  RopeBuffers r0(problem, rows), r1(problem, rows);
  launch_turns<P>(b.step, r0, rows);
  launch_turns<P>(b.step, r1, rows);
  cudaEvent_t begin, end;
  CHECK(cudaEventCreate(&begin));
  CHECK(cudaEventCreate(&end));
  std::vector<double> times;
  for (int round = 0; round < 7; ++round) {
    CHECK(cudaEventRecord(begin));
    for (int i = 0; i < reps; ++i) launch_rope<P>(b.step, b.bias, i % 2 ? r1 : r0, x[i % rotation], w[i % rotation]);
    CHECK(cudaEventRecord(end));
    CHECK(cudaEventSynchronize(end));
    float ms;
    CHECK(cudaEventElapsedTime(&ms, begin, end));
    if (round > 0) times.push_back(ms / reps * 1e-3);
  }
  std::ranges::sort(times);
  const double seconds = times[times.size() / 2];
  std::printf("%-14s rows %5d n %5d k %5d rope tile %3dx%3dc%d stages %d %s %8.1f us %6.1f TFLOP/s\n", name, rows, problem.n, k, problem.tiling.rows,
              problem.tiling.columns, problem.tiling.cluster, problem.tiling.stages, problem.tiling.turns ? "turns " : "shared", seconds * 1e6,
              2e-12 * rows * problem.n * k / seconds);
}

template <int heads, int kv_heads, int k, class... T>
void all_rotated(const char* name, int rows, int reps) {
  (one_rotated<heads, kv_heads, k, T>(name, rows, reps), ...);
}

enum class Kind { plain, residual, swiglu };

template <int n_, int k_, Kind kind, class T>
struct Timed {
  static constexpr Gemm problem{.n = n_, .k = k_, .residual = kind == Kind::residual, .swiglu = kind == Kind::swiglu, .tiling = T::tiling};
};

template <int n, int k, Kind kind, class Y, class T>
void one(const char* name, int rows, int reps) {
  if (std::strncmp(name, only, std::strlen(only)) != 0) return;
  constexpr GemmTiling tiling = T::tiling;
  const double seconds = time<Timed<n, k, kind, T>, Y>(rows, reps);
  std::printf("%-14s rows %5d n %5d k %5d %s tile %3dx%3dc%d stages %d %s %8.1f us %6.1f TFLOP/s\n", name, rows, n, k, sizeof(Y) == 2 ? "bf16" : kind == Kind::plain ? "f32 " : "f32+",
              tiling.rows, tiling.columns, tiling.cluster, tiling.stages, tiling.turns ? "turns " : "shared", seconds * 1e6, 2e-12 * rows * n * k / seconds);
}

template <int rows, int columns, int stages, bool turns, int cluster>
struct Tile { static constexpr GemmTiling tiling{rows, columns, stages, turns, cluster}; };

template <int n, int k, Kind kind, class Y, class... T>
void all(const char* name, int rows, int reps) {
  (one<n, k, kind, Y, T>(name, rows, reps), ...);
}

template <class T>
struct PlainBf16 { static constexpr Gemm problem{.n = 2560, .k = 1024, .tiling = T::tiling}; };
template <class T>
struct Awkward { static constexpr Gemm problem{.n = 1000, .k = 200, .bias = true, .residual = true, .tiling = T::tiling}; };
template <class T>
struct Swiglu { static constexpr Gemm problem{.n = 6144, .k = 1024, .swiglu = true, .tiling = T::tiling}; };
template <class T>
struct NarrowSwiglu { static constexpr Gemm problem{.n = 768, .k = 520, .bias = true, .swiglu = true, .group = 8, .tiling = T::tiling}; };

template <class T>
void check_all() {
  for (const int rows : {1, 63, 130, 517}) {
    check<PlainBf16<T>, Bf16>(rows);
    check<Awkward<T>, float>(rows);
    if constexpr (T::tiling.columns % 64 == 0) check<Swiglu<T>, Bf16>(rows);
    if constexpr (T::tiling.columns % 64 == 0) check<NarrowSwiglu<T>, Bf16>(rows);
  }
}

}  // namespace

template <class... T>
void check_tiles() {
  (check_all<T>(), ...);
}

int main(int argc, char** argv) {
  const int reps = argc > 1 ? std::atoi(argv[1]) : 20;
  if (argc > 2) only = argv[2];
  setvbuf(stdout, nullptr, _IOLBF, 0);
  using wide = Tile<128, 256, 4, false, 1>;
  using turns = Tile<128, 128, 6, true, 1>;
  using turns2 = Tile<128, 128, 6, true, 2>;
  using five = Tile<128, 160, 6, false, 1>;
  using five_turns2 = Tile<128, 160, 6, true, 2>;
  using seven = Tile<128, 224, 5, false, 1>;
  using seven2 = Tile<128, 224, 5, false, 2>;
  using tall5 = Tile<256, 160, 4, false, 1>;
  using tall52 = Tile<256, 160, 4, false, 2>;
  using five_turns = Tile<128, 160, 6, true, 1>;
  using wide2 = Tile<128, 256, 4, false, 2>;
  if (std::getenv("ROTATED") == nullptr) check_tiles<wide, turns2, five_turns2, seven2, tall5, tall52>();
  check_rotated<wide, turns, five_turns, five, seven, seven2, tall5>();
  std::printf("checks: %s\n", failures ? "WRONG" : "right");
  if (reps == 0) return failures != 0;
  for (const int rows : {2048, 8192}) {
    all_rotated<16, 2, 1024, turns, five, five_turns, five_turns2, tall5, wide>("0.3B rotated", rows, reps);
    all_rotated<20, 4, 2560, seven, seven2, wide, wide2, five_turns, five_turns2, tall5>("21B rotated", rows, reps);
    all<2560, 1024, Kind::plain, float, five, tall5, tall52>("0.3B qkv", rows, reps);
    all<1024, 2048, Kind::residual, float, turns, turns2, tall52>("0.3B o", rows, reps);
    all<6144, 1024, Kind::swiglu, Bf16, wide, turns>("0.3B gate|up", rows, reps);
    all<1024, 3072, Kind::residual, float, turns2, tall52>("0.3B down", rows, reps);
    all<3584, 2560, Kind::plain, float, seven, seven2, tall52>("21B qkv", rows, reps);
    all<2560, 2560, Kind::residual, float, five_turns2, tall5, tall52>("21B o", rows, reps);
    all<2560, 2560, Kind::plain, Bf16, tall5, tall52>("21B o", rows, reps);
    all<6144, 2560, Kind::swiglu, Bf16, wide>("21B shared up", rows, reps);
    all<2560, 3072, Kind::residual, float, five_turns2, tall5, tall52>("21B shared", rows, reps);
  }
  all<24576, 2560, Kind::swiglu, Bf16, wide>("21B gate|up", 2048, reps);
  all<2560, 12288, Kind::residual, float, five_turns2, tall5, tall52>("21B down", 2048, reps);
  return failures != 0;
}
