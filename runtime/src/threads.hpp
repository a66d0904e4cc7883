// The team that runs kernels: the thread that owns the pool is rank 0, the others wait for it. How threads of a running
// team meet is device/cpu/kernel.hpp's; here is how the team starts and ends, and how it rests between steps.
#pragma once

#include <pthread.h>
#include <signal.h>

#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "device/cpu/kernel.hpp"
#include "status.hpp"

namespace ern {

// Cores that this process may use, by its affinity and its container's quota; at least 1.
int available_cores();

// While it lives, threads that this one starts take no signals: those are the host program's.
class BlockSignals {
 public:
  BlockSignals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~BlockSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  BlockSignals(const BlockSignals&) = delete;
  BlockSignals& operator=(const BlockSignals&) = delete;

 private:
  sigset_t before_;
};

class ThreadPool {
 public:
  // Starts size - 1 threads; the caller of run() is the missing one. 1 <= size <= max_team.
  static Result<std::unique_ptr<ThreadPool>> create(int size);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_; }

  // Calls job(team) in every thread and returns when all are done. One caller at a time; the job must not throw.
  template <class Job>
  void run(Job&& job) {
    run([](void* context, Team& team) { (*static_cast<std::remove_reference_t<Job>*>(context))(team); }, &job);
  }

 private:
  using JobFn = void (*)(void* context, Team& team);
  explicit ThreadPool(int size) : size_(size) {}
  void run(JobFn job, void* context);
  void work(int rank);
  bool wait_for_job(uint32_t seen) const;

  const int size_;
  int spins_ = 0;
  Barrier barrier_;
  // The number of the current job; workers sleep on it. 0 at first; a job is written before the number moves.
  alignas(64) uint32_t job_number_ = 0;
  mutable uint32_t sleepers_ = 0;
  bool quit_ = false;
  JobFn job_ = nullptr;
  void* context_ = nullptr;
  std::vector<std::thread> workers_;
};

}  // namespace ern
