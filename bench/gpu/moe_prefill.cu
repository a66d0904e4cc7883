// Experts of a mixture in prefill: sort, gather, grouped products, weighted sums, first compared with float64 at awkward shapes (one row, an empty expert, all
// rows to one expert, block edges), then timed at the 21B-A3B's shape with routing spread over all experts.
//
//   nvcc -O3 -std=c++20 --expt-relaxed-constexpr -I runtime -gencode=arch=compute_90a,code=sm_90a -o moe_prefill bench/gpu/moe_prefill.cu && ./moe_prefill [check]
#include "maps.cuh"

#include "device/cuda/gemm_grouped.cuh"
#include "device/cuda/moe_prefill.cuh"

using namespace ern::cuda;
using namespace bench;

namespace {

template <int columns, int rows, int stages, int cluster>
struct Tiling { static constexpr GroupedTiling value{columns, rows, stages, cluster}; };

// The sizes of a layer, and the tilings of its two products.
template <int hidden_, int m_, int experts_, int chosen_, bool addend_, class Up, class Down = Up>
struct Layer {
  static constexpr int hidden = hidden_, m = m_, experts = experts_, chosen = chosen_;
  static constexpr GroupedTiling up_tiling = Up::value, down_tiling = Down::value;
  static constexpr MoePrefill rows{.width = hidden, .experts = experts, .chosen = chosen, .addend = addend_};
  static constexpr Grouped up{.groups = experts, .n = 2 * m, .k = hidden, .swiglu = true, .group = m % 32 == 0 ? 32 : 8, .tiling = up_tiling};
  static constexpr Grouped down{.groups = experts, .n = hidden, .k = m, .tiling = down_tiling};
};

// As gemm_grouped.cuh wants them.
TensorMap gate_up_map(const Bf16* weight, int64_t rows, int k, int group, int columns) {
  const auto at = [k](int64_t row) { return static_cast<cuuint64_t>(row * k * 2); };
  return make_map(weight, {cuuint64_t(k), 8, 2, cuuint64_t(group / 8), cuuint64_t(rows / (2 * group))}, {at(1), at(group), at(8), at(2 * group)},
                  {64, 8, 2, cuuint32_t(group / 8), cuuint32_t(columns / (2 * group))});
}

template <class L>
__global__ void __launch_bounds__(moe_sort_threads, 1) sort_rows(const Step* step, const int32_t* indices, int32_t* offsets, int32_t* places) {
  moe_sort<L::rows>(step, indices, offsets, places);
}
template <class L>
__global__ void __launch_bounds__(moe_row_threads, 1) gather(const Step* step, const Bf16* x, const int32_t* places, Bf16* sorted) {
  moe_gather<L::rows>(step, x, places, sorted);
}
template <class L>
__global__ void __launch_bounds__(gemm_threads, 1)
    up(const int32_t* offsets, Bf16* activations, const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weight) {
  gemm_grouped<L::up>(offsets, &x, &weight, activations);
}
template <class L>
__global__ void __launch_bounds__(gemm_threads, 1)
    down(const int32_t* offsets, Bf16* rows, const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weight) {
  gemm_grouped<L::down>(offsets, &x, &weight, rows);
}
template <class L>
__global__ void __launch_bounds__(moe_row_threads, 1)
    sum(const Step* step, const Bf16* expert_rows, const int32_t* places, const float* weights, const float* addend, float* out) {
  moe_sum<L::rows>(step, expert_rows, places, weights, addend, out);
}

__global__ void fill(Bf16* data, int64_t count, uint32_t seed, float scale) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
    uint32_t h = static_cast<uint32_t>(i) * 2654435761u ^ seed;
    h ^= h >> 15, h *= 2246822519u, h ^= h >> 13, h *= 3266489917u, h ^= h >> 16;
    data[i] = __float2bfloat16(scale * (static_cast<float>(h & 0xffff) / 32768.0f - 1.0f));
  }
}

int processors() {
  int count;
  CK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, 0));
  return count;
}

template <class L>
struct Buffers {
  int tokens, most;
  DeviceStep step;
  Buffer<Bf16> x, gate_up, down_weight, sorted, activations, expert_rows;
  Buffer<int32_t> indices, offsets{L::experts + 1}, places;
  Buffer<float> weights, addend, out;
  TensorMap sorted_map, up_map, activations_map, down_map;

