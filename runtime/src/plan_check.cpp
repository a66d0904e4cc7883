#include "plan_check.hpp"

#include <algorithm>
#include <string>

namespace ern {
namespace {

constexpr uint64_t most =
    uint64_t{1} << 46;  // bytes; products and sums of what is checked against it stay far below 2^64

// Of a launch on a GPU: as many pointers as a kernel's 4 KiB of parameters hold beside the step's own (a whole decode step in one launch passes every weight).
constexpr uint32_t most_arguments = 511, most_maps = 8;

class Checker {
 public:
  explicit Checker(const Plan& plan) : plan_(plan) {}

  Status check() {
    if (plan_.abi != plan_abi)
      return bug("plan format " + std::to_string(plan_.abi) + ", expected " + std::to_string(plan_abi));
    if (!plan_.build_id || !plan_.info_json) return bug("no build id or no info");
    const bool sizes = plan_.vocab_size > 0 && plan_.embedding_rows >= plan_.vocab_size && plan_.max_context > 1 &&
                       plan_.max_batch > 0 && plan_.prefill_chunk > 0 && plan_.threads >= 0 &&
                       plan_.kv_block_size > 0 && plan_.kv_block_bytes > 0 && plan_.kv_block_bytes <= most &&
                       plan_.kv_tokens > 0 && plan_.weights_bytes <= most;
    if (!sizes) return bug("a size out of range");
    if (plan_.device && !has_own_functions()) return bug("a function of the device that is not there");
    const WeightsFile& file = plan_.weights_file;
    if (file.name && (file.bytes > most || file.data_offset % 256 != 0 || file.data_offset > file.bytes ||
                      file.bytes - file.data_offset != plan_.weights_bytes)) {
      return bug("the weights file's sizes contradict each other");
    }
    for (uint32_t i = 0; i < plan_.synthetic_count; ++i) {
      const SyntheticWeight& weight = plan_.synthetic[i];
      if (weight.elements > most || weight.offset % 64 != 0 ||
          !fits(weight.offset, weight.elements * (weight.dtype == Dtype::bf16 ? 2 : 4), plan_.weights_bytes)) {
        return bug("synthetic weight " + std::to_string(i) + " lies outside the weights");
      }
    }
    for (uint32_t i = 0; i < plan_.program_count; ++i) {
      if (Status status = check(plan_.programs[i]); !status.ok()) return status;
    }
    if (widest(ProgramKind::decode) < plan_.max_batch) return bug("no decode bucket holds max_batch");
    if (widest(ProgramKind::prefill) < std::max(plan_.max_batch, plan_.prefill_chunk))
      return bug("no prefill bucket holds prefill_chunk and max_batch");
    return {};
  }

 private:
  static bool fits(uint64_t offset, uint64_t bytes, uint64_t space) {
    return offset <= space && bytes <= space - offset;
  }

  Status bug(const std::string& message) const { return {Code::internal, "the library's plan: " + place_ + message}; }

  // Most tokens of a bucket of this kind that also holds as many sequences as the engine may put into one step.
  int32_t widest(ProgramKind kind) const {
    int32_t tokens = 0;
    for (uint32_t i = 0; i < plan_.program_count; ++i) {
      const Program& program = plan_.programs[i];
      if (program.kind == kind && program.max_sequences >= plan_.max_batch)
        tokens = std::max(tokens, program.max_tokens);
    }
    return tokens;
  }

  Status check(const Program& program) {
    place_ = std::string("program ") + (program.name ? program.name : "without a name") + ": ";
    if (program.max_tokens < 1 || program.max_sequences < 1 || program.max_sequences > program.max_tokens ||
        program.arena_bytes > most) {
      return bug("a size out of range");
    }
    if (program.kind == ProgramKind::decode && program.max_tokens != program.max_sequences)
      return bug("decode has one token a sequence");
    const uint64_t t = static_cast<uint64_t>(program.max_tokens), s = static_cast<uint64_t>(program.max_sequences);
    const uint64_t width = (static_cast<uint64_t>(plan_.max_context) + plan_.kv_block_size - 1) / plan_.kv_block_size;
    const Inputs& in = program.inputs;
    const std::pair<uint64_t, uint64_t> inputs[] = {
        {in.ids, t},     {in.positions, 3 * t},       {in.slots, t},    {in.kinds, t}, {in.query_start, s + 1},
        {in.context, s}, {in.block_table, s * width}, {in.last_rows, s}};
    for (const auto& [offset, count] : inputs) {
      if (offset % 4 != 0 || !fits(offset, count * 4, in.bytes)) return bug("an input lies outside the inputs");
    }
    const bool all_rows = program.kind == ProgramKind::score || program.kind == ProgramKind::trace;
    int logits = 0, next_ids = 0;
    for (uint32_t i = 0; i < program.output_count; ++i) {
      const Output& out = program.outputs[i];
      const uint64_t rows = all_rows ? t : s;
      const uint64_t size = out.dtype == Dtype::bf16 ? 2 : 4;
      if (out.columns == 0 || out.columns > out.row_stride || out.row_stride > most / rows / size ||
          out.offset % size != 0 ||
          !fits(out.offset, ((rows - 1) * out.row_stride + out.columns) * size, program.arena_bytes)) {
        return bug("an output lies outside the arena");
      }
      logits +=
          out.role == Role::logits && out.dtype == Dtype::f32 && out.columns == static_cast<uint64_t>(plan_.vocab_size);
      next_ids += out.role == Role::next_ids && out.dtype == Dtype::i32 && out.columns == 1 && out.row_stride == 1;
      if (out.role == Role::traced && !out.name) return bug("a traced tensor without a name");
    }
    if (logits != 1 || next_ids > 1) return bug("expected logits [rows, vocab] once and next_ids [rows] at most once");
    for (uint32_t i = 0; i < program.launch_count; ++i) {
      const Launch& launch = program.launches[i];
      if (plan_.device ? !fits_device(launch) : !launch.fn) return bug("a launch without a function, or with a wrong one");
      for (uint32_t a = 0; a < launch.arg_count; ++a) {
        const Arg& arg = launch.args[a];
        const uint64_t space = arg.space == Space::weights  ? plan_.weights_bytes
                               : arg.space == Space::arena  ? program.arena_bytes
                               : arg.space == Space::inputs ? in.bytes
                                                            : plan_.kv_block_bytes;
        if (arg.offset > space)
          return bug(std::string("an argument of ") + (launch.name ? launch.name : "a launch") +
                     " lies outside its space");
      }
    }
    return {};
  }

  // Whether the device's functions that no program names are there.
  bool has_own_functions() const {
    const DevicePlan& device = *plan_.device;
    return std::max({device.fill_f32, device.fill_bf16, device.draw}) < device.function_count;
  }

  bool fits_device(const Launch& launch) const {
    const DeviceLaunch* const device = launch.device;
    if (!device || device->function >= plan_.device->function_count || launch.arg_count > most_arguments) return false;
    for (uint32_t i = 0; i < device->map_count; ++i) {
      const DeviceMap& map = device->maps[i];
      if (map.argument >= launch.arg_count || map.rank < 1 || map.rank > 5) return false;
    }
    for (const GridCount& count : device->grid)
      if (count.constant == 0 || count.per == 0 || count.times == 0) return false;
    return device->map_count <= most_maps;
  }

  const Plan& plan_;
  std::string place_;
};

}  // namespace

Status check_plan(const Plan& plan) { return Checker(plan).check(); }

}  // namespace ern
