// The experts of a mixture, for a few tokens: each weight of an expert that anybody chose is read once for all of its tokens.
//
//   moe_up         activations[t*chosen + j] = silu(x_t . gate_e^T) * (x_t . up_e^T), e = indices[t, j]
//   moe_down       out[t] = sum over j of weights[t, j] * (activations[t*chosen + j] . down_e^T), + addend[t]
//   expert_linear  y[t*chosen + j] = x_row . W_e^T, x_row as problem.row_a_choice says
//   moe_combine    out[t] = sum over j of weights[t, j] * rows[t*chosen + j]
//   moe_ffn is moe_up, then moe_down, in two launches with the activations between them in a workspace.
//
//   x            Bf16 [tokens, hidden]
//   indices      int32 [tokens, chosen]            in [0, experts), different within a token
//   weights      float [tokens, chosen]
//   gate_up      Bf16 [experts, 2*m, hidden]       row; rows interleaved in turns of problem.group, a multiple of 8
//   down         Bf16 [experts, hidden, m]         row
//   activations  Bf16 [tokens*chosen, m]
//   addend       float [tokens, hidden]            if problem.addend, else not read
//   out          float [tokens, hidden]
//
// Launch, tiling.threads() threads each:
//   moe_up         grid (m / 8, min(tokens * chosen, experts)): y is the y-th expert in use
//   moe_down       grid (ceil(hidden / tiling.rows)): a block passes over the experts in use, ascending
//   expert_linear  grid (ceil(n / tiling.rows), min(tokens * chosen, experts))
//   moe_combine    256 threads; any grid, as in elementwise.cuh
// Products as in product.cuh, whose columns here are the tokens of one expert. Tokens go in chunks of 64, a chunk through all experts. Sums in
// f32 by ascending expert, then addend. Reference ops: expert_linear, swiglu, moe_combine, add (fused: moe_ffn).
#pragma once

#include "elementwise.cuh"
#include "linear.cuh"

namespace ern::cuda {

struct MoeFfn {
  int hidden;
  int m;  // width of an expert
  int experts;
  int chosen;  // experts of a token
  int group;
  bool addend = false;
  Rows rows = Rows::tokens;
  ProductTiling tiling = {};
};

constexpr int moe_chunk = 64;  // tokens that a block looks at together

// Which experts a chunk of tokens uses, and which choices (t * chosen + j) are one expert's. In shared memory, for a whole block.
template <int experts, int chosen>
struct ExpertLists {
  static constexpr int words = static_cast<int>(ceil_div(experts, 32));
  uint32_t used[words];
  int32_t choice[moe_chunk];  // of the expert asked for, ascending
  int32_t count;

  // Every thread calls these; `indices` and `tokens` are the chunk's.
  ERN_DEVICE void find_used(const int32_t* indices, int tokens) {
    for (int i = static_cast<int>(threadIdx.x); i < words; i += static_cast<int>(blockDim.x)) used[i] = 0;
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < tokens * chosen; i += static_cast<int>(blockDim.x)) {
      const int32_t expert = __ldcg(indices + i);
      atomicOr(&used[expert / 32], 1u << expert % 32);
    }
    __syncthreads();
  }

  // The next expert in use from `expert` on; experts if there is none.
  ERN_DEVICE int next(int expert) const {
    for (int word = expert / 32; word < words; ++word) {
      uint32_t left = used[word];
      if (word == expert / 32) left &= ~0u << expert % 32;
      if (left) return word * 32 + __ffs(static_cast<int>(left)) - 1;
    }
    return experts;
  }

  // The n-th expert in use, from 0.
  ERN_DEVICE int nth(int n) const {
    int expert = next(0);
    for (; n > 0 && expert < experts; --n) expert = next(expert + 1);
    return expert;
  }

  ERN_DEVICE void list(const int32_t* indices, int tokens, int expert) {
    __syncthreads();
    if (warp_id() == 0) {
      int found = 0;
      for (int first = 0; first < tokens * chosen; first += warp_size) {
        const int i = first + lane_id();
        const bool hit = i < tokens * chosen && __ldcg(indices + i) == expert;
        const uint32_t hits = __ballot_sync(~0u, hit);
        if (hit) choice[found + __popc(hits & ((1u << lane_id()) - 1))] = i;
        found += __popc(hits);
      }
      if (lane_id() == 0) count = found;
    }
    __syncthreads();
  }
};

