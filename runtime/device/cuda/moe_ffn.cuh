// The experts of a mixture, for a few tokens: each weight of an expert that anybody chose is read once for all of its tokens.
//
//   moe_up         activations[t*chosen + j] = silu(x_t . gate_e^T) * (x_t . up_e^T), e = indices[t, j]
//   moe_down       out[t] = sum over j of weights[t, j] * (activations[t*chosen + j] . down_e^T), + addend[t]
//   expert_linear  y[t*chosen + j] = x_row . W_e^T, x_row as problem.row_a_choice says
//   moe_combine    out[t] = sum over j of weights[t, j] * rows[t*chosen + j], + addend[t]
//   moe_ffn is moe_up, then moe_down, in two launches with the activations between them in a workspace; or, for more tokens, moe_up, expert_linear
//   and moe_combine: a block of moe_down reads the activations of everybody, one of expert_linear those of its experts.
//
//   x            Bf16 [tokens, hidden]
//   indices      int32 [tokens, chosen]            in [0, experts), different within a token
//   weights      float [tokens, chosen]
//   gate_up      Bf16 [experts, 2*m, hidden]       row; rows interleaved in turns of problem.group, a multiple of 8
//   down         Bf16 [experts, hidden, m]         row
//   activations  Bf16 [tokens*chosen, m]
//   addend       float [tokens, hidden]            if problem.addend, else not read
//   out          float [tokens, hidden]
//   norm         W [hidden]                        moe_combine_norm: the norm's weight, float or Bf16
//   normed       Bf16 [tokens, hidden]             moe_combine_norm: rms_norm(out), as in rms_norm.cuh
//
// Launch, tiling.threads() threads and tiling.shared_bytes(k, normed) of dynamic shared memory each:
//   moe_up         as many blocks as fit, which share out (expert in use, m / 8 tiles) in runs
//   moe_down       grid (ceil(hidden / tiling.rows)): a block passes over the experts in use, ascending
//   expert_linear  as moe_up, with ceil(n / tiling.rows) tiles
//   moe_combine    256 threads; any grid, as in elementwise.cuh
//   moe_combine_norm   problem.norm.threads threads; a block a row
// Products as in product.cuh, whose columns here are the tokens of one expert. Tokens go in chunks of 64, a chunk through all experts. Sums in
// f32 by ascending expert, then addend. Reference ops: expert_linear, swiglu, moe_combine, add (fused: moe_ffn).
#pragma once

#include "rms_norm.cuh"

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
  bool choice_stands = false;  // x, indices and weights were finished before a late launch (kernel.cuh): read before the wait
};

constexpr int moe_chunk = 64;  // tokens that a block looks at together

// The choices (t * chosen + j) of a chunk of tokens, sorted by expert, and cut into items of at most `columns`, each of one expert: what one
// product multiplies. In shared memory, for a whole block. A token has an expert once, so an expert's tokens are a mask.
template <int experts, int chosen, int columns>
struct ExpertItems {
  static constexpr int most = moe_chunk * chosen;
  int32_t choice[most];      // sorted by expert, then ascending
  int32_t start[most + 1];   // of an item in `choice`
  uint16_t expert[most];     // of an item
  uint16_t expert_at[most];  // of a choice
  uint32_t tokens_of[experts][moe_chunk / 32];
  uint16_t first[experts];   // of an expert in `choice`
  int32_t items;
  static_assert(most < 65536 && experts < 65536);

