// A whole decode step as one captured graph with programmatic dependent launches, on synthetic weights of the real shapes: tok/s and the share
// of each kernel. usage: step [dense|moe] [context ...]. Bits must be the same with and without programmatic dependence: checked first.
#include "../../runtime/device/cuda/attention_decode.cuh"
#include "../../runtime/device/cuda/elementwise.cuh"
#include "../../runtime/device/cuda/head_argmax.cuh"
#include "../../runtime/device/cuda/linear.cuh"
#include "../../runtime/device/cuda/linear_swiglu.cuh"
#include "../../runtime/device/cuda/moe_ffn.cuh"
#include "../../runtime/device/cuda/moe_router.cuh"
#include "../../runtime/device/cuda/norm_router.cuh"
#include "../../runtime/device/cuda/rms_norm.cuh"
#include "../../runtime/device/cuda/wide.cuh"
#include "harness.cuh"

using namespace ern::cuda;
using namespace bench;

namespace {

// --- weights and models ----------------------------------------------------------------------------------------------

template <class T>
__global__ void fill_random(T* to, int64_t count, float scale, uint32_t seed) {
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += int64_t(gridDim.x) * blockDim.x) {
    uint32_t h = uint32_t(i) * 0x9E3779B1u ^ uint32_t(i >> 32) * 0x85EBCA77u ^ seed;
    h ^= h >> 15, h *= 0x2C1B3C6Du, h ^= h >> 12, h *= 0x297A2D39u, h ^= h >> 15;
    to[i] = T(__float2bfloat16(float(int(h & 0xffff) - 32768) * (1.7320508f / 32768) * scale));
  }
}

template <class T = Bf16>
struct Weights {
  T* data;
  int64_t each;  // elements of one layer
  Weights(int64_t layers, int64_t elements, float scale, uint32_t seed) : each(elements) {
    CK(cudaMalloc(&data, layers * elements * sizeof(T)));
    fill_random<<<1056, 1024>>>(data, layers * elements, scale, seed);
    CK(cudaGetLastError());
  }
  T* of(int layer) const { return data + layer * each; }
};

struct Dense03 {
  static constexpr int layers = 18, hidden = 1024, heads = 16, kv_heads = 2, head_dim = 128, ffn = 3072, vocab = 103424, dense_layers = 18;
  static constexpr int experts = 0, chosen = 1, m = 32, shared = 32;
};
struct Moe21 {
  static constexpr int layers = 28, hidden = 2560, heads = 20, kv_heads = 4, head_dim = 128, ffn = 12288, vocab = 103424, dense_layers = 1;
  static constexpr int experts = 64, chosen = 6, m = 1536, shared = 3072;
};

constexpr float eps = 1e-5f;
constexpr int group = 32, block_size = 64;

