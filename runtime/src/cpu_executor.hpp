// Runs programs on the CPU: chooses the bucket, fills the inputs, and walks the launches with the team. What a launch
// computes is the kernels' business. For the engine's thread.
#pragma once

#include <memory>
#include <vector>

#include "executor.hpp"
#include "memory.hpp"
#include "status.hpp"
#include "team_choice.hpp"
#include "threads.hpp"

namespace ern {

class CpuExecutor final : public Executor {
 public:
  // `plan` and `weights` must outlive it, and so must the pool.
  static Result<std::unique_ptr<Executor>> create(const Plan& plan, const std::byte* weights, std::byte* kv,
                                                  ThreadPool& threads);

  int32_t most_rows(ProgramKind kind, int32_t sequences) const override;
  void begin(ProgramKind kind, std::span<const StepItem> items, bool ids_of_last) override;
  StepResult end() override;
  bool runs_ahead() const override;
  std::vector<KernelTime> profile(ProgramKind kind, std::span<const StepItem> items) override;
  float* logits(int32_t row) override { return logits_ + static_cast<uint64_t>(row) * logits_stride_; }
  const std::byte* traced(const Output& output) override { return arena_.data() + output.offset; }
  uint64_t arena_bytes() const override { return usual_arena_; }
  void trim() override { arena_.discard(usual_arena_); }

 private:
  // A bucket with its arguments as pointers: made when it is first used, since most buckets of a large plan never are.
  struct Bucket {
    const Program* program;
    std::vector<void*> args;            // of all launches, one after the other
    std::vector<void* const*> launches; // where those of each launch begin
    TeamChoice team = {};
  };

  CpuExecutor() = default;
  Bucket& choose(ProgramKind kind, int32_t tokens, int32_t sequences);
  void launch(Bucket& bucket, const Step& step);
  void resolve(Bucket& bucket);

  const Plan* plan_ = nullptr;
  std::byte* bases_[4] = {};  // by Space
  ThreadPool* threads_ = nullptr;
  Mapping arena_, inputs_;
  uint64_t usual_arena_ = 0;  // what prefill and decode need of the arena
  std::vector<Bucket> buckets_;
  float* logits_ = nullptr;   // of the last step
  uint64_t logits_stride_ = 0;
  // Steps under way: they are run where they begin, and each one's ids are kept until it ends.
  struct Begun {
    StepResult result;
    std::vector<int32_t> ids;
  } begun_[2];
  uint32_t first_ = 0, count_ = 0;
};

}  // namespace ern
