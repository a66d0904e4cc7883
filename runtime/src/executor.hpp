// Runs programs of a plan: chooses the bucket, fills the inputs, and walks the launches with the team. Knows rows,
// blocks and offsets; what a launch computes, which sequences there are and what becomes of the logits is others'
// business. For the engine's thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "memory.hpp"
#include "plan.hpp"
#include "status.hpp"
#include "team_choice.hpp"
#include "threads.hpp"

namespace ern {

// Rows of one sequence in a step: tokens[0, rows) at positions first, first + 1, ...
struct StepItem {
  const int32_t* tokens;
  int64_t first;
  int32_t rows;
  std::span<const int32_t> blocks;  // of the sequence, enough for first + rows tokens
};

// What a step left in the arena; valid until the next one.
struct StepResult {
  const Program* program;
  std::byte* arena;
  int32_t rows;             // of the logits: the items, or all tokens (score, trace)
  float* logits;            // row r at r * logits_stride; the caller may overwrite it
  uint64_t logits_stride;
  const int32_t* next_ids;  // [rows], or nullptr where the program doesn't find them
};

class Executor {
 public:
  // `plan` and `weights` must outlive it, and so must the pool.
  static Result<Executor> create(const Plan& plan, const std::byte* weights, std::byte* kv, ThreadPool& threads);

  // The most rows of a step of this kind; 0 if the plan has no such program. `sequences`: the fewest that its bucket
  // must hold.
  int32_t most_rows(ProgramKind kind, int32_t sequences) const;

  // A bucket of this kind must hold the items: see most_rows.
  StepResult run(ProgramKind kind, std::span<const StepItem> items);

  uint64_t arena_bytes() const { return usual_arena_; }
  // Gives back the memory that only score and trace need: their logits are hundreds of megabytes.
  void trim() const { arena_.discard(usual_arena_); }

 private:
  // A bucket with its arguments as pointers: made when it is first used, since most buckets of a large plan never are.
  struct Bucket {
    const Program* program;
    std::vector<void*> args;            // of all launches, one after the other
    std::vector<void* const*> launches; // where those of each launch begin
    TeamChoice team = {};
  };

  Executor() = default;
  Bucket& choose(ProgramKind kind, int32_t tokens, int32_t sequences);
  void launch(Bucket& bucket, const Step& step);
  void resolve(Bucket& bucket);
  Step fill(const Program& program, std::span<const StepItem> items);

  const Plan* plan_ = nullptr;
  std::byte* bases_[4] = {};  // by Space
  ThreadPool* threads_ = nullptr;
  Mapping arena_, inputs_;
  uint64_t usual_arena_ = 0;  // what prefill and decode need of the arena
  std::vector<Bucket> buckets_;
};

}  // namespace ern
