// The work of the packer in pieces that fit a thread's buffers: which rows of a weight come from which rows of which
// part, and how a weight is cut into units. What is done with a unit is in pack.hpp and unpack.hpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "device/layout/interleave.hpp"
#include "plan.hpp"

namespace ern::pack {

// Packed rows [n0, n1) of one slab and elements [k0, k1) of each. n0 is a panel's first row, n1 the next panel's or N;
// k0 is even, and k1 is even or K.
struct Unit {
  const Weight* weight;
  int64_t slab, n0, n1, k0, k1;
  bool has_last_row() const { return n1 == weight->n; }
  const std::vector<Part>& parts() const { return weight->parts[slab]; }
  int64_t ks() const { return k1 - k0; }
};

// Consecutive packed rows that are consecutive rows of one part, too.
struct Run {
  int64_t part;      // index within the slab; interleaved, 0 is the gate and 1 is up
  int64_t part_row;  // counted from the part's row_start
  int64_t row;       // packed
  int64_t count;
};

// How many rows of `part` lie before packed row `row`.
inline int64_t rows_before(const Weight& weight, const std::vector<Part>& parts, int64_t part, int64_t row) {
  if (const int64_t group = weight.interleave) {
    const int64_t turns = row / (2 * group), rest = row % (2 * group);
    return turns * group + (part == 0 ? std::min(rest, group) : rest - std::min(rest, group));
  }
  int64_t start = 0;
  for (int64_t i = 0; i < part; i++) start += parts[i].row_count;
  return std::min(row - std::min(row, start), parts[part].row_count);
}

// Calls use(run) for the runs of packed rows [first, last), in order.
template <class Use>
void for_runs(const Unit& unit, int64_t first, int64_t last, Use use) {
  const Weight& weight = *unit.weight;
  const std::vector<Part>& parts = unit.parts();
  int64_t part = 0;
  for (int64_t row = first; row < last;) {
    int64_t end;
    if (const int64_t group = weight.interleave) {
      part = layout::Interleave{group}.at(row).is_up ? 1 : 0;
      end = (row / group + 1) * group;
    } else {
      while (rows_before(weight, parts, part, row) == parts[part].row_count) part++;
      end = row + parts[part].row_count - rows_before(weight, parts, part, row);
    }
    end = std::min(end, last);
    use(Run{part, rows_before(weight, parts, part, row), row, end - row});
    row = end;
  }
}

// A unit's share of a panel, with the padding of an odd K and of the last panel.
inline int64_t padded_ks(const Unit& unit) { return (unit.ks() + 1) / 2 * 2; }
inline int64_t padded_rows(const Unit& unit) {
  return (unit.has_last_row() ? unit.weight->padded_n() : unit.n1) - unit.n0;
}

// Of one buffer; a thread has three. Small units keep a straight copy in the second-level cache. Transposed sources
// need many rows of K at once, or the pieces of a panel that are written together get short.
inline constexpr int64_t straight_bytes = int64_t{1} << 19;
inline constexpr int64_t transposed_bytes = int64_t{1} << 22;
// A buffer also has the padding of a last panel and of an odd K, which the target sizes do not count.
inline constexpr int64_t buffer_bytes = transposed_bytes + (int64_t{1} << 20);

inline void cut_slab(const Weight& weight, int64_t slab, std::vector<Unit>& units) {
  int64_t element = size_of(weight.dtype);
  bool transposed = false;
  for (const Part& part : weight.parts[slab]) {
    element = std::max(element, size_of(part.dtype));
    transposed |= part.transposed;
  }
  const int64_t target = (transposed ? transposed_bytes : straight_bytes) / element;
  const int64_t least = weight.layout == Layout::panel64 ? layout::panel_rows : 1;
  const auto whole = [](int64_t size, int64_t step) { return std::max(size / step, int64_t{1}) * step; };
  int64_t ns, ks;
  if (transposed) {  // all of N if that leaves 64 k or more: then stored rows are read whole
    ks = std::min(weight.padded_k(), whole(std::max(target / weight.padded_n(), int64_t{64}), 2));
    ns = whole(std::min(target / ks, weight.padded_n() + least - 1), least);
  } else {  // all of K if one panel of it fits
    ns = whole(target / weight.padded_k(), least);
    ks = std::min(weight.padded_k(), whole(target / ns, 2));
  }
  for (int64_t n = 0; n < weight.n; n += ns) {
    for (int64_t k = 0; k < weight.k; k += ks)
      units.push_back({&weight, slab, n, std::min(n + ns, weight.n), k, std::min(k + ks, weight.k)});
  }
}

inline std::vector<Unit> cut(const Plan& plan) {
  std::vector<Unit> units;
  for (const Weight& weight : plan.weights) {
    for (int64_t slab = 0; slab < weight.slabs; slab++) cut_slab(weight, slab, units);
  }
  return units;
}

}  // namespace ern::pack
