// A GPU that a package runs on, and what is held of it: its context, a stream, memory, machine code. Each frees itself.
// Knows no plan but what its code was compiled for.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../device_plan.hpp"
#include "driver.hpp"

namespace ern::cuda {

// The primary context of one GPU, which all engines of a process share, and a stream of its own. Calls of the driver
// want the context current in the thread that makes them: see enter().
class Gpu {
 public:
  // The first GPU that runs the plan's code.
  static Result<std::unique_ptr<Gpu>> open(const DevicePlan& plan);
  ~Gpu();
  Gpu(const Gpu&) = delete;
  Gpu& operator=(const Gpu&) = delete;

  const Driver& driver() const { return *driver_; }
  Stream stream() const { return stream_; }
  const std::string& name() const { return name_; }
  int ordinal() const { return ordinal_; }
  // Launches may start while those before them still run.
  bool programmatic() const { return major_ >= 9; }
  int shared_bytes() const { return shared_bytes_; }
  int multiprocessors() const { return multiprocessors_; }

  // Makes the context the calling thread's.
  Status enter() const;
  struct Memory {
    uint64_t free, total;
  };
  Result<Memory> memory() const;
  // Ok, or what failed.
  Status check(int error, const char* what) const { return error == success ? Status() : driver_->failure(error, what); }

 private:
  Gpu() = default;
  const Driver* driver_ = nullptr;
  int ordinal_ = 0, major_ = 0, minor_ = 0, shared_bytes_ = 0, multiprocessors_ = 0;
  Device device_ = 0;
  Context context_ = nullptr;
  Stream stream_ = nullptr;
  std::string name_;
};

// Device memory, or pinned memory of the host.
template <class Handle>
class Memory {
 public:
  Memory() = default;
  Memory(Memory&& other) noexcept : gpu_(other.gpu_), at_(std::exchange(other.at_, Handle())), bytes_(other.bytes_) {}
  Memory& operator=(Memory&& other) noexcept {
    std::swap(gpu_, other.gpu_);
    std::swap(at_, other.at_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Memory();
  // `what` is for the message. Contents are undefined.
  static Result<Memory> create(const Gpu& gpu, uint64_t bytes, const char* what);

  Handle data() const { return at_; }
  uint64_t bytes() const { return bytes_; }

 private:
  const Gpu* gpu_ = nullptr;
  Handle at_ = Handle();
  uint64_t bytes_ = 0;
};
using DeviceMemory = Memory<Pointer>;
using PinnedMemory = Memory<void*>;

// The functions of a plan's cubins.
class Kernels {
 public:
  Kernels() = default;
  Kernels(Kernels&& other) noexcept
      : gpu_(other.gpu_), modules_(std::exchange(other.modules_, {})), functions_(std::move(other.functions_)) {}
  Kernels& operator=(Kernels&&) = delete;
  ~Kernels();
  static Result<Kernels> load(const Gpu& gpu, const DevicePlan& plan);
  // Null: its blocks wait for one another, and the GPU cannot run them all at once.
  Function function(uint32_t index) const { return functions_[index]; }

 private:
  const Gpu* gpu_ = nullptr;
  std::vector<Module> modules_;
  std::vector<Function> functions_;
};

}  // namespace ern::cuda
