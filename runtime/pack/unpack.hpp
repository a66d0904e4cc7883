// The way back, for tests and `verify`: reads a packed file and writes what the plan's parts were, as raw bytes without
// a header: weight after weight, slab after slab, part after part, each [rowCount, K], or [K, rowCount] if it was
// stored transposed, in the dtype of the packed weight. Element by element through the layouts' own formulas: slow, and
// so independent of the fast loops that packed. Padding that is not zero is an error.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "device/layout/interleave.hpp"
#include "file.hpp"
#include "plan.hpp"

namespace ern::pack {

class Unpacker {
 public:
  Unpacker(const Plan& plan, const File& packed, const File& out) : plan_(plan), packed_(packed), out_(out) {}

  // Bytes of the file that `unpack` fills.
  static int64_t bytes(const Plan& plan) {
    int64_t sum = 0;
    for (const Weight& weight : plan.weights) sum += weight.slabs * weight.n * weight.k * size_of(weight.dtype);
    return sum;
  }

  // A slab at a time is held in memory, twice.
  template <class Progress>
  Failure unpack(Progress progress) {
    int64_t done = 0;
    for (const Weight& weight : plan_.weights) {
      for (int64_t slab = 0; slab < weight.slabs; slab++) {
        Failure failure = weight.dtype == DType::bf16 ? unpack_slab<uint16_t>(weight, slab, done)
                                                      : unpack_slab<uint32_t>(weight, slab, done);
        if (failure) return failure;
        done += weight.n * weight.k * size_of(weight.dtype);
        progress(done);
      }
    }
    return {};
  }

 private:
  template <class T>
  Failure unpack_slab(const Weight& weight, int64_t slab, int64_t out_offset) {
    std::vector<T> elements(weight.padded_n() * weight.padded_k());
    const int64_t at = plan_.head_bytes() + weight.offset + slab * weight.slab_bytes();
    if (Failure failure = packed_.read(elements.data(), weight.slab_bytes(), at)) return failure;
    std::vector<T> out(weight.n * weight.k);
    const std::vector<Part>& parts = weight.parts[slab];
    int64_t start = 0;  // first row of the part, in packed rows if parts follow each other
    for (int64_t index = 0; index < std::ssize(parts); index++) {
      const Part& part = parts[index];
      for (int64_t i = 0; i < part.row_count; i++) {
        const int64_t row = weight.interleave ? layout::Interleave{weight.interleave}.row(index == 1, i) : start + i;
        for (int64_t k = 0; k < weight.k; k++) {
          T& element = elements[weight.element_offset(row, k)];
          out[start * weight.k + (part.transposed ? k * part.row_count + i : i * weight.k + k)] =
              std::exchange(element, 0);
        }
      }
      start += part.row_count;
    }
    // Every element has been taken out: what is left is padding.
    for (const T element : elements) {
      if (element != 0) return Error{"padding", "found padding that is not zero", weight.id};
    }
    return out_.write(out.data(), weight.n * weight.k * size_of(weight.dtype), out_offset);
  }

  const Plan& plan_;
  const File& packed_;
  const File& out_;
};

}  // namespace ern::pack
