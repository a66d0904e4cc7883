#include "cpu_executor.hpp"

#include <algorithm>

#include "counters.hpp"
#include "kernel_times.hpp"
#include "step_inputs.hpp"

namespace ern {

Result<std::unique_ptr<Executor>> CpuExecutor::create(const Plan& plan, const std::byte* weights, std::byte* kv,
                                                      ThreadPool& threads) {
  std::unique_ptr<CpuExecutor> made(new CpuExecutor);
  CpuExecutor& executor = *made;
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
  return std::unique_ptr<Executor>(std::move(made));
}

int32_t CpuExecutor::most_rows(ProgramKind kind, int32_t sequences) const {
  int32_t most = 0;
  for (const Bucket& bucket : buckets_) {
    if (bucket.program->kind == kind && bucket.program->max_sequences >= sequences)
      most = std::max(most, bucket.program->max_tokens);
  }
  return most;
}

CpuExecutor::Bucket& CpuExecutor::choose(ProgramKind kind, int32_t tokens, int32_t sequences) {
  const auto found = std::ranges::find_if(buckets_, [&](const Bucket& bucket) {
    return bucket.program->kind == kind && bucket.program->max_tokens >= tokens &&
           bucket.program->max_sequences >= sequences;
  });
  if (found->launches.empty()) resolve(*found);
  return *found;
}

void CpuExecutor::resolve(Bucket& bucket) {
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

void CpuExecutor::launch(Bucket& bucket, const Step& step) {
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

// Nothing is gained by it on a CPU, where steps don't wait for the host; tests of the engine turn it on.
bool CpuExecutor::runs_ahead() const {
#ifdef ERN_RUN_AHEAD
  return true;
#else
  return false;
#endif
}

void CpuExecutor::begin(ProgramKind kind, std::span<const StepItem> items, bool ids_of_last) {
  int32_t tokens = 0;
  for (const StepItem& item : items) tokens += item.rows;
  Bucket& bucket = choose(kind, tokens, static_cast<int32_t>(items.size()));
  const Program& program = *bucket.program;
  const Step step = fill_inputs(*plan_, program, items, inputs_.data(), ids_of_last);
  if (ids_of_last) {
    const std::vector<int32_t>& last = begun_[(first_ + count_ + 1) % 2].ids;
    std::ranges::copy(last, reinterpret_cast<int32_t*>(inputs_.data() + program.inputs.ids));
  }
  launch(bucket, step);
  const bool all_rows = kind == ProgramKind::score || kind == ProgramKind::trace;
  Begun& begun = begun_[(first_ + count_) % 2];
  begun.result = {&program, all_rows ? step.tokens : step.sequences, nullptr};
  for (const Output& output : std::span(program.outputs, program.output_count)) {
    std::byte* const data = arena_.data() + output.offset;
    if (output.role == Role::logits) logits_ = reinterpret_cast<float*>(data), logits_stride_ = output.row_stride;
    if (output.role != Role::next_ids) continue;
    const auto* const ids = reinterpret_cast<const int32_t*>(data);
    begun.ids.assign(ids, ids + begun.result.rows);
    begun.result.next_ids = begun.ids.data();
  }
  ++count_;  // when nothing can fail any more: what began also ends
}

std::vector<KernelTime> CpuExecutor::profile(ProgramKind kind, std::span<const StepItem> items) {
  int32_t tokens = 0;
  for (const StepItem& item : items) tokens += item.rows;
  Bucket& bucket = choose(kind, tokens, static_cast<int32_t>(items.size()));
  const Program& program = *bucket.program;
  const Step step = fill_inputs(*plan_, program, items, inputs_.data(), false);
  KernelTimes times(program);
  std::vector<double> steps;
  std::vector<int64_t> ends(program.launch_count);
  for (int run = -warming_steps; run < profiled_steps; ++run) {
    int64_t begin = now_ns();
    launch(bucket, step);
    const int64_t whole = now_ns() - begin;
    begin = now_ns();
    threads_->run([&](Team& team) {
      for (uint32_t i = 0; i < program.launch_count; ++i) {
        program.launches[i].fn(step, bucket.launches[i], team);
        team.barrier();
        if (team.rank == 0) ends[i] = now_ns();
      }
    });
    if (run < 0) continue;
    steps.push_back(static_cast<double>(whole) / 1000);
    for (uint32_t i = 0; i < program.launch_count; ++i)
      times.note(i, static_cast<double>(ends[i] - (i == 0 ? begin : ends[i - 1])) / 1000);
  }
  return times.rows(std::move(steps));
}

StepResult CpuExecutor::end() {
  const StepResult result = begun_[first_].result;
  first_ = (first_ + 1) % 2;
  --count_;
  return result;
}

}  // namespace ern
