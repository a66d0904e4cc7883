// Tokens sorted by expert: which experts anybody chose, and for each the rows that go through it, tokens ascending. moe_ffn reads each
// expert's weights once for all of its tokens by this.
#pragma once

#include <cstdint>

#include "kernel.hpp"

namespace ern::cpu {
namespace {

// In a workspace of `bytes(choices)`; `choices` = tokens * chosen experts a token.
template <int Experts>
struct MoeBuckets {
  int32_t* header;  // [0]: experts in use; then their ids, ascending
  int32_t* start;   // [Experts + 1] first row of each expert
  int32_t* token;   // [choices] token of each row
  float* weight;    // [choices] router weight of each row

  static constexpr int64_t bytes(int64_t choices) {
    return (2 * (Experts + 1) + 2 * choices) * static_cast<int64_t>(sizeof(int32_t));
  }

  MoeBuckets(void* workspace, int64_t choices)
      : header(static_cast<int32_t*>(workspace)), start(header + Experts + 1), token(start + Experts + 1),
        weight(reinterpret_cast<float*>(token + choices)) {}

  ERN_INLINE int used() const { return header[0]; }
  ERN_INLINE int expert(int i) const { return header[1 + i]; }
  ERN_INLINE int first(int expert) const { return start[expert]; }
  ERN_INLINE int count(int expert) const { return start[expert + 1] - start[expert]; }

  // A counting sort, stable in the tokens. One thread calls it, then all meet at a barrier.
  void fill(int tokens, int chosen, const int32_t* indices, const float* weights) {
    for (int e = 0; e <= Experts; ++e) start[e] = 0;
    for (int i = 0; i < tokens * chosen; ++i) ++start[indices[i] + 1];
    header[0] = 0;
    for (int e = 0; e < Experts; ++e) {
      if (start[e + 1] > 0) header[1 + header[0]++] = e;
      start[e + 1] += start[e];
    }
    // start[e] walks to the end of its rows, which is where the next one begins; then everything moves back by one.
    for (int i = 0; i < tokens * chosen; ++i) {
      const int row = start[indices[i]]++;
      token[row] = i / chosen;
      weight[row] = weights[i];
    }
    for (int e = Experts; e > 0; --e) start[e] = start[e - 1];
    start[0] = 0;
  }
};

}  // namespace
}  // namespace ern::cpu