template <MoeFfn problem>
ERN_DEVICE void moe_up(const Step* step, const Bf16* x, const int32_t* indices, const Bf16* gate_up, Bf16* activations) {
  constexpr ProductTiling tiling = problem.tiling;
  constexpr int hidden = problem.hidden, m = problem.m, chosen = problem.chosen, outputs = 8;
  static_assert(tiling.rows == 2 * outputs && m % outputs == 0 && problem.group % outputs == 0);
  using P = Product<hidden, tiling, Bf16>;
  __shared__ typename P::Shared shared;
  __shared__ ExpertLists<problem.experts, chosen> lists;
  start_dependents();
  P product(shared);
  const int tile = static_cast<int>(blockIdx.x);
  wait_for_inputs();
  for (int chunk = 0; chunk < rows_of(step, problem.rows); chunk += moe_chunk) {
    const int tokens = rows_of(step, problem.rows) - chunk < moe_chunk ? rows_of(step, problem.rows) - chunk : moe_chunk;
    const int32_t* const chunk_indices = indices + static_cast<int64_t>(chunk) * chosen;
    lists.find_used(chunk_indices, tokens);
    const int expert = lists.nth(static_cast<int>(blockIdx.y));
    if (expert >= problem.experts) continue;
    const Bf16* const gate = gate_up + (static_cast<int64_t>(expert) * 2 * m + gate_row<problem.group>(tile * outputs) + product.group) * hidden;
    const Bf16* const up = gate + static_cast<int64_t>(problem.group) * hidden;
    product.begin(gate, up);
    lists.list(chunk_indices, tokens, expert);
    for (int first = 0; first < lists.count; first += P::tokens) {
      const int count = lists.count - first < P::tokens ? lists.count - first : P::tokens;
      product.run(gate, up, gate, up, first + P::tokens < lists.count, count,
                  [&](int i) { return x + static_cast<int64_t>(chunk + lists.choice[first + i] / chosen) * hidden; }, nullptr);
      for (int i = static_cast<int>(threadIdx.x); i < outputs * count; i += tiling.threads()) {
        const int row = i % outputs, token = i / outputs;
        activations[(static_cast<int64_t>(chunk) * chosen + lists.choice[first + token]) * m + tile * outputs + row] =
            __float2bfloat16_rn(silu(product.sum(row, token)) * product.sum(row + outputs, token));
      }
    }
    __syncthreads();
  }
}

template <MoeFfn problem>
ERN_DEVICE void moe_down(const Step* step, const Bf16* activations, const int32_t* indices, const float* weights, const Bf16* down,
                         const float* addend, float* out) {
  constexpr ProductTiling tiling = problem.tiling;
  constexpr int hidden = problem.hidden, m = problem.m, chosen = problem.chosen, experts = problem.experts;
  using P = Product<m, tiling, Bf16>;
  __shared__ typename P::Shared shared;
  __shared__ ExpertLists<experts, chosen> lists;
  __shared__ float total[moe_chunk][tiling.rows];
  start_dependents();
  P product(shared);
  const int tile = static_cast<int>(blockIdx.x);
  const auto low = [&](int expert) {
    return weight_row<hidden, m>(down + static_cast<int64_t>(expert) * hidden * m, tile * tiling.rows + product.group);
  };
  const auto high = [&](int expert) {
    return weight_row<hidden, m>(down + static_cast<int64_t>(expert) * hidden * m, tile * tiling.rows + product.group + 8);
  };
  wait_for_inputs();
  for (int chunk = 0; chunk < rows_of(step, problem.rows); chunk += moe_chunk) {
    const int tokens = rows_of(step, problem.rows) - chunk < moe_chunk ? rows_of(step, problem.rows) - chunk : moe_chunk;
    const int32_t* const chunk_indices = indices + static_cast<int64_t>(chunk) * chosen;
    lists.find_used(chunk_indices, tokens);
    int expert = lists.next(0);
    if (expert < experts) product.begin(low(expert), high(expert));
    for (int i = static_cast<int>(threadIdx.x); i < moe_chunk * tiling.rows; i += tiling.threads()) total[i / tiling.rows][i % tiling.rows] = 0;
    while (expert < experts) {
      const int next = lists.next(expert + 1);
      lists.list(chunk_indices, tokens, expert);
      for (int first = 0; first < lists.count; first += P::tokens) {
        const int count = lists.count - first < P::tokens ? lists.count - first : P::tokens;
        const bool same = first + P::tokens < lists.count;
        const int then = same ? expert : next < experts ? next : expert;
        product.run(low(expert), high(expert), low(then), high(then), same || next < experts, count,
                    [&](int i) { return activations + (static_cast<int64_t>(chunk) * chosen + lists.choice[first + i]) * m; }, nullptr);
        for (int i = static_cast<int>(threadIdx.x); i < tiling.rows * count; i += tiling.threads()) {
          const int row = i % tiling.rows, choice = lists.choice[first + i / tiling.rows];
          total[choice / chosen][row] += __ldcg(weights + static_cast<int64_t>(chunk) * chosen + choice) * product.sum(row, i / tiling.rows);
        }
      }
      expert = next;
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < tiling.rows * tokens; i += tiling.threads()) {
      const int row = i % tiling.rows, token = i / tiling.rows, column = tile * tiling.rows + row;
      if (column >= hidden) continue;
      const int64_t at = static_cast<int64_t>(chunk + token) * hidden + column;
      float value = total[token][row];
      if constexpr (problem.addend) value += __ldcg(addend + at);
      out[at] = value;
    }
    __syncthreads();
  }
}

