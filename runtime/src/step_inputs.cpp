#include "step_inputs.hpp"

#include <algorithm>

namespace ern {

Step fill_inputs(const Plan& plan, const Program& program, std::span<const StepItem> items, std::byte* base,
                 bool no_ids) {
  const auto at = [base](uint64_t offset) { return reinterpret_cast<int32_t*>(base + offset); };
  const Inputs& in = program.inputs;
  int32_t *ids = at(in.ids), *positions = at(in.positions), *slots = at(in.slots), *kinds = at(in.kinds);
  int32_t *query_start = at(in.query_start), *context = at(in.context), *last_rows = at(in.last_rows),
          *table = at(in.block_table);
  const int64_t block_size = plan.kv_block_size;
  int64_t stride = 1;
  for (const StepItem& item : items) stride = std::max(stride, (item.first + item.rows + block_size - 1) / block_size);
  int32_t row = 0;
  for (size_t s = 0; s < items.size(); ++s) {
    const StepItem& item = items[s];
    query_start[s] = row;
    for (int32_t i = 0; i < item.rows; ++i, ++row) {
      const int64_t position = item.first + i;
      ids[row] = no_ids ? 0 : item.tokens[i];
      std::fill_n(positions + 3 * row, 3, static_cast<int32_t>(position));
      slots[row] = static_cast<int32_t>(item.blocks[static_cast<size_t>(position / block_size)] * block_size +
                                        position % block_size);
      kinds[row] = 0;
    }
    last_rows[s] = row - 1;
    context[s] = static_cast<int32_t>(item.first + item.rows);
    const int64_t used = (item.first + item.rows + block_size - 1) / block_size;
    int32_t* const entries = table + static_cast<int64_t>(s) * stride;
    std::copy_n(item.blocks.begin(), used, entries);
    std::fill(entries + used, entries + stride, item.blocks[static_cast<size_t>(used - 1)]);
  }
  query_start[items.size()] = row;
  return {row, static_cast<int32_t>(items.size()), static_cast<int32_t>(stride)};
}

}  // namespace ern