// How the step is cut; one instance is one variant that is timed. `beside`: the router is part of the shared experts' first product; `runs`: experts'
// second products are expert_linear and moe_combine; `wide`: products are those of wide.cuh.
constexpr ProductTiling whole(ProductTiling tiling) {
  tiling.pitched = false;
  return tiling;
}
struct Common {
  static constexpr bool norm_inside = true, beside = false, runs = false, wide = false, old_router = false, idle_waits = false, sum_norm = false;
  static constexpr bool head_wide = false;
  static constexpr int routers = 16;
  static constexpr int cluster = 8, attention_warps = 8, least = 3, splits = 1, head_blocks = 132;
};
struct Dense1 : Common {
  static constexpr int batch = 1, splits = 4, least = 1;
  static constexpr ProductTiling qkv{16, 16, 0, 1, 1, true, 2, 1}, o{8, 16, 0, 1, 1, true, 2, 1}, up{48, 8, 0, 1, 1, true, 2, 1}, down{8, 16, 0, 1, 1, true, 1, 1}, head{16, 8, 0, 6, 1, false, 1, 1, false}, shared_down = down, shared_up = up;
};
struct Dense1Eight : Dense1 {  // 8 warps where there were 16
  static constexpr ProductTiling qkv{16, 8, 0, 1, 1, true, 3, 1}, o{8, 8, 0, 1, 1, true, 3, 1}, down{8, 12, 0, 1, 1, true, 2, 1};
};
template <int c, int n, int l, bool idle, class Base = Dense1Eight> struct Cut : Base {
  static constexpr int cluster = c, splits = n, least = l;
  static constexpr bool idle_waits = idle;
};
struct Dense8 : Dense1 {
  static constexpr ProductTiling qkv{16, 16, 0, 1, 1, true, 2}, o{8, 16, 0, 1, 1, true, 2}, up{48, 8, 0, 1, 1, true, 1}, down{8, 16, 0, 1, 1, true, 1}, head{16, 8, 0, 5, 1, false, 1, 8, false};
  static constexpr int batch = 8, splits = 1, cluster = 4, least = 3;
  static constexpr bool norm_inside = false;
};
struct Dense16 : Dense1 {
  static constexpr int batch = 16, cluster = 2, head_blocks = 264, splits = 1, least = 3;
  static constexpr bool norm_inside = false;
  static constexpr ProductTiling qkv{16, 8, 0, 1, 2, true, 3}, o{8, 16, 0, 1, 2, true, 2}, up{48, 8, 0, 1, 2, true, 1}, down{8, 16, 0, 1, 2, true, 2}, head{16, 8, 0, 3, 2, false, 2};
};
struct Dense64 : Dense1 {
  static constexpr int batch = 64, cluster = 1, head_blocks = 132, splits = 1, least = 3;
  static constexpr bool norm_inside = false;
  static constexpr ProductTiling qkv{16, 8, 0, 1, 8, true, 2}, o{16, 8, 0, 1, 8, true, 2}, up{16, 8, 0, 1, 8, true, 2}, down{16, 16, 0, 1, 8, true, 1}, head{16, 8, 0, 3, 8, false, 1};
};
struct Dense64Wide : Dense64 {
  static constexpr bool wide = true;
  static constexpr WideTiling wide_qkv{2, 4, 2}, wide_o{2, 8, 2}, wide_up{4, 1, 1}, wide_down{3, 4, 2}, wide_head{5, 1, 1};
};
struct Dense64Table : Dense64Wide {
  static constexpr WideTiling wide_qkv{4, 2, 1}, wide_o{4, 4, 1}, wide_up{5, 1, 1}, wide_down{5, 4, 1}, wide_head{5, 1, 1};
};
struct Dense32Wide : Dense64Wide { static constexpr int batch = 32, cluster = 1; };
struct Moe1 : Common {
  static constexpr int batch = 1, expert_blocks = 132, splits = 1, row_blocks = 132, least = 1, cluster = 2;
  static constexpr ProductTiling qkv{16, 10, 0, 1, 1, true, 2, 1, false}, o{8, 10, 0, 1, 1, true, 2, 1, false}, up{16, 10, 0, 1, 1, true, 2, 1, false}, down{8, 16, 3072, 4, 1, true, 1, 1}, head{16, 10, 0, 2, 1, false, 1, 1, false},
      shared_up{16, 10, 0, 1, 1, true, 2, 1, false}, shared_down{8, 12, 0, 1, 1, true, 2, 1, false}, expert_up{16, 10, 0, 2, 1, false, 1, 1, false}, expert_down{8, 6, 0, 2, 1, false, 3, 1, false}, expert_rows = expert_down, beside_up{16, 10, 0, 2, 1, false, 1, 1, false};
};
struct Moe1Beside : Moe1 { static constexpr bool beside = true; };
struct Moe1Best : Moe1Beside {  // more blocks of products of few bytes at once
  static constexpr ProductTiling o{8, 6, 0, 1, 1, true, 3, 1, true}, shared_down{8, 6, 0, 1, 1, true, 3, 1, true};
};
struct Moe16 : Moe1 {
  static constexpr int batch = 16, cluster = 1, splits = 1, least = 3;
  static constexpr bool norm_inside = false, runs = true;
  static constexpr ProductTiling qkv{16, 10, 0, 1, 2, true, 2}, o{8, 10, 0, 1, 2, true, 2}, up{16, 10, 0, 1, 2, true, 2}, down{8, 16, 3072, 3, 2, true, 1}, head{16, 10, 0, 2, 2, false, 1}, shared_up{16, 10, 0, 1, 2, true, 2}, shared_down{8, 12, 0, 1, 2, true, 2}, expert_up{16, 10, 0, 2, 1, false, 1, 8, false}, expert_down{8, 6, 0, 2, 1, false, 3}, expert_rows{16, 6, 0, 3, 1, false, 1, 8, false};
};
struct Moe16Passes : Moe16 { static constexpr bool runs = false; };
struct Moe64 : Moe1 {
  static constexpr int batch = 64, cluster = 1, attention_warps = 4, splits = 1;
  static constexpr bool norm_inside = false, runs = true;
  static constexpr ProductTiling qkv{16, 10, 0, 1, 8, true, 1}, o{16, 10, 0, 1, 8, true, 1}, up{16, 10, 0, 1, 8, true, 1}, down{16, 8, 3072, 1, 8, true, 1}, head{16, 10, 0, 1, 8, false, 1}, shared_up{16, 10, 0, 1, 8, true, 1}, shared_down{16, 8, 0, 1, 8, true, 1},
      expert_up{16, 10, 0, 2, 2, false, 1, 8, false}, expert_rows{16, 6, 0, 3, 2, false, 1, 8, false};
};
struct Moe64Wide : Moe64 {
  static constexpr bool wide = true;
  static constexpr WideTiling wide_qkv{3, 4, 2}, wide_o{3, 4, 2}, wide_up{5, 1, 1}, wide_down{3, 8, 2}, wide_shared_up{3, 2, 2}, wide_shared_down{3, 4, 2}, wide_head{5, 1, 1};
};
struct Moe64Table : Moe64Wide {
  static constexpr WideTiling wide_qkv{5, 2, 1}, wide_o{5, 2, 1}, wide_up{5, 1, 1}, wide_down{5, 2, 1}, wide_shared_up{5, 1, 1}, wide_shared_down{5, 2, 1}, wide_head{5, 1, 1};
};