struct ExpertLinear {
  int n;
  int k;
  int experts;
  int chosen;
  bool row_a_choice;  // x has a row a choice, not a row a token
  Rows rows = Rows::tokens;
  ProductTiling tiling = {};
};

template <ExpertLinear problem, class Y>
ERN_DEVICE void expert_linear(const Step* step, const Bf16* x, const int32_t* indices, const Bf16* weight, Y* y) {
  constexpr ProductTiling tiling = problem.tiling;
  constexpr int n = problem.n, k = problem.k, chosen = problem.chosen;
  using P = Product<k, tiling, Bf16>;
  __shared__ typename P::Shared shared;
  __shared__ ExpertLists<problem.experts, chosen> lists;
  start_dependents();
  P product(shared);
  const int tile = static_cast<int>(blockIdx.x);
  wait_for_inputs();
  for (int chunk = 0; chunk < rows_of(step, problem.rows); chunk += moe_chunk) {
    const int tokens = rows_of(step, problem.rows) - chunk < moe_chunk ? rows_of(step, problem.rows) - chunk : moe_chunk;
    const int64_t first_choice = static_cast<int64_t>(chunk) * chosen;
    lists.find_used(indices + first_choice, tokens);
    const int expert = lists.nth(static_cast<int>(blockIdx.y));
    if (expert >= problem.experts) continue;
    const Bf16* const matrix = weight + static_cast<int64_t>(expert) * n * k;
    const Bf16* const low = weight_row<n, k>(matrix, tile * tiling.rows + product.group);
    const Bf16* const high = weight_row<n, k>(matrix, tile * tiling.rows + product.group + 8);
    product.begin(low, high);
    lists.list(indices + first_choice, tokens, expert);
    for (int first = 0; first < lists.count; first += P::tokens) {
      const int count = lists.count - first < P::tokens ? lists.count - first : P::tokens;
      product.run(low, high, low, high, first + P::tokens < lists.count, count,
                  [&](int i) {
                    const int64_t choice = first_choice + lists.choice[first + i];
                    return x + (problem.row_a_choice ? choice : choice / chosen) * k;
                  },
                  nullptr);
      for (int i = static_cast<int>(threadIdx.x); i < tiling.rows * count; i += tiling.threads()) {
        const int row = i % tiling.rows, column = tile * tiling.rows + row;
        if (column < n) y[(first_choice + lists.choice[first + i / tiling.rows]) * n + column] = round_to<Y>(product.sum(row, i / tiling.rows));
      }
    }
    __syncthreads();
  }
}

struct MoeCombine {
  int width;
  int chosen;
  Rows rows = Rows::tokens;
};

template <MoeCombine problem>
ERN_DEVICE void moe_combine(const Step* step, const float* rows, const int32_t* indices, const float* weights, float* out) {
  constexpr int chosen = problem.chosen, width = problem.width;
  start_dependents();
  wait_for_inputs();
  for_each_group<width>(rows_of(step, problem.rows), [&](int64_t token, int column) {
    float4 sum = {0, 0, 0, 0};
    int done = -1;
    for (int step_of = 0; step_of < chosen; ++step_of) {  // the lowest expert above `done`: k is small
      int best = -1;
      int32_t lowest = INT32_MAX;
      for (int j = 0; j < chosen; ++j) {
        const int32_t expert = __ldcg(indices + token * chosen + j);
        if (expert > done && expert < lowest) lowest = expert, best = j;
      }
      done = lowest;
      const float w = __ldcg(weights + token * chosen + best);
      const float4 v = load4(rows + (token * chosen + best) * width + column);
      sum = {sum.x + w * v.x, sum.y + w * v.y, sum.z + w * v.z, sum.w + w * v.w};
    }
    store4(out + token * width + column, sum);
  });
}

}  // namespace ern::cuda
