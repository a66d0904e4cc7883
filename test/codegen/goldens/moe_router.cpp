// Chooses 3 of 8 experts for each row and weighs them, in f32
//   x     f32 [rows, 128]
//   gate  f32 [8, 128] in panels of 64 rows
#include "device/cpu/moe_router.hpp"

namespace ern::kernels {
namespace {

constexpr cpu::MoeRouter problem{
    .experts = 8,
    .hidden = 128,
    .chosen = 3,
    .correction = true,
    .tiling = { .rows = 0, .k_block = 256, .few_block = 128, .row_block = 192, .ahead = 0, .next = 1 },
};

}  // namespace

void moe_router_f32_f32_e8_h128_top3_corrected(const Step& step, void* const* args, Team& team) {
  auto* const x = static_cast<const float*>(args[0]);
  auto* const gate = static_cast<const float*>(args[1]);
  auto* const correction = static_cast<const float*>(args[2]);
  auto* const logits = static_cast<float*>(args[3]);
  auto* const indices = static_cast<int32_t*>(args[4]);
  auto* const weights = static_cast<float*>(args[5]);
  cpu::moe_router<problem>(step.tokens, x, gate, correction, 1e-12f, logits, indices, weights, team);
}

void moe_router_f32_f32_e8_h128_top3_corrected_last(const Step& step, void* const* args, Team& team) {
  auto* const x = static_cast<const float*>(args[0]);
  auto* const gate = static_cast<const float*>(args[1]);
  auto* const correction = static_cast<const float*>(args[2]);
  auto* const logits = static_cast<float*>(args[3]);
  auto* const indices = static_cast<int32_t*>(args[4]);
  auto* const weights = static_cast<float*>(args[5]);
  cpu::moe_router<problem>(step.sequences, x, gate, correction, 1e-12f, logits, indices, weights, team);
}

}  // namespace ern::kernels
