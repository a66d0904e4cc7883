// The second half of a decoder layer with experts, for a few tokens: norm, router, the experts that were chosen, the shared experts, residual. Two
// launches, in which the router has no time of its own.
//
//   n = rms_norm(x);  p = softmax(n . gate^T);  chosen: the largest of p + correction, with weights p / max(sum of the chosen p, norm_min)
//   out = x + shared(n) + sum over the chosen e of weight_e * expert_e(n), each a SwiGLU MLP
//
//   x             float [tokens, hidden]
//   rows          X [tokens, hidden]            x itself, which is normed on the way into products; or, Bf16, the normed rows
//   norm          Bf16 [hidden]                 the norm's weight
//   gate          W [experts, hidden]           row; float or Bf16
//   correction    float [experts]               if problem.correction, else not read
//   gate_up       Bf16 [experts, 2*m, hidden]   row; interleaved in turns of problem.group
//   down          Bf16 [experts, hidden, m]     row
//   shared_gate_up  Bf16 [2*shared*m, hidden]   row, interleaved alike: shared experts are one of shared * m
//   shared_down   Bf16 [hidden, shared*m]       row
//   out           float [tokens, hidden]        may be x
//   workspace     moe_block_workspace(..) bytes: activations, of shared experts too, logits, indices, weights
//   counters      three, 0 before the first launch; those of all launches of one pair of kernels, which come in turns (__device__ variables)
//
// moe_block_up    blocks 0 .. problem.routers - 1 route: each has some experts' logits, and the one that is last to write them chooses and publishes
//                 the choice. The others share out the tiles of the shared experts, and after them those of the chosen, which they learn of while
//                 the last tiles of the shared ones are on their way. Starts dependents after its wait ("late": kernel.cuh).
// moe_block_down  grid ceil(hidden / tiling.rows). Waits for the choice, not for the launch, before it fetches weights: who chooses runs, as all blocks of
//                 moe_block_up do once this one starts. A block passes over shared experts, then those in use, ascending.
// Launch: tiling.threads() threads, tiling.shared_bytes(k, normed) of dynamic shared memory; no more blocks of moe_block_up than the GPU holds at once.
// Tokens at most tiling.tokens() of moe_block_up. Everything but operands of products is f32: see product.cuh and moe_router.cuh. Sums in the order
// shared, experts ascending, x. Reference ops: rms_norm, cast, moe_router, linear_swiglu, linear, moe_ffn, add (fused: moe_block).
#pragma once

#include "linear_swiglu.cuh"
#include "moe_ffn.cuh"
#include "moe_router.cuh"

namespace ern::cuda {

struct MoeBlock {
  int hidden;
  int m;  // width of an expert
  int experts;
  int chosen;
  int shared;  // experts that everybody has
  int group;
  bool correction = false;
  Norm norm = {};
  float norm_min = 1e-12f;
  int routers = 4;
  int most = 8;  // tokens
  Rows rows = Rows::tokens;
  ProductTiling tiling = {};
};

// Parts of the workspace, each aligned to 16 bytes.
struct MoeBlockParts {
  int64_t activations = 0, shared, logits, indices, weights, bytes;
  constexpr MoeBlockParts(int64_t rows, int m, int experts, int chosen, int shared_experts)
      : shared(2 * rows * chosen * m),
        logits(shared + 2 * rows * shared_experts * m),
        indices(logits + 4 * rows * experts),
        weights(indices + ceil_div(4 * rows * chosen, 16) * 16),
        bytes(weights + ceil_div(4 * rows * chosen, 16) * 16) {}
};
constexpr int64_t moe_block_workspace(int64_t rows, int m, int experts, int chosen, int shared) {
  return MoeBlockParts(rows, m, experts, chosen, shared).bytes;
}

// For a pair of kernels.
struct MoeBlockCounters {
  unsigned arrivals;   // routers that have written their logits, then blocks of moe_block_down that are done
  unsigned published;  // choices
  unsigned finished;   // launches of moe_block_down
};

ERN_DEVICE unsigned load_acquire(const unsigned* at) {
  unsigned value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(at) : "memory");
  return value;
}
ERN_DEVICE void store_release(unsigned* at, unsigned value) { asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(at), "r"(value) : "memory"); }

