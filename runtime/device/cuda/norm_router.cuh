// norm_router: the norm of rows, and which experts each goes to. router_swiglu: the same, and beside it the first product of the shared experts, so that the
// router has no time of its own.
//
//   x           float [tokens, hidden]
//   norm        Bf16 [hidden]              the norm's weight
//   gate        W [experts, hidden]        row; float or Bf16
//   correction  float [experts]            if problem.correction, else not read
//   normed      Bf16 [tokens, hidden]      rms_norm(x)
//   logits      float [tokens, experts]    rms_norm(x) . gate^T, the norm not rounded
//   indices, weights   as in moe_router.cuh
//   weight      Bf16 [2*m, hidden]         router_swiglu: row, gate and up in turns of problem.group
//   hidden_rows Bf16 [tokens, m]           router_swiglu: silu(n . gate^T) * (n . up^T), n normed on the way into the product (Norm in product.cuh)
//   arrivals    a counter for every problem.most tokens, 0 before the first launch; each launch leaves them 0
//
// Blocks of a group of problem.most tokens share out the experts of its logits; the one that is last to write them chooses.
// Launch:
//   norm_router    grid (problem.routers, ceil(tokens / problem.most)), 32 * problem.warps threads. A thread has its columns of the group's rows and of some
//                  experts' in registers
//   router_swiglu  blocks 0 .. problem.routers - 1 route; the others take tiles in turns. problem.tiling.threads() threads, problem.tiling.shared_bytes(hidden,
//                  true) of dynamic shared memory, which must hold problem.most rows of x too; tokens at most problem.most, of one group
// Everything but operands of products is f32. A row's bits do not depend on other rows. Reference ops: rms_norm, cast, moe_router, linear_swiglu.
#pragma once

#include "linear_swiglu.cuh"
#include "moe_router.cuh"