  // Every thread calls it; `indices` and `tokens` are the chunk's.
  ERN_DEVICE void set(const int32_t* indices, int tokens) {
    const int all = tokens * chosen, threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
    __syncthreads();  // the items of before are read
    for (int i = thread; i < all; i += threads) expert_at[i] = static_cast<uint16_t>(__ldcg(indices + i));
    for (int i = thread; i < experts * (moe_chunk / 32); i += threads) tokens_of[i / (moe_chunk / 32)][i % (moe_chunk / 32)] = 0;
    __syncthreads();
    for (int i = thread; i < all; i += threads) atomicOr(&tokens_of[expert_at[i]][i / chosen / 32], 1u << i / chosen % 32);
    __syncthreads();
    if (warp_id() == 0) {
      int choices = 0, found = 0;
      for (int base = 0; base < experts; base += warp_size) {
        const int e = base + lane_id(), count = e < experts ? __popc(tokens_of[e][0]) + __popc(tokens_of[e][1]) : 0;
        const int pieces = (count + columns - 1) / columns;
        int both = count << 16 | pieces, sum = both;  // of this lane and those below
#pragma unroll
        for (int step = 1; step < warp_size; step *= 2) {
          const int other = __shfl_up_sync(~0u, sum, step);
          if (lane_id() >= step) sum += other;
        }
        const int before = choices + ((sum - both) >> 16), item = found + ((sum - both) & 0xffff);
        if (e < experts) first[e] = static_cast<uint16_t>(before);
        for (int i = 0; i < pieces; ++i) start[item + i] = before + i * columns, expert[item + i] = static_cast<uint16_t>(e);
        const int total = __shfl_sync(~0u, sum, warp_size - 1);
        choices += total >> 16, found += total & 0xffff;
      }
      if (lane_id() == 0) items = found, start[found] = all;
    }
    __syncthreads();
    for (int i = thread; i < all; i += threads) {
      const int token = i / chosen, e = expert_at[i];
      const uint32_t below = tokens_of[e][token / 32] & ((1u << token % 32) - 1);
      choice[first[e] + __popc(below) + (token < 32 ? 0 : __popc(tokens_of[e][0]))] = i;
    }
    __syncthreads();
  }

  ERN_DEVICE int expert_of(int item) const { return expert[item]; }
  ERN_DEVICE int count(int item) const { return start[item + 1] - start[item]; }
  ERN_DEVICE int choice_of(int item, int column) const { return choice[start[item] + column]; }
};
static_assert(moe_chunk == 64);

// This block's share of `all` pieces: a run of them.
struct Run {
  int first;
  int count;
};
ERN_DEVICE Run share_of(int64_t all) {
  const int first = static_cast<int>(all * blockIdx.x / gridDim.x);
  return {first, static_cast<int>(all * (blockIdx.x + 1) / gridDim.x) - first};
}

template <MoeFfn problem>
ERN_DEVICE void moe_up(const Step* step, const Bf16* x, const int32_t* indices, const Bf16* gate_up, Bf16* activations) {
  constexpr ProductTiling tiling = problem.tiling;
  constexpr int hidden = problem.hidden, m = problem.m, chosen = problem.chosen, outputs = tiling.rows / 2, tiles = m / outputs;
  static_assert(tiling.rows % 16 == 0 && m % outputs == 0 && problem.group % 8 == 0 && !tiling.once);
  using P = Product<hidden, tiling, Bf16>;
  __shared__ ExpertItems<problem.experts, chosen, tiling.tokens()> items;
  P product(product_memory);
  const int all_tokens = rows_of(step, problem.rows);
  // Late itself, so that the choice stands for moe_down. With choice_stands only the activations' last readers are waited for.
  if constexpr (!problem.choice_stands) wait_for_inputs(), start_dependents();
  for (int chunk = 0; chunk < all_tokens; chunk += moe_chunk) {
    const int tokens = all_tokens - chunk < moe_chunk ? all_tokens - chunk : moe_chunk;
    const int64_t first_choice = static_cast<int64_t>(chunk) * chosen;
    items.set(indices + first_choice, tokens);
    const Run run = share_of(static_cast<int64_t>(items.items) * tiles);
    const auto source = [&](int index, int p) {
      const int piece = run.first + index;
      return swiglu_rows<m, hidden, problem.group>(gate_up + static_cast<int64_t>(items.expert_of(piece / tiles)) * 2 * m * hidden,
                                                   piece % tiles * outputs + p * 8);
    };
    product.begin(source, run.count);
    if (problem.choice_stands && chunk == 0) wait_for_inputs(), start_dependents();
    for (int index = 0; index < run.count; ++index) {
      const int item = (run.first + index) / tiles, tile = (run.first + index) % tiles, count = items.count(item);
      const auto row_of = [&](int i) { return x + static_cast<int64_t>(chunk + items.choice_of(item, i) / chosen) * hidden; };
      if (index == 0 || tile == 0) product.load_x(row_of, count);
      product.run(source, index, run.count, count, row_of);
      for (int i = static_cast<int>(threadIdx.x); i < outputs * count; i += tiling.threads()) {
        const int row = i % outputs, token = i / outputs, at = row / 8 * 16 + row % 8;
        activations[(first_choice + items.choice_of(item, token)) * m + tile * outputs + row] =
            __float2bfloat16_rn(silu(product.sum(at, token)) * product.sum(at + 8, token));
      }
    }
  }
}