// Until the choice of this launch is there. Every thread calls it. Earlier launches of the pair are complete.
ERN_DEVICE void wait_for_choice(const MoeBlockCounters* counters) {
  if (threadIdx.x == 0) {
    const unsigned now = __ldcg(&counters->finished) + 1;
    while (load_acquire(&counters->published) != now) {
    }
  }
  __syncthreads();
}

// Block `block` of problem.routers. x * norm of all tokens is in `memory`, [tokens][hidden] f32; a warp has one expert at a time.
template <MoeBlock problem, class W>
ERN_DEVICE void route(const Step* step, const float* x, const Bf16* norm, const W* gate, const float* correction, float* memory, float* logits,
                      int32_t* indices, float* weights, MoeBlockCounters* counters, int block) {
  constexpr int hidden = problem.hidden, experts = problem.experts, warps = problem.tiling.warps;
  constexpr int groups = static_cast<int>(ceil_div(hidden, 4 * warp_size));  // of 4 columns a lane
  static_assert(hidden % 4 == 0 && problem.chosen <= warp_size && problem.chosen <= experts);
  static_assert(problem.most * hidden * 4 <= problem.tiling.stages * problem.tiling.stage_bytes(hidden));
  __shared__ float inverse[problem.most];
  __shared__ float own_logits[warps][experts];
  __shared__ bool last;
  const int lane = lane_id(), tokens = rows_of(step, problem.rows);
  const auto load_gate = [&](float4 (&row)[groups], int expert) {
#pragma unroll
    for (int i = 0; i < groups; ++i) {
      const int column = (i * warp_size + lane) * 4;
      row[i] = expert < experts && column < hidden ? load4(gate + static_cast<int64_t>(expert) * hidden + column) : float4{0, 0, 0, 0};
    }
  };
  int expert = warp_id() * problem.routers + block;
  float4 row[groups];
  load_gate(row, expert);
  for (int e = expert + warps * problem.routers; e < experts; e += warps * problem.routers) {  // what comes later into L2
    constexpr int line = 128 / sizeof(W);
    for (int i = lane * line; i < hidden; i += warp_size * line) {
      asm volatile("prefetch.global.L2 [%0];" ::"l"(gate + static_cast<int64_t>(e) * hidden + i));
    }
  }
  wait_for_inputs();
  start_dependents();
  for (int token = warp_id(); token < tokens; token += warps) {
    float squares = 0;
#pragma unroll
    for (int i = 0; i < groups; ++i) {
      const int column = (i * warp_size + lane) * 4;
      if (column >= hidden) break;
      const float4 v = load4(x + static_cast<int64_t>(token) * hidden + column), w = load4(norm + column);
      squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
      *reinterpret_cast<float4*>(memory + token * hidden + column) = {v.x * w.x, v.y * w.y, v.z * w.z, v.w * w.w};
    }
    squares = warp_sum(squares);
    if (lane == 0) inverse[token] = rsqrtf(squares / hidden + problem.norm.eps);
  }
  __syncthreads();
  for (; expert < experts; expert += warps * problem.routers) {
    for (int token = 0; token < tokens; ++token) {
      float sum = 0;
#pragma unroll
      for (int i = 0; i < groups; ++i) {
        const int column = (i * warp_size + lane) * 4;
        if (column >= hidden) break;
        const float4 v = *reinterpret_cast<const float4*>(memory + token * hidden + column);
        sum += v.x * row[i].x + v.y * row[i].y + v.z * row[i].z + v.w * row[i].w;
      }
      sum = warp_sum(sum) * inverse[token];
      if (lane == 0) __stcg(logits + token * experts + expert, sum);
    }
    load_gate(row, expert + warps * problem.routers);
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicAdd(&counters->arrivals, 1u) + 1 == problem.routers;
    __threadfence();
  }
  __syncthreads();
  if (!last) return;
  float* const mine = own_logits[warp_id()];
  for (int token = warp_id(); token < tokens; token += warps) {
    for (int e = lane; e < experts; e += warp_size) mine[e] = __ldcg(logits + token * experts + e);
    __syncwarp();
    choose_experts<experts>(mine, problem.correction ? correction : nullptr, problem.chosen, problem.norm_min, indices + token * problem.chosen,
                            weights + token * problem.chosen);
    __syncwarp();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    counters->arrivals = 0;
    const unsigned now = __ldcg(&counters->finished) + 1;
    __threadfence();
    store_release(&counters->published, now);
  }
}