// Tables of wide products: stages, cluster, blocks a multiprocessor, rows of x. `sum_norm`: the experts' sum norms what it gives.
struct Moe64Five : Moe64Table { static constexpr bool sum_norm = true; };
struct Moe64Six : Moe64Wide {
  static constexpr bool sum_norm = true;
  static constexpr WideTiling wide_qkv{6, 2, 1}, wide_o{6, 2, 1}, wide_up{6, 1, 1}, wide_down{6, 2, 1}, wide_shared_up{6, 1, 1}, wide_shared_down{6, 2, 1}, wide_head{6, 1, 1};
};
struct Moe64Stages : Moe64Six {
  static constexpr ProductTiling expert_rows{16, 6, 0, 4, 2, false, 1, 8, false};
  static constexpr int routers = 32;
};
struct Moe64Beside : Moe64Six {
  static constexpr ProductTiling expert_up{16, 10, 1280, 3, 2, false, 1, 8, false}, expert_rows{8, 6, 0, 2, 2, false, 3, 8, false};
  static constexpr int row_blocks = 396;
};
struct Moe16Ten : Moe16 {
  static constexpr bool wide = true, sum_norm = true;
  static constexpr WideTiling wide_qkv{10, 2, 1, 16}, wide_o{10, 2, 1, 16}, wide_up{10, 1, 1, 16}, wide_down{10, 2, 1, 16}, wide_shared_up{10, 1, 1, 16}, wide_shared_down{10, 2, 1, 16}, wide_head{10, 1, 1, 16};
};
struct Moe16Two : Moe16Ten {  // experts by 16 tokens
  static constexpr ProductTiling expert_up{16, 10, 0, 2, 2, false, 1, 8, false}, expert_rows{16, 6, 0, 3, 2, false, 1, 8, false};
};
struct Moe16Stages : Moe16Ten {  // a stage more
  static constexpr ProductTiling expert_rows{16, 6, 0, 4, 1, false, 1, 8, false};
};
struct Moe16Beside : Moe16Ten {  // a block of the second products finds a place beside one of the first
  static constexpr ProductTiling expert_up{16, 10, 1280, 3, 1, false, 1, 8, false}, expert_rows{8, 6, 0, 2, 1, false, 3, 8, false};
  static constexpr int row_blocks = 396;
};
struct Dense16Head : Dense16 {  // the head alone is wide
  static constexpr bool head_wide = true;
  static constexpr WideTiling wide_head{10, 1, 1, 16};
};
struct Dense16Wide : Dense16 {
  static constexpr bool wide = true;
  static constexpr WideTiling wide_qkv{4, 2, 2, 16}, wide_o{2, 8, 2, 16}, wide_up{5, 1, 2, 16}, wide_down{3, 8, 2, 16}, wide_head{10, 1, 1, 16};
};
struct Dense32Table : Dense64Wide {
  static constexpr int batch = 32;
  static constexpr WideTiling wide_qkv{4, 2, 1, 32}, wide_o{4, 4, 1, 32}, wide_up{5, 1, 1, 32}, wide_down{5, 4, 1, 32}, wide_head{7, 1, 1, 32};
};

// nvcc cannot name a kernel by a struct's value, so a problem is a type.
template <class M, class V> struct Problems {
  static constexpr int qkv_width = (M::heads + 2 * M::kv_heads) * M::head_dim, o_width = M::heads * M::head_dim;
  static constexpr int64_t layer_elements = int64_t{2} * M::kv_heads * block_size * M::head_dim, block_bytes = M::layers * layer_elements * 2;
  static constexpr Norm norm{V::norm_inside, eps}, none{};
  struct Qkv { static constexpr Linear value{qkv_width, M::hidden, false, false, norm, Rows::tokens, V::qkv}; };
  struct O { static constexpr Linear value{M::hidden, o_width, false, true, none, Rows::tokens, V::o}; };
  struct Up { static constexpr LinearSwiglu value{M::ffn, M::hidden, group, false, norm, Rows::tokens, V::up}; };
  struct Down { static constexpr Linear value{M::hidden, M::ffn, false, true, none, Rows::tokens, V::down}; };
  struct SharedUp { static constexpr LinearSwiglu value{M::shared, M::hidden, group, false, none, Rows::tokens, V::shared_up, true}; };
  struct SharedDown { static constexpr Linear value{M::hidden, M::shared, false, true, none, Rows::tokens, V::shared_down, V::beside}; };
  struct Head { static constexpr HeadArgmax value{M::vocab, M::hidden, false, norm, Rows::tokens, V::head}; };
  struct Attention {
    static constexpr DecodeAttention value{M::heads, {M::kv_heads, M::head_dim, block_size, block_bytes}, true, 0, V::cluster, V::attention_warps, V::splits, V::least, V::idle_waits};
  };
  struct Row { static constexpr Elementwise value{M::hidden}; };
  struct NormRow { static constexpr RmsNorm value{M::hidden, eps}; };
};

template <class M, class V> struct MoeProblems {
  struct Router { static constexpr MoeRouter value{M::experts, M::hidden, M::chosen, true, Rows::tokens, {true, eps}}; };
  struct Up { static constexpr MoeFfn value{M::hidden, M::m, M::experts, M::chosen, group, false, Rows::tokens, V::expert_up, true}; };
  struct Down { static constexpr MoeFfn value{M::hidden, M::m, M::experts, M::chosen, group, true, Rows::tokens, V::expert_down, true}; };
  struct ExpertRows { static constexpr ExpertLinear value{M::hidden, M::m, M::experts, M::chosen, true, Rows::tokens, V::expert_rows, true}; };
  struct Combine { static constexpr MoeCombine value{M::hidden, M::chosen, true}; };
  struct NormRouterOf { static constexpr NormRouter value{M::experts, M::hidden, M::chosen, true, {true, eps}, 1e-12f, V::routers, 8, 10}; };
  struct CombineNormed { static constexpr CombineNorm value{{M::hidden, eps}, M::chosen, true, true}; };
  struct Beside { static constexpr RouterSwiglu value{{M::experts, M::hidden, M::chosen, true, {true, eps}, 1e-12f, 4, V::batch, V::beside_up.warps}, M::shared, group, V::beside_up}; };
};

// With -DTRACE each launch notes when its first and last block begin and end.
struct Trace {
  unsigned long long first_begin, last_begin, first_end, last_end;
};
__device__ Trace traces[4096];
#ifdef TRACE
constexpr bool tracing = true;
#else
constexpr bool tracing = false;
#endif
struct Traced {
  int slot;
  static __device__ unsigned long long now() {
    unsigned long long t;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t));
    return t;
  }
  __device__ explicit Traced(int at) : slot(at) {
    if (tracing && threadIdx.x == 0) {
      const auto t = now();
      atomicMin(&traces[slot].first_begin, t), atomicMax(&traces[slot].last_begin, t);
    }
  }
  __device__ ~Traced() {
    if (tracing && threadIdx.x == 0) {
      const auto t = now();
      atomicMin(&traces[slot].first_end, t), atomicMax(&traces[slot].last_end, t);
    }
  }
};