template <MoeFfn problem>
ERN_DEVICE void moe_down(const Step* step, const Bf16* activations, const int32_t* indices, const float* weights, const Bf16* down,
                         const float* addend, float* out) {
  constexpr ProductTiling tiling = problem.tiling;
  constexpr int hidden = problem.hidden, m = problem.m, chosen = problem.chosen;
  static_assert(!tiling.once);
  using P = Product<m, tiling, Bf16>;
  __shared__ ExpertItems<problem.experts, chosen, tiling.tokens()> items;
  __shared__ float total[moe_chunk][tiling.rows];
  start_dependents();
  P product(product_memory);
  const int tile = static_cast<int>(blockIdx.x), all_tokens = rows_of(step, problem.rows);
  const auto source = [&](int item, int p) {
    return rows_from<hidden, m, P::product_rows>(down + static_cast<int64_t>(items.expert_of(item)) * hidden * m, tile * tiling.rows + p * 16);
  };
  if constexpr (!problem.choice_stands) wait_for_inputs();
  for (int chunk = 0; chunk < all_tokens; chunk += moe_chunk) {
    const int tokens = all_tokens - chunk < moe_chunk ? all_tokens - chunk : moe_chunk;
    const int64_t first_choice = static_cast<int64_t>(chunk) * chosen;
    items.set(indices + first_choice, tokens);
    product.begin(source, items.items);
    if (problem.choice_stands && chunk == 0) wait_for_inputs();
    for (int i = static_cast<int>(threadIdx.x); i < tokens * tiling.rows; i += tiling.threads()) total[i / tiling.rows][i % tiling.rows] = 0;
    __syncthreads();
    for (int item = 0; item < items.items; ++item) {
      const int count = items.count(item);
      const auto row_of = [&](int i) { return activations + (first_choice + items.choice_of(item, i)) * m; };
      product.load_x(row_of, count);
      product.run(source, item, items.items, count, row_of);
      // A token has an expert once, and items follow one another through the barrier in run().
      for (int i = static_cast<int>(threadIdx.x); i < tiling.rows * count; i += tiling.threads()) {
        const int row = i % tiling.rows, choice = items.choice_of(item, i / tiling.rows);
        total[choice / chosen][row] += __ldcg(weights + first_choice + choice) * product.sum(row, i / tiling.rows);
      }
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
  bool choice_stands = false;  // as in MoeFfn; x was not
};

// Where the rows of a choice lie behind the activations in a workspace.
template <ExpertLinear problem>
ERN_DEVICE float* choice_rows(const Step* step, void* workspace) {
  return reinterpret_cast<float*>(static_cast<Bf16*>(workspace) + static_cast<int64_t>(rows_of(step, problem.rows)) * problem.chosen * problem.k);
}

template <ExpertLinear problem, class Y>
ERN_DEVICE void expert_linear(const Step* step, const Bf16* x, const int32_t* indices, const Bf16* weight, Y* y) {
  constexpr ProductTiling tiling = problem.tiling;
  constexpr int n = problem.n, k = problem.k, chosen = problem.chosen, tiles = static_cast<int>(ceil_div(n, tiling.rows));
  static_assert(!tiling.once);
  using P = Product<k, tiling, Bf16>;
  __shared__ ExpertItems<problem.experts, chosen, tiling.tokens()> items;
  start_dependents();
  P product(product_memory);
  const int all_tokens = rows_of(step, problem.rows);
  if constexpr (!problem.choice_stands) wait_for_inputs();
  for (int chunk = 0; chunk < all_tokens; chunk += moe_chunk) {
    const int tokens = all_tokens - chunk < moe_chunk ? all_tokens - chunk : moe_chunk;
    const int64_t first_choice = static_cast<int64_t>(chunk) * chosen;
    items.set(indices + first_choice, tokens);
    const Run run = share_of(static_cast<int64_t>(items.items) * tiles);
    const auto source = [&](int index, int p) {
      const int piece = run.first + index;
      return rows_from<n, k, P::product_rows>(weight + static_cast<int64_t>(items.expert_of(piece / tiles)) * n * k,
                                              piece % tiles * tiling.rows + p * 16);
    };
    product.begin(source, run.count);
    if (problem.choice_stands && chunk == 0) wait_for_inputs();
    for (int index = 0; index < run.count; ++index) {
      const int item = (run.first + index) / tiles, tile = (run.first + index) % tiles, count = items.count(item);
      const auto row_of = [&](int i) {
        const int64_t choice = first_choice + items.choice_of(item, i);
        return x + (problem.row_a_choice ? choice : choice / chosen) * k;
      };
      if (index == 0 || tile == 0) product.load_x(row_of, count);
      product.run(source, index, run.count, count, row_of);
      for (int i = static_cast<int>(threadIdx.x); i < tiling.rows * count; i += tiling.threads()) {
        const int row = i % tiling.rows, column = tile * tiling.rows + row;
        if (column < n) y[(first_choice + items.choice_of(item, i / tiling.rows)) * n + column] = round_to<Y>(product.sum(row, i / tiling.rows));
      }
    }
  }
}

struct MoeCombine {
  int width;
  int chosen;
  bool addend = false;
  Rows rows = Rows::tokens;
};

template <MoeCombine problem>
ERN_DEVICE void moe_combine(const Step* step, const float* rows, const int32_t* indices, const float* weights, const float* addend,
                            float* out) {
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
    if constexpr (problem.addend) {
      const float4 more = load4(addend + token * width + column);
      sum = {sum.x + more.x, sum.y + more.y, sum.z + more.z, sum.w + more.w};
    }
    store4(out + token * width + column, sum);
  });
}