namespace ern::cuda {

struct NormRouter {
  int experts;
  int hidden;
  int chosen;
  bool correction = false;
  Norm norm = {};
  float norm_min = 1e-12f;
  int routers = 16;
  int most = 16;
  int warps = 8;
  Rows rows = Rows::tokens;
};

// Whether this block is the last of a group's to come here; counts again from 0 then. One thread calls it, after a barrier.
template <int routers>
ERN_DEVICE bool is_last(unsigned* arrivals) {
  __threadfence();
  const bool last = atomicAdd(arrivals, 1u) + 1 == routers;
  if (last) *arrivals = 0;
  __threadfence();
  return last;
}

// The experts of tokens first .. first + count - 1, from their logits.
template <NormRouter problem>
ERN_DEVICE void choose(int first, int count, const float* correction, const float* logits, int32_t* indices, float* weights) {
  constexpr int experts = problem.experts;
  __shared__ float own_logits[problem.warps][experts];
  float* const mine = own_logits[warp_id()];
  for (int token = first + warp_id(); token < first + count; token += problem.warps) {
    for (int e = lane_id(); e < experts; e += warp_size) mine[e] = __ldcg(logits + static_cast<int64_t>(token) * experts + e);
    __syncwarp();
    choose_experts<experts>(mine, problem.correction ? correction : nullptr, problem.chosen, problem.norm_min,
                            indices + static_cast<int64_t>(token) * problem.chosen, weights + static_cast<int64_t>(token) * problem.chosen);
    __syncwarp();
  }
}

// Block `block` of the routers of tokens first .. first + count - 1. `memory`: x * norm of them, f32.
template <NormRouter problem, class W>
ERN_DEVICE void route(int first, int count, int block, float* memory, const float* x, const Bf16* norm, const W* gate, const float* correction,
                      Bf16* normed, float* logits, int32_t* indices, float* weights, unsigned* arrivals) {
  constexpr int hidden = problem.hidden, experts = problem.experts, warps = problem.warps, routers = problem.routers;
  constexpr int groups = static_cast<int>(ceil_div(hidden, 4 * warp_size));  // of 4 columns a lane
  static_assert(hidden % 4 == 0 && problem.chosen <= warp_size && problem.chosen <= experts);
  __shared__ float inverse[problem.most];
  __shared__ bool last;
  const int lane = lane_id();
  const auto load_gate = [&](float4 (&row)[groups], int expert) {
#pragma unroll
    for (int i = 0; i < groups; ++i) {
      const int column = (i * warp_size + lane) * 4;
      row[i] = expert < experts && column < hidden ? load4(gate + static_cast<int64_t>(expert) * hidden + column) : float4{0, 0, 0, 0};
    }
  };
  int expert = warp_id() * routers + block;
  float4 row[groups];
  load_gate(row, expert);
  for (int e = expert + warps * routers; e < experts; e += warps * routers) {  // what comes later into L2
    constexpr int line = 128 / sizeof(W);
    for (int i = lane * line; i < hidden; i += warp_size * line) {
      asm volatile("prefetch.global.L2 [%0];" ::"l"(gate + static_cast<int64_t>(e) * hidden + i));
    }
  }
  wait_for_inputs();
  for (int token = warp_id(); token < count; token += warps) {
    float squares = 0;
#pragma unroll 5
    for (int i = 0; i < groups; ++i) {
      const int column = (i * warp_size + lane) * 4;
      if (column >= hidden) break;
      const float4 v = load4(x + static_cast<int64_t>(first + token) * hidden + column), w = load4(norm + column);
      squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
      *reinterpret_cast<float4*>(memory + token * hidden + column) = {v.x * w.x, v.y * w.y, v.z * w.z, v.w * w.w};
    }
    const float scale = rsqrtf(warp_sum(squares) / hidden + problem.norm.eps);
    if (lane == 0) inverse[token] = scale;
    if (token % routers != block) continue;  // each block keeps some rows
#pragma unroll 5
    for (int i = 0; i < groups; ++i) {
      const int column = (i * warp_size + lane) * 4;
      if (column >= hidden) break;
      const float4 v = *reinterpret_cast<const float4*>(memory + token * hidden + column);
      store4(normed + static_cast<int64_t>(first + token) * hidden + column, {v.x * scale, v.y * scale, v.z * scale, v.w * scale});
    }
  }
  __syncthreads();
  for (; expert < experts; expert += warps * routers) {
    for (int token = 0; token < count; ++token) {
      float sum = 0;
#pragma unroll
      for (int i = 0; i < groups; ++i) {
        const int column = (i * warp_size + lane) * 4;
        if (column >= hidden) break;
        const float4 v = *reinterpret_cast<const float4*>(memory + token * hidden + column);
        sum += v.x * row[i].x + v.y * row[i].y + v.z * row[i].z + v.w * row[i].w;
      }
      sum = warp_sum(sum) * inverse[token];
      if (lane == 0) __stcg(logits + static_cast<int64_t>(first + token) * experts + expert, sum);
    }
    load_gate(row, expert + warps * routers);
  }
  __syncthreads();
  if (threadIdx.x == 0) last = is_last<routers>(arrivals);
  __syncthreads();
  if (last) choose<problem>(first, count, correction, logits, indices, weights);
}

// Lane i gets the sum over the warp of v[i % count], in one order. `all`: count, before it was halved.
template <int count, int all = count>
ERN_DEVICE float warp_sums(const float (&v)[count]) {
  static_assert(count <= warp_size && (count & (count - 1)) == 0);
  if constexpr (count > 1) {
    constexpr int half = count / 2;
    const bool upper = (lane_id() & half) != 0;  // a lane goes on with one half of the values, its partner with the other
    float kept[half];
#pragma unroll
    for (int i = 0; i < half; ++i) kept[i] = (upper ? v[i + half] : v[i]) + __shfl_xor_sync(~0u, upper ? v[i] : v[i + half], half);
    return warp_sums<half, all>(kept);
  } else {
    float sum = v[0];
#pragma unroll
    for (int mask = all; mask < warp_size; mask *= 2) sum += __shfl_xor_sync(~0u, sum, mask);
    return sum;
  }
}

template <NormRouter problem, class W>
ERN_DEVICE void norm_router(const Step* step, const float* x, const Bf16* norm, const W* gate, const float* correction, Bf16* normed, float* logits,
                            int32_t* indices, float* weights, unsigned* arrivals) {
  constexpr int hidden = problem.hidden, experts = problem.experts, warps = problem.warps, routers = problem.routers, most = problem.most;
  constexpr int groups = static_cast<int>(ceil_div(hidden, 4 * warps * warp_size));  // of 4 columns a thread
  constexpr int share = static_cast<int>(ceil_div(experts, routers));
  constexpr int together = share > 2 ? 4 : share;  // experts at a time
  static_assert(hidden % 4 == 0 && problem.chosen <= warp_size && problem.chosen <= experts && together * most <= warp_size);
  __shared__ float sums[warps][together * most];
  __shared__ float squares[warps][most];
  __shared__ bool last;
  start_dependents();
  const int tokens = rows_of(step, problem.rows), first = static_cast<int>(blockIdx.y) * most, block = static_cast<int>(blockIdx.x);
  if (first >= tokens) return;  // those of the first group wait for inputs
  const int count = tokens - first < most ? tokens - first : most, thread = static_cast<int>(threadIdx.x);
  const auto column_of = [&](int i) { return (i * warps * warp_size + thread) * 4; };
  float4 row[together][groups];
  const auto load_gate = [&](int from) {
#pragma unroll
    for (int e = 0; e < together; ++e) {
      const int expert = (from + e) * routers + block;
#pragma unroll
      for (int i = 0; i < groups; ++i)
        row[e][i] = expert < experts && column_of(i) < hidden ? load4(gate + static_cast<int64_t>(expert) * hidden + column_of(i)) : float4{0, 0, 0, 0};
    }
  };
  load_gate(0);
  float4 scale[groups];
#pragma unroll
  for (int i = 0; i < groups; ++i) scale[i] = column_of(i) < hidden ? load4(norm + column_of(i)) : float4{0, 0, 0, 0};
  wait_for_inputs();
  float4 v[most][groups];
#pragma unroll
  for (int t = 0; t < most; ++t) {
#pragma unroll
    for (int i = 0; i < groups; ++i)
      v[t][i] = t < count && column_of(i) < hidden ? load4(x + static_cast<int64_t>(first + t) * hidden + column_of(i)) : float4{0, 0, 0, 0};
  }
  float own_squares[most];
#pragma unroll
  for (int t = 0; t < most; ++t) {
    own_squares[t] = 0;
#pragma unroll
    for (int i = 0; i < groups; ++i) {
      float4& at = v[t][i];
      own_squares[t] += at.x * at.x + at.y * at.y + at.z * at.z + at.w * at.w;
      at = {at.x * scale[i].x, at.y * scale[i].y, at.z * scale[i].z, at.w * scale[i].w};
    }
  }
  const float warp_squares = warp_sums(own_squares);
  if (lane_id() < most) squares[warp_id()][lane_id()] = warp_squares;
  const auto inverse = [&](int token) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < warps; ++w) sum += squares[w][token];
    return rsqrtf(sum / hidden + problem.norm.eps);
  };