template <MoeBlock problem, class X, class W>
ERN_DEVICE void moe_block_up(const Step* step, const float* x, const X* rows, const Bf16* norm, const W* gate, const float* correction,
                             const Bf16* gate_up, const Bf16* shared_gate_up, unsigned char* workspace, int64_t most_rows,
                             MoeBlockCounters* counters) {
  constexpr ProductTiling tiling = problem.tiling;
  constexpr int hidden = problem.hidden, m = problem.m, chosen = problem.chosen, outputs = tiling.rows / 2, tiles = m / outputs;
  constexpr int shared_width = problem.shared * m, shared_tiles = shared_width / outputs;
  static_assert(tiling.rows % 16 == 0 && m % outputs == 0 && problem.group % 8 == 0 && !tiling.once);
  static_assert(problem.most <= tiling.tokens() && problem.most <= moe_chunk);
  using P = Product<hidden, tiling, X>;
  __shared__ ExpertItems<problem.experts, chosen, tiling.tokens()> items;
  const MoeBlockParts parts(most_rows, m, problem.experts, chosen, problem.shared);
  Bf16* const activations = reinterpret_cast<Bf16*>(workspace + parts.activations);
  Bf16* const shared_activations = reinterpret_cast<Bf16*>(workspace + parts.shared);
  int32_t* const indices = reinterpret_cast<int32_t*>(workspace + parts.indices);
  if (static_cast<int>(blockIdx.x) < problem.routers) {
    route<problem>(step, x, norm, gate, correction, reinterpret_cast<float*>(product_memory), reinterpret_cast<float*>(workspace + parts.logits), indices,
                   reinterpret_cast<float*>(workspace + parts.weights), counters, static_cast<int>(blockIdx.x));
    return;
  }
  P product(product_memory);
  const int tokens = rows_of(step, problem.rows), block = static_cast<int>(blockIdx.x) - problem.routers;
  const int blocks = static_cast<int>(gridDim.x) - problem.routers;
  const auto share = [&](int all) {
    const int first = static_cast<int>(static_cast<int64_t>(all) * block / blocks);
    return Run{first, static_cast<int>(static_cast<int64_t>(all) * (block + 1) / blocks) - first};
  };
  // Tiles of the shared experts first; those of the others once it is known who was chosen.
  const Run common = share(shared_tiles);
  Run own{0, 0};
  bool known = false;
  const auto learn = [&]() {
    wait_for_choice(counters);
    items.set(indices, tokens);
    own = share(items.items * tiles);
    known = true;
  };
  const auto source = [&](int index, int p) {
    if (index < common.count) return swiglu_rows<shared_width, hidden, problem.group>(shared_gate_up, (common.first + index) * outputs + p * 8);
    const int piece = own.first + index - common.count;
    return swiglu_rows<m, hidden, problem.group>(gate_up + static_cast<int64_t>(items.expert_of(piece / tiles)) * 2 * m * hidden,
                                                 piece % tiles * outputs + p * 8);
  };
  const bool early = common.count >= tiling.stages;
  if (early) product.begin(source, common.count);
  product.load_norm(norm);
  wait_for_inputs();
  start_dependents();
  if (!early) learn(), product.begin(source, common.count + own.count);
  for (int index = 0; index < common.count + own.count || !known; ++index) {
    // The copy that follows this tile may be of a chosen expert's.
    if (!known && index + tiling.stages >= common.count) learn();
    const int total = common.count + (known ? own.count : 0);
    if (index >= total) break;
    const bool of_shared = index < common.count;
    const int piece = of_shared ? common.first + index : own.first + index - common.count;
    const int item = of_shared ? 0 : piece / tiles, tile = of_shared ? piece : piece % tiles, count = of_shared ? tokens : items.count(item);
    const auto row_of = [&](int i) { return rows + static_cast<int64_t>(of_shared ? i : items.choice_of(item, i) / chosen) * hidden; };
    const bool first = index == 0 || (tokens > 1 && !of_shared && (tile == 0 || index == common.count));
    if (first) product.load_x(row_of, count);
    product.run(source, index, total, count, row_of);
    for (int i = static_cast<int>(threadIdx.x); i < outputs * count; i += tiling.threads()) {
      const int row = i % outputs, token = i / outputs, at = row / 8 * 16 + row % 8;
      const float scale = product.scale(token, problem.norm.eps);
      const Bf16 value = __float2bfloat16_rn(silu(product.sum(at, token) * scale) * (product.sum(at + 8, token) * scale));
      if (of_shared) shared_activations[static_cast<int64_t>(token) * shared_width + tile * outputs + row] = value;
      else activations[static_cast<int64_t>(items.choice_of(item, token)) * m + tile * outputs + row] = value;
    }
  }
}

