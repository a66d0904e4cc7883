// panel64: where each element of an [rows, cols] weight lies, and which element lies where. Only index arithmetic lives here; the packer
// writes with it, kernels read by it, and tests hold both to it. The element may be bf16 or f32.
//
//   panel p = rows 64p .. 64p+63, one after the other; the last is as wide as rows rounded up to 16 leaves it
//   within a panel: [pair of columns][row of the panel][2 columns], columns rounded up to even, padding zero
//
// One pair of columns of a panel is 256 bytes of bf16: four AVX-512 registers whose 32-bit lanes hold two consecutive k of one
// output, which is what vdpbf16ps multiplies; a shift and a mask widen them to f32. A panel is one contiguous stream, so decode
// reads at the speed of memory; prefill reuses a piece of a panel from cache; row n of an embedding is a walk with a constant stride.
#pragma once

#include <cstdint>

namespace ern::layout {
namespace {  // internal linkage: kernels are compiled for other instruction sets than the rest (see cpu/kernel.hpp)

constexpr int64_t panel_rows = 64;
constexpr int64_t panel_grain = 16;  // a panel's width is a multiple of it

struct PanelPlace {
  int64_t row;
  int64_t col;
  bool padding;  // the element is not of the matrix: zero
};

struct Panel64 {
  int64_t rows;
  int64_t cols;

  constexpr int64_t padded_rows() const { return (rows + panel_grain - 1) / panel_grain * panel_grain; }
  constexpr int64_t padded_cols() const { return (cols + 1) / 2 * 2; }
  constexpr int64_t panels() const { return (rows + panel_rows - 1) / panel_rows; }
  constexpr int64_t elements() const { return padded_rows() * padded_cols(); }

  // All panels before the last are full, so starts are evenly spaced.
  constexpr int64_t start(int64_t panel) const { return panel * panel_rows * padded_cols(); }
  constexpr int64_t width(int64_t panel) const {
    const int64_t left = padded_rows() - panel * panel_rows;
    return left < panel_rows ? left : panel_rows;
  }

  // Also defined for the padding: row < padded_rows(), col < padded_cols().
  constexpr int64_t offset(int64_t row, int64_t col) const {
    const int64_t panel = row / panel_rows;
    return start(panel) + col / 2 * (width(panel) * 2) + row % panel_rows * 2 + col % 2;
  }

  // For a row, the step from one pair of columns to the next.
  constexpr int64_t pair_stride(int64_t row) const { return width(row / panel_rows) * 2; }

  constexpr PanelPlace at(int64_t offset) const {
    const int64_t panel = offset / (panel_rows * padded_cols());
    const int64_t inside = offset - start(panel);
    const int64_t pair = inside / (width(panel) * 2);
    const int64_t lane = inside % (width(panel) * 2);
    const int64_t row = panel * panel_rows + lane / 2;
    const int64_t col = pair * 2 + lane % 2;
    return {row, col, row >= rows || col >= cols};
  }
};

}  // namespace
}  // namespace ern::layout
