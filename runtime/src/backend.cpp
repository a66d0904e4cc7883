#include "backend.hpp"

#include "cpu_check.hpp"
#include "cpu_executor.hpp"

namespace ern {
namespace {

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const Plan& plan) : plan_(plan) {}

  int usual_threads(int cores) const override { return cores; }
  // Pages come as they are touched, and each part checks for itself.
  Status check_room(int32_t) const override { return {}; }

  Status load_weights(const Package& package, WeightsMode mode, bool verify, ThreadPool& threads) override {
    auto weights = Weights::load(plan_, package, mode, verify, threads);
    if (!weights.ok()) return weights.status();
    weights_ = std::move(weights.value());
    return {};
  }
  WeightsMode weights_mode() const override { return weights_->mode(); }

  Result<KvPool> make_pool(int32_t blocks) override {
    auto pool = KvPool::create(blocks, plan_.kv_block_size, plan_.kv_block_bytes);
    if (pool.ok()) kv_ = pool.value().base();
    return pool;
  }
  Result<std::unique_ptr<Executor>> make_executor(ThreadPool& threads) override {
    return CpuExecutor::create(plan_, weights_->data(), kv_, threads);
  }

 private:
  const Plan& plan_;
  std::shared_ptr<const Weights> weights_;
  std::byte* kv_ = nullptr;  // the pool's, which the engine keeps
};

}  // namespace

Result<std::unique_ptr<Backend>> Backend::open(const Plan& plan) {
  if (plan.device) return plan.device->open(plan);
  if (Status status = check_cpu(plan.arch); !status.ok()) return status;
  return std::unique_ptr<Backend>(new CpuBackend(plan));
}

}  // namespace ern