  // Room for `room` tokens, as a bucket has, of which `tokens` are there.
  Buffers(int tokens, int room, bool host_side = true)
      : tokens(tokens), most(room * L::chosen), step(tokens, 1, 1), x(int64_t{room} * L::hidden, host_side),
        gate_up(int64_t{L::experts} * 2 * L::m * L::hidden, host_side), down_weight(int64_t{L::experts} * L::hidden * L::m, host_side),
        sorted(int64_t{most} * L::hidden, false), activations(int64_t{most} * L::m, false), expert_rows(int64_t{most} * L::hidden, false), indices(most), places(most), weights(most),
        addend(int64_t{room} * L::hidden, host_side), out(int64_t{room} * L::hidden, host_side),
        sorted_map(make_map(sorted.device, most, L::hidden, grouped_box)),
        up_map(gate_up_map(gate_up.device, int64_t{L::experts} * 2 * L::m, L::hidden, L::up.group, L::up_tiling.columns)),
        activations_map(make_map(activations.device, most, L::m, grouped_box)),
        down_map(make_map(down_weight.device, int64_t{L::experts} * L::hidden, L::m, L::down_tiling.columns)) {}

  Launch up_launch() const { return {dim3(processors()), gemm_threads, static_cast<size_t>(grouped_shared_bytes(L::up_tiling)), L::up_tiling.cluster}; }
  Launch down_launch() const { return {dim3(processors()), gemm_threads, static_cast<size_t>(grouped_shared_bytes(L::down_tiling)), L::down_tiling.cluster}; }

  void run(cudaStream_t stream) {
    const Launch wide{dim3(8 * processors()), moe_row_threads};
    launch(sort_rows<L>, {dim3(1), moe_sort_threads}, stream, step.get(), indices.device, offsets.device, places.device);
    launch(gather<L>, wide, stream, step.get(), x.device, places.device, sorted.device);
    launch(up<L>, up_launch(), stream, offsets.device, activations.device, sorted_map, up_map);
    launch(down<L>, down_launch(), stream, offsets.device, expert_rows.device, activations_map, down_map);
    launch(sum<L>, wide, stream, step.get(), expert_rows.device, places.device, weights.device, addend.device, out.device);
  }
};

enum class Routing { random, one, few };

// As the kernels round an expert's hidden rows and its results.
double rounded(double x) { return as_float(__float2bfloat16(static_cast<float>(x))); }

template <class L>
void check(int tokens, Routing routing) {
  Buffers<L> b(tokens, tokens + 37);
  fill_normal(b.x, 1), fill_normal(b.gate_up, 0.1f), fill_normal(b.down_weight, 0.1f), fill_normal(b.addend, 1), fill_normal(b.weights, 0.5f);
  b.out.poison(), b.sorted.poison(), b.activations.poison(), b.expert_rows.poison(), b.offsets.poison(), b.places.poison();
  for (int t = 0; t < tokens; ++t)
    for (int j = 0; j < L::chosen; ++j) {
      int e;
      do e = routing == Routing::one ? j : static_cast<int>(random_engine()() % (routing == Routing::few ? L::chosen + 2 : L::experts));
      while (std::find(b.indices.host.begin() + t * L::chosen, b.indices.host.begin() + t * L::chosen + j, e) != b.indices.host.begin() + t * L::chosen + j);
      b.indices.host[t * L::chosen + j] = e;
    }
  b.indices.upload();
  b.run(nullptr);
  CK(cudaDeviceSynchronize());
  std::vector<double> want(size_t(tokens) * L::hidden);
  std::vector<double> hidden(L::m);
  for (int t = 0; t < tokens; ++t) {
    for (int i = 0; i < L::hidden; ++i) want[size_t(t) * L::hidden + i] = L::rows.addend ? b.addend.host[size_t(t) * L::hidden + i] : 0;
    for (int j = 0; j < L::chosen; ++j) {
      const int64_t e = b.indices.host[t * L::chosen + j];
      const auto dot = [&](const Bf16* w) {
        double s = 0;
        for (int i = 0; i < L::hidden; ++i) s += double(as_float(b.x.host[size_t(t) * L::hidden + i])) * as_float(w[i]);
        return s;
      };
      for (int c = 0; c < L::m; ++c) {
        const int64_t gate_row = c / L::up.group * 2 * L::up.group + c % L::up.group;
        const double gate = dot(&b.gate_up.host[(e * 2 * L::m + gate_row) * L::hidden]), upper = dot(&b.gate_up.host[(e * 2 * L::m + gate_row + L::up.group) * L::hidden]);
        hidden[c] = rounded(gate / (1 + std::exp(-gate)) * upper);
      }
      for (int i = 0; i < L::hidden; ++i) {
        double s = 0;
        for (int c = 0; c < L::m; ++c) s += hidden[c] * as_float(b.down_weight.host[(e * L::hidden + i) * L::m + c]);
        want[size_t(t) * L::hidden + i] += b.weights.host[t * L::chosen + j] * rounded(s);
      }
    }
  }
  expect_close("moe_prefill tokens " + std::to_string(tokens) + " routing " + std::to_string(int(routing)), b.out, want, bf16_limit);
}

