// logits = x . W^T; ids = argmax(logits), the lowest id on ties
//   x       bf16 [rows, 128]
//   W       bf16 [384, 128] in panels of 64 rows
//   logits  f32 [rows, 384]
#include "device/cpu/head_argmax.hpp"

namespace ern::kernels {
namespace {

constexpr cpu::HeadArgmax problem{
    .n = 384,
    .k = 128,
    .bias = false,
    .tiling = { .rows = 0, .k_block = 256, .few_block = 128, .row_block = 192, .ahead = 0, .next = 1 },
};
// Bytes that the arena has for 7 rows.
static_assert(cpu::head_argmax_workspace(7) == 14336);

}  // namespace

void head_argmax_bf16_n384_k128(const Step& step, void* const* args, Team& team) {
  auto* const x = static_cast<const cpu::Bf16*>(args[0]);
  auto* const weight = static_cast<const cpu::Bf16*>(args[1]);
  auto* const logits = static_cast<float*>(args[2]);
  auto* const ids = static_cast<int32_t*>(args[3]);
  auto* const workspace = static_cast<void*>(args[4]);
  cpu::head_argmax<problem>(step.tokens, x, weight, nullptr, logits, ids, workspace, team);
}

void head_argmax_bf16_n384_k128_last(const Step& step, void* const* args, Team& team) {
  auto* const x = static_cast<const cpu::Bf16*>(args[0]);
  auto* const weight = static_cast<const cpu::Bf16*>(args[1]);
  auto* const logits = static_cast<float*>(args[2]);
  auto* const ids = static_cast<int32_t*>(args[3]);
  auto* const workspace = static_cast<void*>(args[4]);
  cpu::head_argmax<problem>(step.sequences, x, weight, nullptr, logits, ids, workspace, team);
}

}  // namespace ern::kernels
