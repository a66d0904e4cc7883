// Causal attention over the paged cache: softmax(q . K^T * scale) . V, 4 heads on 2 of the cache
//   q      bf16 [tokens, 4*64]
//   cache  bf16, blocks of 32 tokens
//   out    bf16 [tokens, 4*64]
#include "device/cpu/attention.hpp"

namespace ern::kernels {
namespace {

constexpr cpu::Attention problem{
    .heads = 4,
    .kv_heads = 2,
    .head_dim = 64,
    .block_size = 32,
    .kv_block_bytes = 16384,
    .partial_rows = 4,
};
// For the longest sequence, 256 tokens, and in 1280 bytes of workspace.
static_assert(problem.partial_rows == cpu::attention_partial_rows(problem.heads, 256));
static_assert(problem.partial_rows * cpu::attention_partial(problem.head_dim) * sizeof(float) == 1280);

}  // namespace

void attention_bf16_h4_kv2_d64(const Step& step, void* const* args, Team& team) {
  auto* const q = static_cast<const cpu::Bf16*>(args[0]);
  auto* const cache = static_cast<const cpu::Bf16*>(args[1]);
  auto* const block_table = static_cast<const int32_t*>(args[2]);
  auto* const query_start = static_cast<const int32_t*>(args[3]);
  auto* const context = static_cast<const int32_t*>(args[4]);
  auto* const workspace = static_cast<float*>(args[5]);
  auto* const out = static_cast<cpu::Bf16*>(args[6]);
  cpu::attention<problem>(step, q, cache, block_table, query_start, context, 0.125f, workspace, out, team);
}

}  // namespace ern::kernels
