// Times of attention_prefill and attention_wgmma on sequences of equal length, alone: us and TFLOP/s of the causal half. usage: attention
#include "../../runtime/device/cuda/attention_prefill.cuh"
#include "../../runtime/device/cuda/attention_wgmma.cuh"
#include "maps.cuh"

using namespace ern::cuda;
using namespace bench;

namespace {

constexpr int block_size = 64;
template <int heads, int kv_heads>
struct Problem {
  static constexpr int64_t bytes = int64_t{2} * kv_heads * block_size * 128 * 2;
  static constexpr PrefillAttention value{heads, {kv_heads, 128, block_size, bytes}};
};
template <class P, bool turns>
__global__ void __launch_bounds__(384, 1) wgmma_kernel(const Step* s, const int32_t* table, const int32_t* start, const int32_t* context, float scale, Bf16* out,
                                                       const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap kv) {
  constexpr WgmmaAttention problem{P::value.heads, P::value.cache, turns};
  attention_wgmma<problem>(s, &q, &kv, table, start, context, scale, out);
}
template <class P>
__global__ void __launch_bounds__(128, 2) prefill_kernel(const Step* s, const Bf16* q, Bf16* kv, const int32_t* table, const int32_t* start, const int32_t* context, float scale, Bf16* out) {
  attention_prefill<P::value>(s, q, kv, table, start, context, scale, out);
}

template <int heads, int kv_heads>
void time_prefill(int sequences, int length, int past = 0) {
  using P = Problem<heads, kv_heads>;
  const int T = sequences * length, stride = int(ceil_div(length + past, block_size));
  Buffer<Bf16> q(size_t(T) * heads * 128), out(q.count), kv(size_t(sequences) * stride * P::bytes / 2);
  Buffer<int32_t> table(size_t(sequences) * stride), start(sequences + 1), context(sequences);
  fill_normal(q, 1), fill_normal(kv, 1);
  for (size_t i = 0; i < table.count; ++i) table.host[i] = int(i * 7919 % table.count);
  for (int s = 0; s <= sequences; ++s) start.host[s] = s * length;
  for (int& c : context.host) c = length + past;
  table.upload(), start.upload(), context.upload();
  DeviceStep step(T, sequences, stride);
  const double operations = 4.0 * sequences * heads * 128 * (double(length) * past + double(length) * length / 2);
  const TensorMap q_map = query_map(q.device, T, heads), kv_map = cache_map(kv.device, kv_heads, block_size, P::bytes);
  const char* const names[] = {"attention_prefill", "attention_wgmma, together", "attention_wgmma, turns"};
  for (int kernel = 0; kernel < 3; ++kernel) {
    const double us = time_graph([&](cudaStream_t s) {
      const Launch wide{dim3(heads, ceil_div(T, 128)), 384, size_t(attention_wgmma_shared)};
      if (kernel == 0) launch(prefill_kernel<P>, {dim3(ceil_div(T, P::value.rows), heads), 128, size_t(attention_prefill_shared<P::value>())}, s, step.get(), q.device, kv.device, table.device, start.device, context.device, 0.088f, out.device);
      if (kernel == 1) launch(wgmma_kernel<P, false>, wide, s, step.get(), table.device, start.device, context.device, 0.088f, out.device, q_map, kv_map);
      if (kernel == 2) launch(wgmma_kernel<P, true>, wide, s, step.get(), table.device, start.device, context.device, 0.088f, out.device, q_map, kv_map);
    }, 3, 15);
    std::printf("%-25s heads %d/%d, %d x %d after %d: %.1f us, %.0f TFLOP/s\n", names[kernel], heads, kv_heads, sequences, length, past, us, operations / us / 1e6);
  }
}

}  // namespace

int main() {
  time_prefill<16, 2>(1, 2048);
  time_prefill<16, 2>(8, 2048);
  time_prefill<16, 2>(1, 512, 7680);
  time_prefill<20, 4>(1, 2048);
  time_prefill<20, 4>(8, 2048);
}