#pragma unroll 1
  for (int from = 0; from < share; from += together) {
    if (from > 0) load_gate(from), __syncthreads();  // the sums of before are read
    float own[together * most];
#pragma unroll
    for (int e = 0; e < together; ++e) {
#pragma unroll
      for (int t = 0; t < most; ++t) {
        float& sum = own[e * most + t];
        sum = 0;
#pragma unroll
        for (int i = 0; i < groups; ++i)
          sum += v[t][i].x * row[e][i].x + v[t][i].y * row[e][i].y + v[t][i].z * row[e][i].z + v[t][i].w * row[e][i].w;
      }
    }
    const float warp_total = warp_sums(own);
    if (lane_id() < together * most) sums[warp_id()][lane_id()] = warp_total;
    __syncthreads();
    const int expert = (from + thread / most) * routers + block, token = thread % most;
    if (thread < together * most && token < count && expert < experts) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < warps; ++w) sum += sums[w][thread];
      __stcg(logits + static_cast<int64_t>(first + token) * experts + expert, sum * inverse(token));
    }
  }
  __syncthreads();
  if (thread == 0) last = is_last<routers>(arrivals + blockIdx.y);
#pragma unroll
  for (int t = 0; t < most; ++t) {  // each block keeps some rows
    if (t >= count || t % routers != block) continue;
    const float r = inverse(t);
#pragma unroll
    for (int i = 0; i < groups; ++i) {
      if (column_of(i) < hidden)
        store4(normed + static_cast<int64_t>(first + t) * hidden + column_of(i), {v[t][i].x * r, v[t][i].y * r, v[t][i].z * r, v[t][i].w * r});
    }
  }
  __syncthreads();
  if (last) choose<problem>(first, count, correction, logits, indices, weights);
}