template <MoeBlock problem>
ERN_DEVICE void moe_block_down(const Step* step, const float* x, const Bf16* down, const Bf16* shared_down, const unsigned char* workspace,
                               int64_t most_rows, float* out, MoeBlockCounters* counters) {
  constexpr ProductTiling tiling = problem.tiling;
  constexpr int hidden = problem.hidden, m = problem.m, chosen = problem.chosen, shared = problem.shared, rows = tiling.rows;
  constexpr int columns = tiling.tokens();
  static_assert(!tiling.once && problem.most <= moe_chunk);
  using P = Product<m, tiling, Bf16>;
  __shared__ ExpertItems<problem.experts, chosen, columns> items;
  __shared__ float total[problem.most][rows];
  __shared__ unsigned finished;
  const MoeBlockParts parts(most_rows, m, problem.experts, chosen, shared);
  const Bf16* const activations = reinterpret_cast<const Bf16*>(workspace + parts.activations);
  const Bf16* const shared_activations = reinterpret_cast<const Bf16*>(workspace + parts.shared);
  const float* const weights = reinterpret_cast<const float*>(workspace + parts.weights);
  start_dependents();
  P product(product_memory);
  const int tile = static_cast<int>(blockIdx.x), tokens = rows_of(step, problem.rows);
  const int groups = (tokens + columns - 1) / columns, common = shared * groups;  // items of shared experts
  if (threadIdx.x == 0) finished = __ldcg(&counters->finished);
  wait_for_choice(counters);
  items.set(reinterpret_cast<const int32_t*>(workspace + parts.indices), tokens);
  const auto source = [&](int item, int p) {
    const int first = tile * rows + p * 16;
    if (item >= common) return rows_from<hidden, m, P::product_rows>(down + static_cast<int64_t>(items.expert_of(item - common)) * hidden * m, first);
    TileRows of = rows_from<hidden, shared * m, P::product_rows>(shared_down, first);
    of.low += item / groups * m, of.high += item / groups * m, of.stride = shared * m;
    return of;
  };
  const int all = common + items.items;
  product.begin(source, all);
  for (int i = static_cast<int>(threadIdx.x); i < tokens * rows; i += tiling.threads()) total[i / rows][i % rows] = 0;
  wait_for_inputs();
  __syncthreads();
  for (int item = 0; item < all; ++item) {
    const bool of_shared = item < common;
    const int first = item % groups * columns, part = item / groups;
    const int count = !of_shared ? items.count(item - common) : tokens - first < columns ? tokens - first : columns;
    const auto row_of = [&](int i) {
      return of_shared ? shared_activations + static_cast<int64_t>(first + i) * shared * m + part * m
                       : activations + static_cast<int64_t>(items.choice_of(item - common, i)) * m;
    };
    product.load_x(row_of, count);
    product.run(source, item, all, count, row_of);
    // A token has an expert once, and items follow one another through the barrier in run().
    for (int i = static_cast<int>(threadIdx.x); i < rows * count; i += tiling.threads()) {
      const int row = i % rows, column = i / rows;
      if (of_shared) {
        total[first + column][row] += product.sum(row, column);
      } else {
        const int choice = items.choice_of(item - common, column);
        total[choice / chosen][row] += __ldcg(weights + choice) * product.sum(row, column);
      }
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < rows * tokens; i += tiling.threads()) {
    const int row = i % rows, token = i / rows, column = tile * rows + row;
    if (column >= hidden) continue;
    const int64_t at = static_cast<int64_t>(token) * hidden + column;
    out[at] = total[token][row] + __ldcg(x + at);
  }
  // The next pair of launches waits for this one to end before it looks at the counters.
  if (threadIdx.x == 0 && atomicAdd(&counters->arrivals, 1u) + 1 == gridDim.x) {
    counters->arrivals = 0;
    __threadfence();
    counters->finished = finished + 1;
  }
}

}  // namespace ern::cuda