// moe_combine, and the norm of what it gives: a block a row, which keeps the row in registers between the two. With choice_stands (see MoeFfn) the choice is
// read before the wait.
struct CombineNorm {
  RmsNorm norm;
  int chosen;
  bool addend = false;
  bool choice_stands = false;
};

template <CombineNorm problem, class W>
ERN_DEVICE void moe_combine_norm(const Step* step, const float* rows, const int32_t* indices, const float* weights, const float* addend, const W* norm,
                                 float* out, Bf16* normed) {
  constexpr int chosen = problem.chosen, width = problem.norm.width, step_columns = problem.norm.threads * 4;
  constexpr int groups = static_cast<int>(ceil_div(width, step_columns));
  static_assert(width % 4 == 0);
  start_dependents();
  if constexpr (!problem.choice_stands) wait_for_inputs();
  const int64_t token = blockIdx.x;
  if (token >= rows_of(step, problem.norm.rows)) return;  // those of the step's rows wait for inputs
  // The choices by ascending expert, with their weights.
  int32_t expert[chosen];
  int choice[chosen];
  float weight[chosen];
#pragma unroll
  for (int j = 0; j < chosen; ++j) expert[j] = __ldcg(indices + token * chosen + j), weight[j] = __ldcg(weights + token * chosen + j), choice[j] = j;
#pragma unroll
  for (int end = chosen - 1; end > 0; --end) {
#pragma unroll
    for (int j = 0; j < end; ++j) {
      const bool swap = expert[j] > expert[j + 1];
      const int32_t e = expert[j];
      const int c = choice[j];
      const float w = weight[j];
      expert[j] = swap ? expert[j + 1] : e, expert[j + 1] = swap ? e : expert[j + 1];
      choice[j] = swap ? choice[j + 1] : c, choice[j + 1] = swap ? c : choice[j + 1];
      weight[j] = swap ? weight[j + 1] : w, weight[j + 1] = swap ? w : weight[j + 1];
    }
  }
  if constexpr (problem.choice_stands) wait_for_inputs();
  float4 v[groups], more[groups];
  const int first = static_cast<int>(threadIdx.x) * 4;
#pragma unroll
  for (int i = 0; i < groups; ++i) {
    const int column = first + i * step_columns;
    v[i] = more[i] = {0, 0, 0, 0};
    if (column >= width) continue;
    if constexpr (problem.addend) more[i] = load4(addend + token * width + column);
    float4 part[chosen];
#pragma unroll
    for (int j = 0; j < chosen; ++j) part[j] = load4(rows + (token * chosen + choice[j]) * width + column);
#pragma unroll
    for (int j = 0; j < chosen; ++j) {
      const float w = weight[j];
      v[i] = {v[i].x + w * part[j].x, v[i].y + w * part[j].y, v[i].z + w * part[j].z, v[i].w + w * part[j].w};
    }
    if constexpr (problem.addend) v[i] = {v[i].x + more[i].x, v[i].y + more[i].y, v[i].z + more[i].z, v[i].w + more[i].w};
    store4(out + token * width + column, v[i]);
  }
  norm_held<problem.norm>(v, norm, normed + token * width);
}

}  // namespace ern::cuda