template <class P, class X, class Y>
__global__ void __launch_bounds__(P::value.tiling.threads(), P::value.tiling.residents) linear_kernel(const Step* step, const X* x, const Bf16* norm, const Bf16* w, const float* residual, Y* y, int slot) {
  Traced traced(slot);
  linear<P::value>(step, x, norm, w, nullptr, residual, y);
}
template <class P, class X>
__global__ void __launch_bounds__(P::value.tiling.threads(), P::value.tiling.residents) up_kernel(const Step* step, const X* x, const Bf16* norm, const Bf16* w, Bf16* y, int slot) {
  Traced traced(slot);
  linear_swiglu<P::value>(step, x, norm, w, nullptr, y);
}
template <class P, class X>
__global__ void __launch_bounds__(P::value.tiling.threads(), P::value.tiling.residents) head_kernel(const Step* step, const X* x, const Bf16* norm, const Bf16* w, float* logits, int32_t* ids, void* work, unsigned* arrivals, int slot) {
  Traced traced(slot);
  head_argmax<P::value>(step, x, norm, w, nullptr, logits, ids, work, arrivals);
}
template <int hd> __device__ const auto frequencies = rope_frequencies<hd>(500000.0);
template <class P>
__global__ void __launch_bounds__(P::value.warps * 32, 1) attention_kernel(const Step* s, const float* qkv, const int32_t* pos, const int32_t* slots, Bf16* kv, const int32_t* table, const int32_t* context,
                                                                          float scale, Bf16* out, float* workspace, unsigned* arrivals, int slot) {
  Traced traced(slot);
  attention_decode<P::value>(s, qkv, pos, slots, frequencies<P::value.cache.head_dim>, kv, table, context, scale, out, workspace, arrivals);
}
template <class P> __global__ void embedding_kernel(const Step* s, const int32_t* ids, const Bf16* table, float* out, int slot) { Traced traced(slot); embedding<P::value>(s, ids, table, out); }
template <class P> __global__ void norm_kernel(const Step* s, const float* x, const Bf16* w, Bf16* y, int slot) { Traced traced(slot); rms_norm<P::value>(s, x, w, y); }
template <class P>
__global__ void __launch_bounds__(P::value.warps * 32, 1) router_kernel(const Step* s, const float* x, const Bf16* norm, const float* gate, const float* correction, Bf16* normed, float* logits,
                                                                       int32_t* indices, float* weights, int slot) {
  Traced traced(slot);
  moe_router<P::value>(s, x, norm, gate, correction, normed, logits, indices, weights);
}
template <class P> __global__ void __launch_bounds__(P::value.tiling.threads(), P::value.tiling.residents) expert_up_kernel(const Step* s, const Bf16* x, const int32_t* i, const Bf16* w, Bf16* out, int slot) { Traced traced(slot); moe_up<P::value>(s, x, i, w, out); }
template <class P>
__global__ void __launch_bounds__(P::value.tiling.threads(), P::value.tiling.residents) expert_down_kernel(const Step* s, const Bf16* act, const int32_t* i, const float* w, const Bf16* down, const float* addend, float* out, int slot) {
  Traced traced(slot);
  moe_down<P::value>(s, act, i, w, down, addend, out);
}

template <class P>
__global__ void __launch_bounds__(P::value.tiling.threads(), P::value.tiling.residents) expert_rows_kernel(const Step* s, const Bf16* act, const int32_t* i, const Bf16* down, float* rows, int slot) { Traced traced(slot); expert_linear<P::value>(s, act, i, down, rows); }
template <class P>
__global__ void combine_kernel(const Step* s, const float* rows, const int32_t* i, const float* w, const float* addend, float* out, int slot) { Traced traced(slot); moe_combine<P::value>(s, rows, i, w, addend, out); }
template <class P>
__global__ void __launch_bounds__(P::value.norm.threads, 1) combine_norm_kernel(const Step* s, const float* rows, const int32_t* i, const float* w, const float* addend, const Bf16* norm, float* out, Bf16* normed, int slot) { Traced traced(slot); moe_combine_norm<P::value>(s, rows, i, w, addend, norm, out, normed); }
__device__ unsigned router_arrivals[64];
template <class P>
__global__ void __launch_bounds__(P::value.warps * 32, 1) norm_router_kernel(const Step* s, const float* x, const Bf16* norm, const float* gate, const float* correction, Bf16* normed, float* logits, int32_t* indices, float* weights, int slot) {
  Traced traced(slot);
  norm_router<P::value>(s, x, norm, gate, correction, normed, logits, indices, weights, router_arrivals);
}
template <class P>
__global__ void __launch_bounds__(P::value.tiling.threads(), P::value.tiling.residents) beside_kernel(const Step* s, const float* x, const Bf16* norm, const float* gate, const float* correction, const Bf16* weight, Bf16* normed, float* logits,
                                                                   int32_t* indices, float* weights, Bf16* hidden, int slot) {
  Traced traced(slot);
  router_swiglu<P::value>(s, x, norm, gate, correction, weight, normed, logits, indices, weights, hidden, router_arrivals);
}
template <class P, class Y>
__global__ void __launch_bounds__(wide_threads, P::value.tiling.residents) wide_kernel(const Step* step, const float* residual, Y* y, int slot, const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weight) {
  Traced traced(slot);
  wide_linear<P::value>(step, &x, &weight, nullptr, residual, y);
}
template <class P>
__global__ void __launch_bounds__(wide_threads, P::value.tiling.residents) wide_head_kernel(const Step* step, float* logits, int32_t* ids, void* workspace, unsigned* arrivals, int slot, const __grid_constant__ TensorMap x,
                                                                      const __grid_constant__ TensorMap weight) {
  Traced traced(slot);
  wide_head<P::value>(step, &x, &weight, nullptr, logits, ids, workspace, arrivals);
}
template <int rows, int width, bool add, bool pairs, WideTiling tiling, bool late = false> struct WideOf { static constexpr WideLinear value{rows, width, false, add, pairs, group, Rows::tokens, tiling, late}; };
template <class M, WideTiling tiling> struct WideHeadOf { static constexpr WideHead value{M::vocab, M::hidden, false, Rows::tokens, tiling}; };

