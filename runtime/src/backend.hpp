// Where the programs of a plan run: the memory of weights and cache, and the executor over both. The engine asks for
// its parts in the order in which they stand here; everything else of it is the same for all devices.
#pragma once

#include <memory>

#include "executor.hpp"
#include "kv_pool.hpp"
#include "loader.hpp"
#include "plan.hpp"
#include "status.hpp"
#include "threads.hpp"
#include "weights.hpp"

namespace ern {

class Backend {
 public:
  // Refuses a plan that this machine can't run. `plan` must outlive it, and it everything that it makes.
  static Result<std::unique_ptr<Backend>> open(const Plan& plan);
  virtual ~Backend() = default;

  // How many threads the host needs, if nobody says: kernels of a CPU use them all.
  virtual int usual_threads(int cores) const = 0;
  // Before anything is loaded: is there room for it all, with so many blocks of cache?
  virtual Status check_room(int32_t blocks) const = 0;
  virtual Status load_weights(const Package& package, WeightsMode mode, bool verify, ThreadPool& threads) = 0;
  virtual WeightsMode weights_mode() const = 0;
  virtual Result<KvPool> make_pool(int32_t blocks) = 0;
  virtual Result<std::unique_ptr<Executor>> make_executor(ThreadPool& threads) = 0;
};

}  // namespace ern
