// Weights in the memory of a GPU: copied there from the packed file through pinned memory, or made up there. Engines of
// a process that want the same ones on the same GPU share them.
#pragma once

#include <memory>

#include "gpu.hpp"
#include "../loader.hpp"
#include "../plan.hpp"
#include "../threads.hpp"

namespace ern::cuda {

class DeviceWeights {
 public:
  // Always checks the file's size and its header; with `verify` every byte, before anything is copied.
  static Result<std::shared_ptr<const DeviceWeights>> load(const Plan& plan, const Package& package, bool verify,
                                                           std::shared_ptr<const Gpu> gpu, const Kernels& kernels,
                                                           ThreadPool& threads);
  // Are they there already, for some engine?
  static bool loaded(const Plan& plan, const Gpu& gpu);

  DeviceWeights(std::shared_ptr<const Gpu> gpu, DeviceMemory memory) : gpu_(std::move(gpu)), memory_(std::move(memory)) {}
  Pointer data() const { return memory_.data(); }

 private:
  std::shared_ptr<const Gpu> gpu_;  // outlives its memory
  DeviceMemory memory_;
};

}  // namespace ern::cuda