template <class M>
struct ModelWeights {
  static constexpr int qkv_width = (M::heads + 2 * M::kv_heads) * M::head_dim, o_width = M::heads * M::head_dim, sparse = M::layers - M::dense_layers;
  static float scale(int k) { return 1 / std::sqrt(float(k)); }
  Weights<> embedding{1, int64_t{M::vocab} * M::hidden, 0.3f, 1}, norms{2 * M::layers + 1, M::hidden, 1, 2};
  Weights<> qkv{M::layers, int64_t{qkv_width} * M::hidden, scale(M::hidden), 3}, o{M::layers, int64_t{M::hidden} * o_width, scale(o_width), 4};
  Weights<> up{M::dense_layers, int64_t{2} * M::ffn * M::hidden, scale(M::hidden), 5}, down{M::dense_layers, int64_t{M::hidden} * M::ffn, scale(M::ffn), 6};
  Weights<float> gate{std::max(sparse, 1), std::max(int64_t{M::experts} * M::hidden, int64_t{1}), scale(M::hidden), 7};
  Weights<> shared_up{std::max(sparse, 1), sparse ? int64_t{2} * M::shared * M::hidden : 1, scale(M::hidden), 8}, shared_down{std::max(sparse, 1), sparse ? int64_t{M::hidden} * M::shared : 1, scale(M::shared), 9};
  Weights<> expert_up{std::max(sparse, 1), sparse ? int64_t{M::experts} * 2 * M::m * M::hidden : 1, scale(M::hidden), 10};
  Weights<> expert_down{std::max(sparse, 1), sparse ? int64_t{M::experts} * M::hidden * M::m : 1, scale(M::m), 11};
};

enum Part { kQkv = 1, kAttention = 2, kO = 4, kUp = 8, kDown = 16, kHead = 32, kRouter = 64, kShared = 128, kExperts = 256, kNorm = 512, kExpertRows = 1024, kAll = 2047 };

template <class M, class V>
struct Decode {
  using P = Problems<M, V>;
  const ModelWeights<M>& w;
  static constexpr int B = V::batch;
  int stride, context;
  DeviceStep step;
  Buffer<int32_t> ids{B}, positions{3 * B}, slots{B}, contexts{B}, table, next{B}, indices{B * M::chosen};
  Buffer<float> x{size_t(B) * M::hidden}, mid{size_t(B) * M::hidden}, qkv{size_t(B) * P::qkv_width}, logits{size_t(B) * M::vocab}, router_logits{size_t(B) * 64}, router_weights{size_t(B) * M::chosen}, correction{64};
  Buffer<float> shared_out{size_t(B) * M::hidden};
  Buffer<Bf16> normed{size_t(B) * M::hidden}, attended{size_t(B) * P::o_width}, act{size_t(B) * std::max(M::ffn, M::chosen * M::m)};
  Buffer<char> work{size_t(head_argmax_workspace(B, 264))};
  Buffer<unsigned> arrivals{1}, split_arrivals{size_t(B) * M::kv_heads * V::cluster};
  Buffer<float> split_work{size_t(attention_workspace(P::Attention::value, B) / 4)}, rows{V::runs ? size_t(B) * M::chosen * M::hidden : 1};
  Bf16* pool;

  Decode(const ModelWeights<M>& weights, int tokens) : w(weights), stride(int(ceil_div(tokens, block_size))), context(tokens), step(B, B, stride), table(size_t(B) * stride) {
    const int64_t blocks = int64_t(B) * stride;
    CK(cudaMalloc(&pool, blocks * P::block_bytes));
    fill_random<<<1056, 1024>>>(pool, blocks * P::block_bytes / 2, 1, 77);
    for (int b = 0; b < B; ++b) {
      for (int i = 0; i < stride; ++i) table.host[b * stride + i] = int((int64_t(b) * stride + i) * 7919 % blocks);
      ids.host[b] = 1000 + 777 * b, contexts.host[b] = tokens;
      positions.host[3 * b] = positions.host[3 * b + 1] = positions.host[3 * b + 2] = tokens - 1;
      slots.host[b] = table.host[b * stride + (tokens - 1) / block_size] * block_size + (tokens - 1) % block_size;
    }
    ids.upload(), positions.upload(), slots.upload(), contexts.upload(), table.upload(), arrivals.upload(), split_arrivals.upload(), correction.upload();
  }
  ~Decode() { cudaFree(pool); }

  template <class Q, class X, class Y>
  void linear_launch(cudaStream_t s, bool dependent, const X* in, const Bf16* norm, const Bf16* weight, const float* residual, Y* out) {
    launch(linear_kernel<Q, X, Y>, {dim3(ceil_div(Q::value.n, Q::value.tiling.rows)), Q::value.tiling.threads(), size_t(Q::value.tiling.shared_bytes(Q::value.k, Q::value.norm.on)), 1, dependent}, s, step.get(), in, norm, weight, residual, out, slot++);
  }
  template <class Q, class X>
  void up_launch(cudaStream_t s, bool dependent, const X* in, const Bf16* norm, const Bf16* weight, Bf16* out) {
    launch(up_kernel<Q, X>, {dim3(ceil_div(2 * Q::value.m, Q::value.tiling.rows)), Q::value.tiling.threads(), size_t(Q::value.tiling.shared_bytes(Q::value.k, Q::value.norm.on)), 1, dependent}, s, step.get(), in, norm, weight, out, slot++);
  }

  template <class Q, class Y>
  void wide_launch(cudaStream_t s, bool dependent, const Bf16* in, const Bf16* weight, const float* residual, Y* out) {
    constexpr WideLinear p = Q::value;
    launch(wide_kernel<Q, Y>, {dim3(ceil_div(p.n, wide_rows) * p.tiling.cluster), wide_threads, size_t(wide_shared_bytes(p.tiling)), p.tiling.cluster, dependent}, s, step.get(), residual, out, slot++, row_map(in, B, p.k, p.tiling.columns), row_map(weight, p.n, p.k));
  }

