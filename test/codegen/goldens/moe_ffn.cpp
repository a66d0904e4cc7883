// The chosen experts' SwiGLU MLPs and their weighted sum, plus addend: 3 of 8 experts a row
//   x        bf16 [rows, 128]
//   gate_up  bf16 [8, 2*64, 128], each expert in panels of 64 rows, gate and up in turns of 32
//   down     bf16 [8, 128, 64], each expert in panels of 64 rows
//   out      f32 [rows, 128]
#include "device/cpu/moe_ffn.hpp"

namespace ern::kernels {
namespace {

constexpr cpu::MoeFfn problem{
    .hidden = 128,
    .m = 64,
    .experts = 8,
    .chosen = 3,
    .group = 32,
    .addend = true,
    .tiling = { .rows = 0, .k_block = 256, .few_block = 128, .row_block = 192, .ahead = 0, .next = 1 },
};
// Bytes that the arena has for 7 rows.
static_assert(cpu::moe_ffn_workspace<problem, cpu::Bf16>(7) == 2944);

}  // namespace

void moe_ffn_bf16_e8_top3_h128_m64_add(const Step& step, void* const* args, Team& team) {
  auto* const x = static_cast<const cpu::Bf16*>(args[0]);
  auto* const indices = static_cast<const int32_t*>(args[1]);
  auto* const weights = static_cast<const float*>(args[2]);
  auto* const gate_up = static_cast<const cpu::Bf16*>(args[3]);
  auto* const down = static_cast<const cpu::Bf16*>(args[4]);
  auto* const addend = static_cast<const float*>(args[5]);
  auto* const out = static_cast<float*>(args[6]);
  auto* const workspace = static_cast<void*>(args[7]);
  cpu::moe_ffn<problem>(step.tokens, x, indices, weights, gate_up, down, addend, out, workspace, team);
}

void moe_ffn_bf16_e8_top3_h128_m64_add_last(const Step& step, void* const* args, Team& team) {
  auto* const x = static_cast<const cpu::Bf16*>(args[0]);
  auto* const indices = static_cast<const int32_t*>(args[1]);
  auto* const weights = static_cast<const float*>(args[2]);
  auto* const gate_up = static_cast<const cpu::Bf16*>(args[3]);
  auto* const down = static_cast<const cpu::Bf16*>(args[4]);
  auto* const addend = static_cast<const float*>(args[5]);
  auto* const out = static_cast<float*>(args[6]);
  auto* const workspace = static_cast<void*>(args[7]);
  cpu::moe_ffn<problem>(step.sequences, x, indices, weights, gate_up, down, addend, out, workspace, team);
}

}  // namespace ern::kernels
