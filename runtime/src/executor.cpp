#include "executor.hpp"

#include <algorithm>

#include "counters.hpp"

namespace ern {

Result<Executor> Executor::create(const Plan& plan, const std::byte* weights, std::byte* kv, ThreadPool& threads) {
  Executor executor;
  executor.plan_ = &plan;
  executor.threads_ = &threads;
  uint64_t arena = 0, inputs = 0;
  for (const Program& program : std::span(plan.programs, plan.program_count)) {
    arena = std::max(arena, program.arena_bytes);
    inputs = std::max(inputs, program.inputs.bytes);
    if (program.kind == ProgramKind::prefill || program.kind == ProgramKind::decode)
      executor.usual_arena_ = std::max(executor.usual_arena_, program.arena_bytes);
    executor.buckets_.push_back({&program, {}, {}, {}});
  }
  auto arena_memory = Mapping::anonymous(arena, "scratch of a step");
  if (!arena_memory.ok()) return arena_memory.status();
  auto inputs_memory = Mapping::anonymous(inputs, "inputs of a step");
  if (!inputs_memory.ok()) return inputs_memory.status();
  executor.arena_ = std::move(arena_memory.value());
  executor.inputs_ = std::move(inputs_memory.value());
  executor.bases_[static_cast<int>(Space::weights)] =
      const_cast<std::byte*>(weights);  // kernels take void* and only read these
  executor.bases_[static_cast<int>(Space::arena)] = executor.arena_.data();
  executor.bases_[static_cast<int>(Space::inputs)] = executor.inputs_.data();
  executor.bases_[static_cast<int>(Space::kv)] = kv;
  // Smallest first: the first that fits is the one to take.
  std::ranges::stable_sort(executor.buckets_, [](const Bucket& a, const Bucket& b) {
    return a.program->max_tokens != b.program->max_tokens ? a.program->max_tokens < b.program->max_tokens
                                                          : a.program->max_sequences < b.program->max_sequences;
  });
  return executor;
}

int32_t Executor::most_rows(ProgramKind kind, int32_t sequences) const {
  int32_t most = 0;
  for (const Bucket& bucket : buckets_) {
    if (bucket.program->kind == kind && bucket.program->max_sequences >= sequences)
      most = std::max(most, bucket.program->max_tokens);
  }
  return most;
}

Executor::Bucket& Executor::choose(ProgramKind kind, int32_t tokens, int32_t sequences) {
  const auto found = std::ranges::find_if(buckets_, [&](const Bucket& bucket) {
    return bucket.program->kind == kind && bucket.program->max_tokens >= tokens &&
           bucket.program->max_sequences >= sequences;
  });
  if (found->launches.empty()) resolve(*found);
  return *found;
}

void Executor::resolve(Bucket& bucket) {
  const std::span launches(bucket.program->launches, bucket.program->launch_count);
  size_t count = 0;
  for (const Launch& launch : launches) count += launch.arg_count;
  bucket.args.reserve(count);  // so that pointers into it stay valid
  std::vector<void* const*> starts;
  starts.reserve(launches.size());
  for (const Launch& launch : launches) {
    starts.push_back(bucket.args.data() + bucket.args.size());
    for (const Arg& arg : std::span(launch.args, launch.arg_count))
      bucket.args.push_back(bases_[static_cast<int>(arg.space)] + arg.offset);
  }
  bucket.launches = std::move(starts);
}

// The inputs as plan.hpp describes them.
Step Executor::fill(const Program& program, std::span<const StepItem> items) {
  const auto at = [&](uint64_t offset) { return reinterpret_cast<int32_t*>(inputs_.data() + offset); };
  const Inputs& in = program.inputs;
  int32_t *ids = at(in.ids), *positions = at(in.positions), *slots = at(in.slots), *kinds = at(in.kinds);
  int32_t *query_start = at(in.query_start), *context = at(in.context), *last_rows = at(in.last_rows),
          *table = at(in.block_table);
  const int64_t block_size = plan_->kv_block_size;
  int64_t stride = 1;
  for (const StepItem& item : items) stride = std::max(stride, (item.first + item.rows + block_size - 1) / block_size);
  int32_t row = 0;
  for (size_t s = 0; s < items.size(); ++s) {
    const StepItem& item = items[s];
    query_start[s] = row;
    for (int32_t i = 0; i < item.rows; ++i, ++row) {
      const int64_t position = item.first + i;
      ids[row] = item.tokens[i];
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

void Executor::launch(Bucket& bucket, const Step& step) {
  const Program& program = *bucket.program;
  auto walk = [&](Team& team) {
    for (uint32_t i = 0; i < program.launch_count; ++i) {
      program.launches[i].fn(step, bucket.launches[i], team);
      team.barrier();
    }
  };
  if (threads_->size() == 1) return threads_->run(walk);
  const bool alone = bucket.team.alone(threads_->size());
  const int64_t begin = now_ns();
  if (alone) {
    Barrier barrier;
    Team team{0, 1, &barrier};
    walk(team);
  } else {
    threads_->run(walk);
  }
  bucket.team.note(alone, now_ns() - begin, step.tokens);
}

StepResult Executor::run(ProgramKind kind, std::span<const StepItem> items) {
  int32_t tokens = 0;
  for (const StepItem& item : items) tokens += item.rows;
  Bucket& bucket = choose(kind, tokens, static_cast<int32_t>(items.size()));
  const Program& program = *bucket.program;
  const Step step = fill(program, items);
  launch(bucket, step);
  const bool all_rows = kind == ProgramKind::score || kind == ProgramKind::trace;
  StepResult result{&program, arena_.data(), all_rows ? step.tokens : step.sequences, nullptr, 0, nullptr};
  for (const Output& output : std::span(program.outputs, program.output_count)) {
    std::byte* const data = arena_.data() + output.offset;
    if (output.role == Role::logits)
      result.logits = reinterpret_cast<float*>(data), result.logits_stride = output.row_stride;
    if (output.role == Role::next_ids) result.next_ids = reinterpret_cast<const int32_t*>(data);
  }
  return result;
}

}  // namespace ern