  int slot = 0;
  void record(cudaStream_t s, bool dependent = true, int parts = kAll) {
    slot = 0;
    const auto norm_row = [&](int i) {
      if constexpr (!V::norm_inside) {
        if (parts & kNorm) launch(norm_kernel<typename P::NormRow>, {dim3(B), 256, 0, 1, dependent}, s, step.get(), x.device, w.norms.of(i), normed.device, slot++);
      }
    };
    const auto normed_or_x = [&]() {
      if constexpr (V::norm_inside) return (const float*)x.device;
      else return (const Bf16*)normed.device;
    };
    using In = std::conditional_t<V::norm_inside, float, Bf16>;
    launch(embedding_kernel<typename P::Row>, {dim3(ceil_div(B * M::hidden, 1024)), 256, 0, 1, dependent}, s, step.get(), ids.device, w.embedding.data, x.device, slot++);
    for (int l = 0; l < M::layers; ++l) {
      if (!V::sum_norm || l <= M::dense_layers) norm_row(2 * l);
      if constexpr (V::wide) {
        if (parts & kQkv) wide_launch<WideOf<P::qkv_width, M::hidden, false, false, V::wide_qkv>>(s, dependent, normed.device, w.qkv.of(l), nullptr, qkv.device);
      } else if (parts & kQkv) linear_launch<typename P::Qkv, In, float>(s, dependent, normed_or_x(), w.norms.of(2 * l), w.qkv.of(l), nullptr, qkv.device);
      constexpr DecodeAttention a = P::Attention::value;
      if (parts & kAttention) {
        launch(attention_kernel<typename P::Attention>, {dim3(a.cluster * a.splits, M::kv_heads, B), a.warps * 32, 0, a.cluster, dependent}, s, step.get(), qkv.device, positions.device, slots.device,
               pool + l * P::layer_elements, table.device, contexts.device, 0.08838834764831843f, attended.device, split_work.device, split_arrivals.device, slot++);
      }
      if constexpr (V::wide) {
        if (parts & kO) wide_launch<WideOf<M::hidden, P::o_width, true, false, V::wide_o>>(s, dependent, attended.device, w.o.of(l), x.device, x.device);
      } else if (parts & kO) linear_launch<typename P::O, Bf16, float>(s, dependent, attended.device, nullptr, w.o.of(l), x.device, x.device);
      if (l < M::dense_layers) {
        norm_row(2 * l + 1);
        if constexpr (V::wide) {
          if (parts & kUp) wide_launch<WideOf<2 * M::ffn, M::hidden, false, true, V::wide_up>>(s, dependent, normed.device, w.up.of(l), nullptr, act.device);
          if (parts & kDown) wide_launch<WideOf<M::hidden, M::ffn, true, false, V::wide_down>>(s, dependent, act.device, w.down.of(l), x.device, x.device);
          continue;
        }
        if (parts & kUp) up_launch<typename P::Up, In>(s, dependent, normed_or_x(), w.norms.of(2 * l + 1), w.up.of(l), act.device);
        if (parts & kDown) linear_launch<typename P::Down, Bf16, float>(s, dependent, act.device, nullptr, w.down.of(l), x.device, x.device);
      } else {
        if constexpr (M::experts > 0) {
          const int e = l - M::dense_layers;
          using MoeUp = typename MoeProblems<M, V>::Up;
          using MoeDown = typename MoeProblems<M, V>::Down;
          using R = typename MoeProblems<M, V>::Router;
          using NormRouterOf = typename MoeProblems<M, V>::NormRouterOf;
          using Beside = typename MoeProblems<M, V>::Beside;
          const Bf16* const norm = w.norms.of(2 * l + 1);
          if constexpr (V::beside) {
            if (parts & kRouter) {
              launch(beside_kernel<Beside>, {dim3(132), Beside::value.tiling.threads(), size_t(Beside::value.tiling.shared_bytes(M::hidden, true)), 1, dependent}, s, step.get(), x.device, norm, w.gate.of(e), correction.device, w.shared_up.of(e), normed.device,
                     router_logits.device, indices.device, router_weights.device, act.device, slot++);
            }
          } else if (parts & kRouter) {
            if constexpr (V::old_router) {
              launch(router_kernel<R>, {dim3(R::value.cluster, std::min(B, 16)), R::value.warps * 32, 0, R::value.cluster, dependent}, s, step.get(), x.device, norm, w.gate.of(e), correction.device, normed.device, router_logits.device,
                     indices.device, router_weights.device, slot++);
            } else {
              constexpr NormRouter r = NormRouterOf::value;
              launch(norm_router_kernel<NormRouterOf>, {dim3(r.routers, ceil_div(B, r.most)), r.warps * 32, 0, 1, dependent}, s, step.get(), x.device, norm, w.gate.of(e), correction.device, normed.device,
                     router_logits.device, indices.device, router_weights.device, slot++);
            }
          }
          if (parts & kShared) {
            if constexpr (V::wide) {
              wide_launch<WideOf<2 * M::shared, M::hidden, false, true, V::wide_shared_up, true>>(s, dependent, normed.device, w.shared_up.of(e), nullptr, act.device);
              wide_launch<WideOf<M::hidden, M::shared, true, false, V::wide_shared_down>>(s, dependent, act.device, w.shared_down.of(e), x.device, shared_out.device);
            } else {
              if constexpr (!V::beside) up_launch<typename P::SharedUp, Bf16>(s, dependent, normed.device, nullptr, w.shared_up.of(e), act.device);
              linear_launch<typename P::SharedDown, Bf16, float>(s, dependent, act.device, nullptr, w.shared_down.of(e), x.device, shared_out.device);
            }
          }
          if (parts & (kExperts | kExpertRows)) {
            if (parts & kExperts) launch(expert_up_kernel<MoeUp>, {dim3(V::expert_blocks), MoeUp::value.tiling.threads(), size_t(MoeUp::value.tiling.shared_bytes(M::hidden, false)), 1, dependent}, s, step.get(), normed.device, indices.device,
                   w.expert_up.of(e), act.device, slot++);
            if constexpr (V::runs) {
              using ExpertRows = typename MoeProblems<M, V>::ExpertRows;
              if (parts & kExpertRows) launch(expert_rows_kernel<ExpertRows>, {dim3(V::row_blocks), ExpertRows::value.tiling.threads(), size_t(ExpertRows::value.tiling.shared_bytes(M::m, false)), 1, dependent}, s, step.get(), act.device, indices.device,
                     w.expert_down.of(e), rows.device, slot++);
              if constexpr (V::sum_norm) {
                launch(combine_norm_kernel<typename MoeProblems<M, V>::CombineNormed>, {dim3(B), 256, 0, 1, dependent}, s, step.get(), rows.device, indices.device, router_weights.device, shared_out.device, w.norms.of(2 * l + 2), x.device, normed.device, slot++);
                continue;
              }
              launch(combine_kernel<typename MoeProblems<M, V>::Combine>, {dim3(ceil_div(B * M::hidden, 1024)), 256, 0, 1, dependent}, s, step.get(), rows.device, indices.device, router_weights.device, shared_out.device, x.device, slot++);
              continue;
            }
            launch(expert_down_kernel<MoeDown>, {dim3(ceil_div(M::hidden, MoeDown::value.tiling.rows)), MoeDown::value.tiling.threads(), size_t(MoeDown::value.tiling.shared_bytes(M::m, false)), 1, dependent}, s, step.get(), act.device, indices.device,
                   router_weights.device, w.expert_down.of(e), shared_out.device, x.device, slot++);
          }
        }
      }
    }
    if (!V::sum_norm) norm_row(2 * M::layers);
    if constexpr (V::wide || V::head_wide) {
      using Head = WideHeadOf<M, V::wide_head>;
      if (parts & kHead) {
        launch(wide_head_kernel<Head>, {dim3(132 * Head::value.tiling.residents), wide_threads, size_t(wide_head_shared_bytes(Head::value.tiling)), 1, dependent}, s, step.get(), logits.device, next.device, (void*)work.device, arrivals.device, slot++,
               row_map(normed.device, B, M::hidden, Head::value.tiling.columns), row_map(w.embedding.data, M::vocab, M::hidden));
      }
    } else if (parts & kHead) {
      launch(head_kernel<typename P::Head, In>, {dim3(V::head_blocks), V::head.threads(), size_t(V::head.shared_bytes(M::hidden, V::norm_inside)), 1, dependent}, s, step.get(), normed_or_x(), w.norms.of(2 * M::layers), w.embedding.data, logits.device,
             next.device, (void*)work.device, arrivals.device, slot++);
    }
  }

