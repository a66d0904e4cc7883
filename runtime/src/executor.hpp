// Runs programs of a plan: what the engine asks for and gets, whatever device computes it. Knows rows, blocks and
// offsets; which sequences there are and what becomes of the logits is others' business. cpu_executor.hpp and
// cuda/cuda_executor.hpp do it. For the engine's thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "plan.hpp"
#include "status.hpp"

namespace ern {

// How the token behind an item is drawn at random, where the device can (Executor::draws); see sampler.hpp. Temperature 0: it is the argmax.
struct RandomDraw {
  float temperature = 0, top_p = 1, min_p = 0;
  int32_t top_k = 0;  // 0: off
  uint64_t seed = 0;
};

// Rows of one sequence in a step: tokens[0, rows) at positions first, first + 1, ...
struct StepItem {
  const int32_t* tokens;
  int64_t first;
  int32_t rows;
  std::span<const int32_t> blocks;  // of the sequence, enough for first + rows tokens
  RandomDraw draw = {};             // of the token at position first + rows; prefill and decode only
};

// What a step left for the host; valid until the next one ends or, if none is under way, is begun.
struct StepResult {
  const Program* program;
  int32_t rows;             // of the logits: the items, or all tokens (score, trace)
  const int32_t* next_ids;  // [rows]: argmax, or what was drawn, -1 from a row without a number; nullptr where the program doesn't find them
};

// Of a kernel in a step: ern_kernel_time.
struct KernelTime {
  const char* kernel;  // nullptr: the whole step
  int32_t launches;
  double us;
};

class Executor {
 public:
  virtual ~Executor() = default;

  // The most rows of a step of this kind; 0 if the plan has no such program. `sequences`: the fewest that its bucket
  // must hold.
  virtual int32_t most_rows(ProgramKind kind, int32_t sequences) const = 0;

  // Begins a step. A bucket of this kind must hold the items: see most_rows. Throws DeviceFailure when the device is
  // lost.
  //
  // With `ids_of_last` it is a step of decode behind the one begun last, over as many sequences in the same order, which
  // may be under way still: each row's token is what that step finds for its row, and `tokens` of the items is not read.
  // So the device goes on before the host has seen a token. At most two steps are under way; only where runs_ahead().
  virtual void begin(ProgramKind kind, std::span<const StepItem> items, bool ids_of_last) = 0;
  // The oldest step under way, once it is done.
  virtual StepResult end() = 0;
  virtual bool runs_ahead() const = 0;
  // Whether RandomDraw is heeded; it must be left at the argmax otherwise.
  virtual bool draws() const { return false; }
  // Ids that may be drawn, bit id % 32 of word id / 32; empty: all. Before the first step, by whoever knows the tokenizer.
  virtual Status allow(std::span<const uint32_t>) { return {}; }

  StepResult run(ProgramKind kind, std::span<const StepItem> items) {
    begin(kind, items, false);
    return end();
  }

  // One row of the logits [vocab] of the step begun last, which has ended; the caller may overwrite it. Fetched when it
  // is first asked for.
  virtual float* logits(int32_t row) = 0;
  // A traced tensor of that step, as the plan describes it.
  virtual const std::byte* traced(const Output& output) = 0;

  // Runs a step several times, for what its kernels take: the whole step first, then each kernel, in the order of their
  // first launches. Nothing may be under way. What the step leaves is in the items' blocks alone.
  virtual std::vector<KernelTime> profile(ProgramKind kind, std::span<const StepItem> items) = 0;

  // Scratch of prefill and decode.
  virtual uint64_t arena_bytes() const = 0;
  // Gives back the memory that only score and trace need: their logits are hundreds of megabytes.
  virtual void trim() = 0;
};

}  // namespace ern