struct RouterSwiglu {
  NormRouter router;
  int m;
  int group;
  ProductTiling tiling = {};
};

template <RouterSwiglu problem, class W>
ERN_DEVICE void router_swiglu(const Step* step, const float* x, const Bf16* norm, const W* gate, const float* correction, const Bf16* weight,
                              Bf16* normed, float* logits, int32_t* indices, float* weights, Bf16* hidden_rows, unsigned* arrivals) {
  constexpr ProductTiling tiling = problem.tiling;
  constexpr int hidden = problem.router.hidden, routers = problem.router.routers, outputs = tiling.rows / 2;
  constexpr int tiles = static_cast<int>(ceil_div(problem.m, outputs));
  static_assert(problem.router.warps == tiling.warps && problem.router.most <= tiling.tokens() && !tiling.once);
  static_assert(problem.router.most * hidden * 4 <= tiling.shared_bytes(hidden, true));
  static_assert(tiling.rows % 16 == 0 && problem.m % problem.group == 0 && problem.group % 8 == 0);
  start_dependents();
  const int rows = rows_of(step, problem.router.rows);
  if (static_cast<int>(blockIdx.x) < routers) {
    route<problem.router>(0, rows, static_cast<int>(blockIdx.x), reinterpret_cast<float*>(product_memory), x, norm, gate, correction, normed, logits, indices,
                          weights, arrivals);
    return;
  }
  Product<hidden, tiling, float> product(product_memory);
  const TileWalk walk{tiles, 1, static_cast<int>(gridDim.x) - routers, static_cast<int>(blockIdx.x) - routers};
  const auto source = [&](int index, int p) { return swiglu_rows<problem.m, hidden, problem.group>(weight, walk.tile(index) * outputs + p * 8); };
  const int total = walk.total();
  product.begin(source, total);
  product.load_norm(norm);
  wait_for_inputs();
  const auto row_of = [&](int row) { return x + static_cast<int64_t>(row) * hidden; };
  for (int index = 0; index < total; ++index) {
    if (index == 0) product.load_x(row_of, rows);
    product.run(source, index, total, rows, row_of);
    for (int i = static_cast<int>(threadIdx.x); i < outputs * rows; i += tiling.threads()) {
      const int row = i % outputs, token = i / outputs, column = walk.tile(index) * outputs + row, at = row / 8 * 16 + row % 8;
      if (column >= problem.m) continue;
      const float scale = product.scale(token, problem.router.norm.eps);
      hidden_rows[static_cast<int64_t>(token) * problem.m + column] = __float2bfloat16_rn(silu(product.sum(at, token) * scale) * (product.sum(at + 8, token) * scale));
    }
  }
}

}  // namespace ern::cuda
