// row: row-major without padding, as the checkpoint stores it. Vectors (norm weights, biases) are one row.
#pragma once

#include <cstdint>

namespace ern::layout {
namespace {  // internal linkage, as in panel.hpp

struct RowPlace {
  int64_t row;
  int64_t col;
};

struct Row {
  int64_t rows;
  int64_t cols;

  constexpr int64_t elements() const { return rows * cols; }
  constexpr int64_t offset(int64_t row, int64_t col) const { return row * cols + col; }
  constexpr RowPlace at(int64_t offset) const { return {offset / cols, offset % cols}; }
};

}  // namespace
}  // namespace ern::layout
