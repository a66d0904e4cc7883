// gate|up: how the rows of the two halves of a SwiGLU are put in turns before the result is packed in panels. `group` rows of the gate, the
// same `group` rows of up, and so on: with a group of 32, 16 or 8 a panel of 64 rows holds gate and up of the same columns, and the
// kernel multiplies them while both are in registers or in the first cache.
#pragma once

#include <cstdint>

namespace ern::layout {
namespace {  // internal linkage, as in panel.hpp

struct InterleavedPlace {
  bool is_up;
  int64_t row;  // of the gate or of up
};

struct Interleave {
  int64_t group;

  // The group that fits a half of `rows` rows; 0 where none does.
  static constexpr int64_t group_for(int64_t rows) {
    return rows % 32 == 0 ? 32 : rows % 16 == 0 ? 16 : rows % 8 == 0 ? 8 : 0;
  }

  constexpr int64_t row(bool is_up, int64_t row) const {
    return row / group * (2 * group) + (is_up ? group : 0) + row % group;
  }
  constexpr InterleavedPlace at(int64_t row) const {
    return {row % (2 * group) >= group, row / (2 * group) * group + row % group};
  }
};

}  // namespace
}  // namespace ern::layout
