// The products of many rows (gemm.cuh): right against float64 at awkward shapes, then TFLOP/s at the models' shapes, in rotating buffers.
// usage: gemm [check|time]. peer.py beside it gives cuBLAS on the same shapes.
#include <cudaTypedefs.h>

#include "../../runtime/device/cuda/gemm.cuh"
#include "harness.cuh"

using namespace ern::cuda;
using namespace bench;

namespace {

CUtensorMap make_map(const Bf16* data, int64_t rows, int64_t columns, int box_rows) {
  static PFN_cuTensorMapEncodeTiled_v12000 encode = nullptr;
  if (!encode) {
    cudaDriverEntryPointQueryResult found;
    CK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", reinterpret_cast<void**>(&encode), 12000, cudaEnableDefault, &found));
  }
  CUtensorMap map;
  const cuuint64_t dims[2] = {cuuint64_t(columns), cuuint64_t(rows)}, strides[1] = {cuuint64_t(columns) * 2};
  const cuuint32_t box[2] = {tile_k, cuuint32_t(box_rows)}, steps[2] = {1, 1};
  const CUresult status = encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<Bf16*>(data), dims, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) std::printf("cuTensorMapEncodeTiled: %d\n", int(status)), std::exit(1);
  return map;
}

template <class P, class Y>
__global__ void __launch_bounds__(384, 1) gemm_kernel(const Step* step, const float* bias, const float* residual, Y* y, const __grid_constant__ CUtensorMap x_map, const __grid_constant__ CUtensorMap weight_map) {
  gemm<P::value>(step, &x_map, &weight_map, bias, residual, y);
}

template <class P, class Y>
void launch_gemm(cudaStream_t stream, const Step* step, int rows, const float* bias, const float* residual, Y* y, const CUtensorMap& x, const CUtensorMap& w) {
  constexpr GemmTiling t = P::value.tiling;
  const int tiles = int(ceil_div(ceil_div(rows, 128), t.cluster) * ceil_div(P::value.n, t.columns));
  launch(gemm_kernel<P, Y>, {dim3(std::min(132 / t.cluster, tiles) * t.cluster), 384, size_t(gemm_shared<t>()), t.cluster}, stream, step, bias, residual, y, x, w);
}

double silu64(double x) { return x / (1 + std::exp(-x)); }

template <class P, class Y>
void check(const char* name, int rows) {
  constexpr Gemm p = P::value;
  const int out = p.swiglu ? p.n / 2 : p.n;
  const int padded = rows + 5;  // the map covers rows behind the last, which are NaN
  Buffer<Bf16> x(size_t(padded) * p.k), w(size_t(p.n) * p.k);
  Buffer<float> bias(p.n), residual(size_t(rows) * p.n);
  Buffer<Y> y(size_t(rows) * out + 256);
  fill_normal(x, 1), fill_normal(w, 1 / std::sqrt(float(p.k))), fill_normal(bias, 1), fill_normal(residual, 1);
  CK(cudaMemset(x.device + size_t(rows) * p.k, 0xff, size_t(5) * p.k * 2));
  y.poison();
  DeviceStep step(rows, rows, 0);
  launch_gemm<P, Y>(nullptr, step.get(), rows, bias.device, residual.device, y.device, make_map(x.device, padded, p.k, 128), make_map(w.device, p.n, p.k, p.tiling.columns / p.tiling.cluster));
  CK(cudaDeviceSynchronize());
  std::vector<double> want(size_t(rows) * out);
  const auto dot = [&](int r, int c) {
    double sum = 0;
    for (int i = 0; i < p.k; ++i) sum += double(as_float(x.host[size_t(r) * p.k + i])) * as_float(w.host[size_t(c) * p.k + i]);
    return sum + (p.bias ? bias.host[c] : 0);
  };
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < out; ++c) {
      if (p.swiglu) want[size_t(r) * out + c] = silu64(dot(r, c / 32 * 64 + c % 32)) * dot(r, c / 32 * 64 + 32 + c % 32);
      else want[size_t(r) * out + c] = dot(r, c) + (p.residual ? residual.host[size_t(r) * p.n + c] : 0);
    }
  }
  expect_close(std::string(name) + " " + std::to_string(rows), y, want, sizeof(Y) == 2 ? bf16_limit : 1e-9);
  for (size_t i = want.size(); i < y.count; ++i) {
    if (as_float(y.host[i]) == as_float(y.host[i])) { ++failures, std::printf("FAIL %s writes behind the end\n", name); break; }
  }
}

