// y = x . W^T
//   x  bf16 [rows, 256]
//   W  bf16 [128, 256] in panels of 64 rows
//   y  f32 [rows, 128]
#include "device/cpu/linear.hpp"

namespace ern::kernels {
namespace {

constexpr cpu::Linear problem{
    .n = 128,
    .k = 256,
    .bias = false,
    .tiling = { .rows = 0, .k_block = 256, .few_block = 128, .row_block = 192, .ahead = 0, .next = 1 },
};

}  // namespace

void linear_bf16_f32_n128_k256(const Step& step, void* const* args, Team& team) {
  auto* const x = static_cast<const cpu::Bf16*>(args[0]);
  auto* const weight = static_cast<const cpu::Bf16*>(args[1]);
  auto* const out = static_cast<float*>(args[2]);
  cpu::linear<problem>(step.tokens, x, weight, nullptr, nullptr, out, team);
}

void linear_bf16_f32_n128_k256_last(const Step& step, void* const* args, Team& team) {
  auto* const x = static_cast<const cpu::Bf16*>(args[0]);
  auto* const weight = static_cast<const cpu::Bf16*>(args[1]);
  auto* const out = static_cast<float*>(args[2]);
  cpu::linear<problem>(step.sequences, x, weight, nullptr, nullptr, out, team);
}

}  // namespace ern::kernels
