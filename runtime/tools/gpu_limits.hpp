// What gpu_limits.cu and the program that times it agree on.
#pragma once

namespace ern::limits {

constexpr int threads = 256;
// Multiplications and additions of a block of `gpu_multiply` in one of its rounds: two warpgroups' [64, 64] . [256, 64]^T.
constexpr double operations_of_round = 2.0 * 2 * 64 * 256 * 64;

}  // namespace ern::limits