  // Bytes of weights and cache that a step must read.
  double bytes() const {
    const double attention = double(P::qkv_width) * M::hidden + double(M::hidden) * P::o_width;
    const int sparse = M::layers - M::dense_layers;
    const double active = M::experts ? M::experts * (1 - std::pow(1 - double(M::chosen) / M::experts, B)) : 0;
    const double cache = double(B) * context * 2 * M::kv_heads * M::head_dim * M::layers;
    return 2 * (M::layers * attention + 3.0 * M::dense_layers * M::hidden * M::ffn + (sparse ? 3.0 * sparse * M::hidden * (M::shared + active * M::m) : 0) + double(M::vocab) * M::hidden + cache);
  }
};

inline double copy_rate() {
  char *a, *b;
  const size_t n = size_t{1} << 30;
  CK(cudaMalloc(&a, n));
  CK(cudaMalloc(&b, n));
  CK(cudaMemset(a, 1, n));
  const double us = time_graph([&](cudaStream_t s) { CK(cudaMemcpyAsync(b, a, n, cudaMemcpyDeviceToDevice, s)); }, 1, 10);
  CK(cudaFree(a));
  CK(cudaFree(b));
  return 2.0 * n / us / 1e6;
}

__global__ void empty_kernel(float* x) {
  start_dependents();
  wait_for_inputs();
  if (x && threadIdx.x == 0) x[blockIdx.x] += 1;
}
// What a launch costs that only waits for the one before it.
inline void time_empty() {
  Buffer<float> x(1024);
  for (int blocks : {16, 132, 528}) {
    for (bool dependent : {true, false}) {
      for (bool writes : {true, false}) {
        const double us = time_graph([&](cudaStream_t s) { launch(empty_kernel, {dim3(blocks), 128, 0, 1, dependent}, s, writes ? x.device : nullptr); }, 200);
        std::printf("empty launch, %d blocks, %s, %s: %.2f us\n", blocks, dependent ? "dependent" : "serial", writes ? "adds to memory" : "touches nothing", us);
      }
    }
  }
}

double measured_rate = 3.03;  // TB/s; a large copy by a kernel on an H100

