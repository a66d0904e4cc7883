// Splits qkv, rotates q and k, puts k and v into the paged cache
//   qkv    f32 [tokens, (4 + 2*2)*64]
//   cache  bf16, blocks of 32 tokens
//   q      bf16 [tokens, 4*64]
#include "device/cpu/rope_kv_append.hpp"

namespace ern::kernels {
namespace {

constexpr int width = 512;
constexpr cpu::RopeKvAppend problem{
    .heads = 4,
    .kv_heads = 2,
    .head_dim = 64,
    .block_size = 32,
    .kv_block_bytes = 16384,
    .q_stride = width,
    .k_stride = width,
    .v_stride = width,
};
constexpr auto frequencies = cpu::rope_frequencies<64>(500000.0);

}  // namespace

void rope_kv_append_f32_bf16_h4_kv2_d64(const Step& step, void* const* args, Team& team) {
  auto* const qkv = static_cast<const float*>(args[0]);
  auto* const positions = static_cast<const int32_t*>(args[1]);
  auto* const slots = static_cast<const int32_t*>(args[2]);
  auto* const cache = static_cast<cpu::Bf16*>(args[3]);
  auto* const q = static_cast<cpu::Bf16*>(args[4]);
  cpu::rope_kv_append<problem>(step.tokens, qkv, qkv + 256, qkv + 384, positions, slots, frequencies, q, cache, team);
}

}  // namespace ern::kernels
