#include "threads.hpp"

#include <sched.h>

#include <algorithm>
#include <climits>
#include <system_error>

#include "control_groups.hpp"

namespace ern {
namespace {

// How long a worker looks for the next job before it sleeps: some 100 us, about what the engine does between two steps
// of a small model. A neighbour that wants the core gets it in between.
constexpr int job_spins = 4000;
constexpr int spins_between_yields = 256;

}  // namespace

int available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  // The call fails where there are more cores than cpu_set_t has bits.
  const int cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set)
                                                                : static_cast<int>(std::thread::hardware_concurrency());
  return std::max(1, std::min(cores, cpu_quota()));
}

Result<std::unique_ptr<ThreadPool>> ThreadPool::create(int size) {
  std::unique_ptr<ThreadPool> pool(new ThreadPool(size));
  // Who spins on a core that another thread of the team is waiting for only makes it wait longer.
  pool->spins_ = size <= available_cores() ? job_spins : 0;
  pool->workers_.reserve(static_cast<size_t>(size));
  const BlockSignals block;
  try {
    for (int rank = 1; rank < size; ++rank) pool->workers_.emplace_back([p = pool.get(), rank] { p->work(rank); });
  } catch (const std::system_error& error) {
    // The pool ends those that run.
    return Status{Code::out_of_memory, "can't start thread " + std::to_string(pool->workers_.size() + 1) + " of " +
                                           std::to_string(size) + ": " + error.what()};
  }
  return pool;
}

ThreadPool::~ThreadPool() {
  __atomic_store_n(&quit_, true, __ATOMIC_SEQ_CST);
  __atomic_fetch_add(&job_number_, 1, __ATOMIC_SEQ_CST);
  syscall(SYS_futex, &job_number_, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(JobFn job, void* context) {
  job_ = job;
  context_ = context;
  // The same protocol as in Barrier: the number moves before we look for sleepers, a sleeper announces itself before it
  // looks at the number.
  __atomic_fetch_add(&job_number_, 1, __ATOMIC_SEQ_CST);
  if (__atomic_load_n(&sleepers_, __ATOMIC_SEQ_CST) != 0) {
    syscall(SYS_futex, &job_number_, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
  }
  Team team{0, size_, &barrier_};
  job(context, team);
  team.barrier();  // also for the workers' sake: the job and its context are the caller's, and end with this call
}

void ThreadPool::work(int rank) {
  pthread_setname_np(pthread_self(), "ern-worker");
  for (uint32_t seen = 0; wait_for_job(seen); ++seen) {
    Team team{rank, size_, &barrier_};
    job_(context_, team);
    team.barrier();
  }
}

// True when job seen + 1 is there, false at the end. A worker can't miss a job: each ends only when all have run it.
bool ThreadPool::wait_for_job(uint32_t seen) const {
  const auto number = [this] { return __atomic_load_n(&job_number_, __ATOMIC_ACQUIRE); };
  for (int spin = 0; spin < spins_ && number() == seen; ++spin) {
    cpu_pause();
    if (spin % spins_between_yields == spins_between_yields - 1) sched_yield();
  }
  if (number() == seen) {
    __atomic_fetch_add(&sleepers_, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&job_number_, __ATOMIC_SEQ_CST) == seen) {
      syscall(SYS_futex, &job_number_, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
    }
    __atomic_fetch_sub(&sleepers_, 1, __ATOMIC_SEQ_CST);
  }
  return !__atomic_load_n(&quit_, __ATOMIC_SEQ_CST);
}

}  // namespace ern
