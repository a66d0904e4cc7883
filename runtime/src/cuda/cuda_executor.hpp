// Runs programs on a GPU: one upload of the step's inputs, the launches of its bucket, and a last one that draws the tokens and leaves them where the
// host sees them. A bucket of decode is captured as a graph, so a step of it is one call of the driver, and two of them may be under way: the
// second takes its tokens from the first on the device, and its inputs are uploaded beside it. Launches may start while those
// before them finish (programmatic dependents); kernels wait where they must. For the engine's thread.
#pragma once

#include <memory>
#include <vector>

#include "gpu.hpp"
#include "../executor.hpp"
#include "../memory.hpp"

namespace ern::cuda {

class CudaExecutor final : public Executor {
 public:
  // All must outlive it. `weights` and `kv` are on the GPU.
  static Result<std::unique_ptr<Executor>> create(const Plan& plan, const Gpu& gpu, const Kernels& kernels, Pointer weights,
                                                  Pointer kv);
  ~CudaExecutor() override;

  int32_t most_rows(ProgramKind kind, int32_t sequences) const override;
  void begin(ProgramKind kind, std::span<const StepItem> items, bool ids_of_last) override;
  StepResult end() override;
  bool runs_ahead() const override { return true; }
  bool draws() const override { return true; }
  Status allow(std::span<const uint32_t> ids) override;
  std::vector<KernelTime> profile(ProgramKind kind, std::span<const StepItem> items) override;
  float* logits(int32_t row) override;
  const std::byte* traced(const Output& output) override;
  uint64_t arena_bytes() const override { return usual_arena_; }
  void trim() override;

  // Of device memory, besides weights and cache.
  static uint64_t device_bytes(const Plan& plan);

 private:
  // A launch as the driver takes it. Pointers lead into this very object, so it stays where it is.
  struct Call {
    LaunchConfig config = {};
    LaunchAttribute attributes[2] = {};
    Function function = nullptr;
    GridCount grid[3] = {};
    const char* name = nullptr;
    std::vector<Pointer> pointers;      // the step, then the arguments; numbers too are passed as 64 bits
    std::unique_ptr<TensorMap[]> maps;
    std::vector<void*> parameters;      // where each of them lies
  };
  static constexpr uint32_t most_under_way = 2;
  using Calls = std::vector<std::unique_ptr<Call>>;
  // Made when it is first used, since most buckets of a large plan never are.
  struct Bucket {
    const Program* program;
    Calls calls[most_under_way];               // by slot; none for decode, which has graphs
    GraphExec graphs[most_under_way][2] = {};  // by slot, and whether the ids are those of the step before
  };
  // What a step under way has for itself.
  struct Slot {
    PinnedMemory staged;    // inputs, on their way to the device: the step, what Inputs says, how to draw
    DeviceMemory inputs;
    DeviceMemory next_ids;  // for the step behind it; what the arena has may be overwritten when that one reads
    PinnedMemory ids;       // the same for the host
    Event uploaded = nullptr, done = nullptr;
    StepResult result = {};
  };

  CudaExecutor(const Plan& plan, const Gpu& gpu, const Kernels& kernels) : plan_(plan), gpu_(gpu), kernels_(kernels) {}
  Bucket& choose(ProgramKind kind, int32_t tokens, int32_t sequences);
  // The programs that run here, smallest first.
  Status list_buckets();
  // A function of the program that the GPU cannot run, or null.
  const DeviceFunction* lacking(const Program& program) const;
  Status make_slot(Slot& slot, uint64_t input_bytes, uint64_t rows);
  Calls make_calls(const Program& program, const Slot& slot, const Slot* last);
  std::unique_ptr<Call> make_call(const DeviceFunction& function, uint32_t index, const char* name, bool first) const;
  std::unique_ptr<Call> make_draw(const Program& program, const Slot& slot, Pointer arena) const;
  TensorMap make_map(const DeviceMap& map, Pointer at, const char* kernel) const;
  uint64_t stage(const Slot& slot, const Program& program, std::span<const StepItem> items, bool ids_of_last, Step& sizes) const;
  void upload(const Slot& slot, uint64_t bytes);
  void enqueue(const Calls& calls, const Step& sizes) const;
  GraphExec capture(const Program& program, const Slot& slot, const Slot* last);
  Pointer arena_of(const Program& program);
  void require(int error, const char* what) const;

  const Plan& plan_;
  const Gpu& gpu_;
  const Kernels& kernels_;
  Pointer weights_ = 0, kv_ = 0;
  DeviceMemory arena_, large_arena_;  // large: for score and trace, while they are used
  DeviceMemory allowed_;
  Stream uploads_ = nullptr;
  PinnedMemory staged_row_;
  Slot slots_[most_under_way];
  uint32_t first_ = 0, count_ = 0;  // slots of steps under way
  uint64_t usual_arena_ = 0, large_bytes_ = 0;
  std::vector<Bucket> buckets_;

  // Of the step begun last.
  const Program* last_ = nullptr;
  Pointer last_arena_ = 0;
  int32_t last_tokens_ = 0;
  const Output* logits_ = nullptr;
  std::vector<float> rows_;        // logits that were fetched, [rows, vocab]
  std::vector<uint8_t> fetched_;   // by row
  std::vector<std::byte> traced_;  // the tensor that was fetched last
};

}  // namespace ern::cuda