template <class M, class V>
void run(const char* name, const ModelWeights<M>& weights, int context, bool details) {
  Decode<M, V> decode(weights, context);
  // Bits with programmatic dependence, many times, against those without.
  cudaStream_t stream;
  CK(cudaStreamCreate(&stream));
  std::vector<float> want;
  int differ = 0;
  for (int i = 0; i < 6; ++i) {
    decode.logits.poison();
    decode.record(stream, i > 0);
    CK(cudaStreamSynchronize(stream));
    decode.logits.download();
    if (i == 0) want = decode.logits.host;
    else differ += std::memcmp(want.data(), decode.logits.host.data(), want.size() * 4) != 0;
  }
  double size = 0;
  for (float v : want) size += v * v;
  decode.next.download();
  if constexpr (M::experts > 0) {  // what the last layer chose
    std::vector<int32_t> chosen(size_t(V::batch) * M::chosen);
    decode.indices.download();
    chosen = decode.indices.host;
    std::vector<int> load(M::experts);
    for (int e : chosen) ++load[e];
    int used = 0, most = 0, eights = 0;
    for (int n : load) used += n > 0, most = std::max(most, n), eights += (n + 7) / 8;
    std::printf("  last layer: %d experts, at most %d tokens, %d times eight\n", used, most, eights);
  }
  if (tracing) {
    Buffer<Trace> trace(4096);
    for (auto& t : trace.host) t = {~0ull, 0, ~0ull, 0};
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    CK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    decode.record(stream);
    CK(cudaStreamEndCapture(stream, &graph));
    CK(cudaGraphInstantiate(&executable, graph, 0));
    for (int i = 0; i < 3; ++i) {
      CK(cudaMemcpyToSymbol(traces, trace.host.data(), sizeof(traces)));
      CK(cudaGraphLaunch(executable, stream));
      CK(cudaStreamSynchronize(stream));
    }
    CK(cudaMemcpyFromSymbol(trace.host.data(), traces, sizeof(traces)));
    std::printf("%s: begin of first block, of last, end of first, of last; us after the launch before began\n", name);
    const auto start = trace.host[0].first_begin;
    for (int i = 0; i < decode.slot; ++i) {
      if (i > 24 && i + 4 < decode.slot) continue;
      const Trace& t = trace.host[i];
      std::printf("  launch %3d: %8.2f %8.2f   %8.2f %8.2f\n", i, (t.first_begin - start) / 1e3, (t.last_begin - start) / 1e3, (t.first_end - start) / 1e3, (t.last_end - start) / 1e3);
    }
    return;
  }
  const double us = time_graph([&](cudaStream_t s) { decode.record(s); }, 2, 12);
  const double limit = decode.bytes() / measured_rate / 1e6;
  std::printf("%-10s batch %2d context %5d: %8.1f us, %8.0f tok/s, %.3f of the copy rate (limit %.1f us)%s  |logit| %.3f id %d\n", name, V::batch, context, us, V::batch * 1e6 / us, limit / us, limit,
              differ ? "  BITS DIFFER" : "", std::sqrt(size / want.size()), decode.next.host[0]);
  CK(cudaStreamDestroy(stream));
  if (!details) return;
  const double serial = time_graph([&](cudaStream_t s) { decode.record(s, false); }, 1, 6);
  std::printf("  without programmatic dependence: %.1f us\n", serial);
  const struct { const char* name; int part; double count; } parts[] = {{"qkv", kQkv, M::layers}, {"attention", kAttention, M::layers}, {"o", kO, M::layers}, {"up", kUp, M::dense_layers}, {"down", kDown, M::dense_layers},
                                                                      {"router", kRouter, M::layers}, {"shared", kShared, M::layers}, {"experts", kExperts | kExpertRows, M::layers}, {"first", kExperts, M::layers}, {"second", kExpertRows, M::layers}, {"head", kHead, 1}};
  for (const auto& p : parts) {
    if (M::experts == 0 && (p.part & (kRouter | kShared | kExperts | kExpertRows))) continue;
    if (p.part == kExperts && !V::runs) continue;
    if (p.part == kExpertRows && !V::runs) continue;
    const double alone = time_graph([&](cudaStream_t s) { decode.record(s, true, p.part); }, 1, 6);
    if (p.part == kShared) {  // without it nothing says that the choice stands
      std::printf("  %-10s alone %.2f us each\n", p.name, alone / p.count);
      continue;
    }
    const double without = time_graph([&](cudaStream_t s) { decode.record(s, true, kAll & ~p.part); }, 1, 6);
    std::printf("  %-10s alone %.2f us each, step without it %.1f us (saves %.2f each)\n", p.name, alone / p.count, without, (us - without) / p.count);
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  const std::string what = argc > 1 ? argv[1] : "dense";
  std::printf("copy engine %.2f TB/s, limits are for %.2f\n", copy_rate(), measured_rate);
  if (what == "empty") return time_empty(), 0;
  if (what == "dense") {
    ModelWeights<Dense03> weights;
    CK(cudaDeviceSynchronize());
    run<Dense03, Dense16>("16 2x1", weights, 128, false);
    run<Dense03, Dense32Table>("32 table", weights, 128, false);
    run<Dense03, Dense64Table>("64 table", weights, 128, false);
  } else {
    ModelWeights<Moe21> weights;
    CK(cudaDeviceSynchronize());
    for (int context : {192, 8192}) {
      run<Moe21, Cut<2, 1, 1, false, Moe1Best>>("2x1", weights, context, false);
      run<Moe21, Cut<2, 4, 1, false, Moe1Best>>("2x4", weights, context, false);
      run<Moe21, Cut<2, 4, 1, true, Moe1Best>>("2x4 idle", weights, context, false);
      run<Moe21, Cut<1, 4, 1, false, Moe1Best>>("1x4", weights, context, false);
      run<Moe21, Cut<1, 8, 1, false, Moe1Best>>("1x8", weights, context, false);
      run<Moe21, Cut<1, 8, 1, true, Moe1Best>>("1x8 idle", weights, context, false);
    }
    run<Moe21, Moe16Ten>("16 ten", weights, 128, true);
    run<Moe21, Moe16Two>("16 two", weights, 128, true);
    run<Moe21, Moe16Stages>("16 stages", weights, 128, true);
    run<Moe21, Moe16Beside>("16 beside", weights, 128, true);
    run<Moe21, Moe64Six>("64 six", weights, 128, true);
    run<Moe21, Moe64Stages>("64 stages", weights, 128, false);
    run<Moe21, Moe64Beside>("64 beside", weights, 128, true);
  }
}