template <class L>
void time_layer(int tokens) {
  Buffers<L> b(tokens, tokens, false);
  for (Buffer<Bf16>* buffer : {&b.x, &b.gate_up, &b.down_weight}) fill<<<2048, 256>>>(buffer->device, int64_t(buffer->count), 7, 0.1f);
  CK(cudaMemset(b.addend.device, 0, b.addend.count * 4));
  CK(cudaMemset(b.weights.device, 0, b.weights.count * 4));
  for (int t = 0; t < tokens; ++t)
    for (int j = 0; j < L::chosen; ++j) {
      int e;
      do e = static_cast<int>(random_engine()() % L::experts);
      while (std::find(b.indices.host.begin() + t * L::chosen, b.indices.host.begin() + t * L::chosen + j, e) != b.indices.host.begin() + t * L::chosen + j);
      b.indices.host[t * L::chosen + j] = e;
    }
  b.indices.upload();
  CK(cudaDeviceSynchronize());  // the timed stream doesn't wait for the one that filled
  const Launch wide{dim3(8 * processors()), moe_row_threads};
  const double all = time_graph([&](cudaStream_t s) { b.run(s); }, 4, 10);
  const double sorting = time_graph([&](cudaStream_t s) { launch(sort_rows<L>, {dim3(1), moe_sort_threads}, s, b.step.get(), b.indices.device, b.offsets.device, b.places.device); }, 4, 10);
  const double gathering = time_graph([&](cudaStream_t s) { launch(gather<L>, wide, s, b.step.get(), b.x.device, b.places.device, b.sorted.device); }, 4, 10);
  const double upper = time_graph([&](cudaStream_t s) { launch(up<L>, b.up_launch(), s, b.offsets.device, b.activations.device, b.sorted_map, b.up_map); }, 4, 10);
  const double lower = time_graph([&](cudaStream_t s) { launch(down<L>, b.down_launch(), s, b.offsets.device, b.expert_rows.device, b.activations_map, b.down_map); }, 4, 10);
  const double summing = time_graph([&](cudaStream_t s) { launch(sum<L>, wide, s, b.step.get(), b.expert_rows.device, b.places.device, b.weights.device, b.addend.device, b.out.device); }, 4, 10);
  const double work = 2e-6 * tokens * L::chosen * L::m * L::hidden;
  std::printf("tokens %5d %dx%d stages %d c%d: %.1f us (sort %.1f, gather %.1f, up %.1f = %.0f TFLOP/s, down %.1f = %.0f TFLOP/s, sum %.1f)\n", tokens,
              L::up_tiling.columns, L::up_tiling.rows, L::up_tiling.stages, L::up_tiling.cluster, all, sorting, gathering, upper, 2 * work / upper, lower, work / lower, summing);
}

}  // namespace

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  using alone = Tiling<128, 256, 4, 1>;
  using pairs = Tiling<128, 256, 4, 2>;
  using wide = Tiling<256, 176, 3, 2>;
  using wide4 = Tiling<256, 160, 4, 2>;
  const auto check_all = [&]<class Up, class Down>(const char* name) {
    std::printf("checking %s\n", name);
    using Small = Layer<128, 64, 8, 3, true, Up, Down>;
    using Narrow = Layer<72, 40, 5, 2, false, Up, Down>;
    using Square = Layer<192, 96, 64, 6, true, Up, Down>;
    for (const int tokens : {1, 2, 63, 64, 65, 131, 301, 521}) {
      for (const Routing routing : {Routing::random, Routing::one, Routing::few}) {
        check<Small>(tokens, routing);
        check<Narrow>(tokens, routing);
        if (tokens <= 131) check<Square>(tokens, routing);
      }
    }
    std::printf("checks: %d, failures: %d\n", checks, failures);
  };
  check_all.operator()<alone, alone>("alone");
  check_all.operator()<pairs, pairs>("pairs");
  check_all.operator()<wide, wide>("wide");
  if (argc > 1) return failures != 0;
  for (const int tokens : {128, 512, 2048, 8192}) {
    time_layer<Layer<2560, 1536, 64, 6, true, pairs>>(tokens);
    time_layer<Layer<2560, 1536, 64, 6, true, wide>>(tokens);
    time_layer<Layer<2560, 1536, 64, 6, true, wide4>>(tokens);
    time_layer<Layer<2560, 1536, 64, 6, true, pairs>>(tokens);  // again, since the clocks fall
  }
  return failures != 0;
}
