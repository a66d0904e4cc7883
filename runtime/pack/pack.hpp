// Packs one unit: reads its rows from the parts' files, converts them, moves them into the layout's order and writes
// them where they belong. A worker owns its buffers and shares nothing but the files, so threads only have to agree on
// who takes which unit.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "blocks.hpp"
#include "convert.hpp"
#include "file.hpp"
#include "unit.hpp"

namespace ern::pack {

class Packer {
 public:
  Packer(const Plan& plan, const std::vector<File>& sources, const File& out)
      : plan_(plan),
        sources_(sources),
        out_(out),
        raw_(new char[buffer_bytes]),
        converted_(new char[buffer_bytes]),
        packed_(new char[buffer_bytes]) {}

  Failure pack(const Unit& unit) {
    // What the loops below do not write is the layout's padding.
    const bool padded = unit.weight->layout == Layout::panel64 &&
                        (padded_rows(unit) != unit.n1 - unit.n0 || padded_ks(unit) != unit.ks());
    if (padded) std::memset(packed_.get(), 0, padded_rows(unit) * padded_ks(unit) * size_of(unit.weight->dtype));
    for (int64_t part = 0; part < std::ssize(unit.parts()); part++) {
      if (Failure failure = pack_part(unit, part)) return failure;
    }
    return write(unit);
  }

 private:
  // One read per part and unit: with interleaving, the runs of a part alternate with the other part's, but in its
  // source they are one range.
  Failure pack_part(const Unit& unit, int64_t index) {
    const Part& part = unit.parts()[index];
    const int64_t first = rows_before(*unit.weight, unit.parts(), index, unit.n0);
    const int64_t count = rows_before(*unit.weight, unit.parts(), index, unit.n1) - first;
    if (count == 0) return {};
    const int64_t element = size_of(part.dtype);
    const int64_t row = part.row_start + first;
    const int64_t line = part.transposed ? count : unit.ks();  // elements that are side by side in the source
    const int64_t at = part.transposed ? unit.k0 * part.cols + row : row * part.cols + unit.k0;
    const auto read = [&](char* to, int64_t bytes, int64_t offset) {
      return sources_[part.file].read(to, bytes, offset);
    };
    const int64_t lines = part.transposed ? unit.ks() : count;
    if (Failure failure =
            move_block(part.offset + at * element, lines, line * element, part.cols * element, raw_.get(), read))
      return failure;
    const char* block = raw_.get();
    if (part.dtype != unit.weight->dtype) {
      convert(part.dtype, raw_.get(), unit.weight->dtype, converted_.get(), lines * line);
      block = converted_.get();
    }
    for_runs(unit, unit.n0, unit.n1, [&](const Run& run) {
      if (run.part != index) return;
      if (unit.weight->dtype == DType::bf16) {
        place(unit, run, first, reinterpret_cast<const uint16_t*>(block), line, part.transposed);
      } else {
        place(unit, run, first, reinterpret_cast<const uint32_t*>(block), line, part.transposed);
      }
    });
    return {};
  }

  // `block` holds the part's rows from `first` on.
  template <class T>
  void place(const Unit& unit, const Run& run, int64_t first, const T* block, int64_t stride, bool transposed) {
    T* packed = reinterpret_cast<T*>(packed_.get());
    if (unit.weight->layout == Layout::row) {
      const T* from = block + (run.part_row - first) * (transposed ? 1 : stride);
      const auto copy = transposed ? columns_to_rows<T> : rows_to_rows<T>;
      return copy(from, stride, run.count, unit.ks(), packed + (run.row - unit.n0) * unit.ks(), unit.ks());
    }
    for (int64_t done = 0; done < run.count;) {
      const int64_t row = run.row + done;
      const int64_t panel = row / layout::panel_rows, in_panel = row % layout::panel_rows;
      const int64_t count = std::min(run.count - done, layout::panel_rows - in_panel);
      const T* from = block + (run.part_row + done - first) * (transposed ? 1 : stride);
      T* to = packed + (panel * layout::panel_rows - unit.n0) * padded_ks(unit) + in_panel * 2;
      const auto interleave = transposed ? columns_to_panel<T> : rows_to_panel<T>;
      interleave(from, stride, count, unit.ks(), to, unit.weight->in_panels().width(panel));
      done += count;
    }
  }

  // In the buffer, panels of a unit follow each other with the unit's own range of k; in the file with all of K.
  Failure write(const Unit& unit) {
    const Weight& weight = *unit.weight;
    const int64_t element = size_of(weight.dtype);
    const int64_t base = plan_.head_bytes() + weight.offset + unit.slab * weight.slab_bytes();
    const auto put = [&](char* from, int64_t bytes, int64_t offset) { return out_.write(from, bytes, offset); };
    if (weight.layout == Layout::row) {
      const int64_t at = base + weight.element_offset(unit.n0, unit.k0) * element;
      return move_block(at, unit.n1 - unit.n0, unit.ks() * element, weight.k * element, packed_.get(), put);
    }
    for (int64_t n = unit.n0; n < unit.n1;) {
      // With all of K the panels of the unit follow each other in the file as they do in the buffer.
      const bool all_k = unit.k0 == 0 && padded_ks(unit) == weight.padded_k();
      const int64_t rows = all_k ? padded_rows(unit) : weight.in_panels().width(n / layout::panel_rows);
      char* from = packed_.get() + (n - unit.n0) * padded_ks(unit) * element;
      const int64_t at = base + weight.element_offset(n, unit.k0) * element;
      if (Failure failure = out_.write(from, rows * padded_ks(unit) * element, at)) return failure;
      n += rows;
    }
    return {};
  }

  const Plan& plan_;
  const std::vector<File>& sources_;
  const File& out_;
  std::unique_ptr<char[]> raw_, converted_, packed_;
};

}  // namespace ern::pack