template <class P, class Y>
void time_gemm(const char* name, int rows) {
  constexpr Gemm p = P::value;
  const int out = p.swiglu ? p.n / 2 : p.n, sets = 4;
  std::vector<Bf16*> x(sets), w(sets);
  std::vector<Y*> y(sets);
  std::vector<CUtensorMap> xm(sets), wm(sets);
  Buffer<Bf16> random(1 << 22);
  fill_normal(random, 1);
  const auto filled = [&](size_t n) {
    Bf16* at;
    CK(cudaMalloc(&at, n * 2));
    for (size_t i = 0; i < n; i += random.count) CK(cudaMemcpy(at + i, random.device, std::min(random.count, n - i) * 2, cudaMemcpyDeviceToDevice));
    return at;
  };
  float* residual;
  CK(cudaMalloc(&residual, size_t(rows) * p.n * 4));
  CK(cudaMemset(residual, 0, size_t(rows) * p.n * 4));
  for (int i = 0; i < sets; ++i) {
    x[i] = filled(size_t(rows) * p.k), w[i] = filled(size_t(p.n) * p.k);
    CK(cudaMalloc(&y[i], size_t(rows) * out * sizeof(Y)));
    xm[i] = make_map(x[i], rows, p.k, 128), wm[i] = make_map(w[i], p.n, p.k, p.tiling.columns / p.tiling.cluster);
  }
  DeviceStep step(rows, rows, 0);
  const double us = time_graph([&](cudaStream_t s) {
    for (int i = 0; i < sets; ++i) launch_gemm<P, Y>(s, step.get(), rows, nullptr, residual, y[i], xm[i], wm[i]);
  }, 5) / sets;
  std::printf("%-34s rows %5d n %6d k %6d: %8.1f us %6.0f TFLOP/s\n", name, rows, p.n, p.k, us, 2.0 * rows * p.n * p.k / us / 1e6);
  for (int i = 0; i < sets; ++i) { cudaFree(x[i]); cudaFree(w[i]); cudaFree(y[i]); }
  cudaFree(residual);
}

#define CASE(name, ...)                        \
  struct name {                                \
    static constexpr auto value = __VA_ARGS__; \
  }
constexpr Rows T = Rows::tokens;
constexpr GemmTiling wide{256, 4, 2, 8}, alone{256, 4, 1, 8}, half{128, 6, 2, 8}, half_alone{128, 6, 1, 8}, narrow{64, 6, 1, 8};
CASE(Odd, Gemm{328, 200, false, true, true, T, wide});
CASE(OddAlone, Gemm{328, 200, false, true, false, T, alone});
CASE(OddHalf, Gemm{328, 200, false, false, true, T, half});
CASE(OddNarrow, Gemm{328, 96, false, false, false, T, narrow});
CASE(UpOdd, Gemm{320, 128, true, false, false, T, wide});
CASE(UpOddHalf, Gemm{320, 128, true, true, false, T, half_alone});

CASE(Qkv03, Gemm{2560, 1024, false, false, false, T, wide});
CASE(Qkv03h, Gemm{2560, 1024, false, false, false, T, half});
CASE(O03, Gemm{1024, 2048, false, false, true, T, wide});
CASE(O03h, Gemm{1024, 2048, false, false, true, T, half});
CASE(Up03, Gemm{6144, 1024, true, false, false, T, wide});
CASE(Down03, Gemm{1024, 3072, false, false, true, T, wide});
CASE(Down03h, Gemm{1024, 3072, false, false, true, T, half});
CASE(Qkv21, Gemm{3584, 2560, false, false, false, T, wide});
CASE(Qkv21a, Gemm{3584, 2560, false, false, false, T, alone});
CASE(O21, Gemm{2560, 2560, false, false, true, T, wide});
CASE(O21p, Gemm{2560, 2560, false, false, false, T, wide});
CASE(Up21, Gemm{24576, 2560, true, false, false, T, wide});
CASE(Up21p, Gemm{24576, 2560, false, false, false, T, wide});
CASE(Down21, Gemm{2560, 12288, false, false, true, T, wide});
CASE(Shared21, Gemm{6144, 2560, true, false, false, T, wide});
CASE(SharedDown21, Gemm{2560, 3072, false, false, true, T, wide});
CASE(Square, Gemm{8192, 8192, false, false, false, T, wide});

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what != "time") {
    for (int rows : {1, 63, 128, 129, 300}) {
      check<Odd, float>("bias residual", rows), check<OddAlone, Bf16>("bias", rows), check<OddHalf, float>("residual, 128 columns", rows), check<OddNarrow, Bf16>("64 columns", rows);
      check<UpOdd, Bf16>("swiglu", rows), check<UpOddHalf, float>("swiglu bias, 128 columns", rows);
    }
    check<Qkv03, float>("qkv 0.3B", 517);
    std::printf("%d checks, %d failures\n", checks, failures);
  }
  if (what != "check") {
    for (int rows : {2048, 16384}) {
      time_gemm<Qkv03, float>("0.3B qkv f32", rows), time_gemm<Qkv03h, float>("0.3B qkv f32, 128 columns", rows), time_gemm<O03, float>("0.3B o + residual", rows), time_gemm<O03h, float>("0.3B o + residual, 128", rows);
      time_gemm<Up03, Bf16>("0.3B swiglu", rows), time_gemm<Down03, float>("0.3B down + residual", rows), time_gemm<Down03h, float>("0.3B down + residual, 128", rows);
    }
    time_gemm<Qkv21, Bf16>("21B qkv bf16", 2048), time_gemm<Qkv21, float>("21B qkv f32", 2048), time_gemm<Qkv21a, float>("21B qkv f32, no cluster", 2048), time_gemm<O21, float>("21B o + residual f32", 2048), time_gemm<O21p, Bf16>("21B o bf16", 2048);
    time_gemm<Up21, Bf16>("21B swiglu", 2048), time_gemm<Up21p, Bf16>("21B gate|up bf16", 2048), time_gemm<Down21, float>("21B down + residual f32", 2048), time_gemm<Shared21, Bf16>("21B shared swiglu", 2048), time_gemm<SharedDown21, float>("21B shared down + residual", 2048);
    time_gemm<Square, Bf16>("square", 8192);
  }
  return failures != 0;
}
