#include "cuda_backend.hpp"

#include <algorithm>
#include <optional>
#include <string>

#include "gpu.hpp"
#include "cuda_executor.hpp"
#include "device_weights.hpp"
#include "../device_failure.hpp"

namespace ern::cuda {
namespace {

// For the driver's own: launch buffers, graphs, what code takes.
constexpr uint64_t reserve_bytes = uint64_t{96} << 20;

std::string mib(uint64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

class CudaBackend final : public Backend {
 public:
  CudaBackend(const Plan& plan, std::shared_ptr<const Gpu> gpu, Kernels kernels)
      : plan_(plan), gpu_(std::move(gpu)), kernels_(std::move(kernels)) {}

  // They copy weights and sample; more wait for nothing.
  int usual_threads(int cores) const override { return std::min(cores, 8); }

  // The code has been loaded by now, with memory of its own (32 MiB for what the blocks of a decode step in one launch tell one another): it is not free any more.
  Status check_room(int32_t blocks) const override {
    if (Status status = gpu_->enter(); !status.ok()) return status;
    const auto memory = gpu_->memory();
    if (!memory.ok()) return memory.status();
    const uint64_t weights = DeviceWeights::loaded(plan_, *gpu_) ? 0 : plan_.weights_bytes;
    const uint64_t scratch = CudaExecutor::device_bytes(plan_), kv = plan_.kv_block_bytes * static_cast<uint64_t>(blocks);
    const uint64_t fixed = weights + scratch + reserve_bytes, free = memory.value().free;
    if (fixed + kv <= free) return {};
    const uint64_t tokens = free <= fixed ? 0 : (free - fixed) / plan_.kv_block_bytes * static_cast<uint64_t>(plan_.kv_block_size);
    return {Code::out_of_memory,
            "this model takes " + mib(fixed + kv) + " of GPU memory (weights " + mib(weights) + ", KV cache of " +
                std::to_string(int64_t{blocks} * plan_.kv_block_size) + " tokens " + mib(kv) + ", scratch " +
                mib(scratch + reserve_bytes) + "), and " + gpu_->name() + " has " + mib(free) + " free of " +
                mib(memory.value().total) +
                (tokens > 0 ? "; with kvTokens: " + std::to_string(tokens) + " it would fit" : "; nothing of it fits beside the weights")};
  }

  Status load_weights(const Package& package, WeightsMode, bool verify, ThreadPool& threads) override {
    auto weights = DeviceWeights::load(plan_, package, verify, gpu_, kernels_, threads);
    if (!weights.ok()) return weights.status();
    weights_ = std::move(weights.value());
    return {};
  }
  WeightsMode weights_mode() const override { return WeightsMode::copy; }

  Result<KvPool> make_pool(int32_t blocks) override {
    auto memory = DeviceMemory::create(*gpu_, plan_.kv_block_bytes * static_cast<uint64_t>(blocks), "the KV cache");
    if (!memory.ok()) return memory.status();
    kv_ = std::move(memory.value());
    // Attention reads whole tiles and masks what lies behind the context; a NaN there would come through.
    const int error = gpu_->driver().set_bytes(kv_.data(), 0, kv_.bytes(), gpu_->stream());
    if (Status status = gpu_->check(error, "clearing the KV cache"); !status.ok()) return status;
    return KvPool::over(blocks, plan_.kv_block_size, [this](int32_t to, int32_t from) { copy_block(to, from); });
  }

  Result<std::unique_ptr<Executor>> make_executor(ThreadPool&) override {
    return CudaExecutor::create(plan_, *gpu_, kernels_, weights_->data(), kv_.data());
  }

 private:
  // On the stream of the steps: before the next one, after the last.
  void copy_block(int32_t to, int32_t from) const {
    if (Status status = gpu_->enter(); !status.ok()) throw DeviceFailure(status);
    const auto at = [this](int32_t block) { return kv_.data() + static_cast<uint64_t>(block) * plan_.kv_block_bytes; };
    const int error = gpu_->driver().copy(at(to), at(from), plan_.kv_block_bytes, gpu_->stream());
    if (error != success) throw DeviceFailure(gpu_->driver().failure(error, "copying a block of the KV cache"));
  }

  const Plan& plan_;
  std::shared_ptr<const Gpu> gpu_;
  Kernels kernels_;
  std::shared_ptr<const DeviceWeights> weights_;
  DeviceMemory kv_;
};

}  // namespace

Result<std::unique_ptr<Backend>> open_backend(const Plan& plan) {
  auto gpu = Gpu::open(*plan.device);
  if (!gpu.ok()) return gpu.status();
  std::shared_ptr<const Gpu> shared = std::move(gpu.value());
  auto kernels = Kernels::load(*shared, *plan.device);
  if (!kernels.ok()) return kernels.status();
  return std::unique_ptr<Backend>(new CudaBackend(plan, std::move(shared), std::move(kernels.value())));
}

}  // namespace ern::cuda
