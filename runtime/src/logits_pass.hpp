// One forward pass that somebody waits for: logits of every position of given ids, and greedy ones after them. The
// engine's thread computes a chunk and copies it out; the caller's thread hands it over while the engine goes on with
// its requests, and asks for the next.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "executor.hpp"
#include "include/ern.h"
#include "kv_pool.hpp"
#include "sampler.hpp"
#include "scheduler.hpp"
#include "status.hpp"

namespace ern {

class LogitsPass {
 public:
  // What the engine's thread lends to each chunk.
  struct Parts {
    Executor& executor;
    KvPool& pool;
    Scheduler& scheduler;
    Sampler& sampler;
    int32_t vocab;
    std::span<const uint32_t> allowed;
  };

  // The request was checked; its ids and callback must stay until the pass has ended.
  explicit LogitsPass(const ern_logits_request& request);

  // The caller's thread: hands over chunks until the pass ends. `wake` makes the engine's thread look at its passes
  // again.
  template <class Wake>
  Status deliver(Wake wake);

  // The engine's thread. After `ended`, or to end it early: release(), then tell(), and it is not touched any more.
  enum class Progress { moved, waits, ended };
  Progress advance(const Parts& parts);
  // Gives back what it holds of the engine.
  void release(const Parts& parts);
  // Lets the caller go; `message` is static text. A pass that ended by itself keeps its own code. Allocates nothing.
  void tell(Code code, const char* message);

 private:
  void run(const Parts& parts, ProgramKind kind, const int32_t* tokens, int32_t rows);
  void copy_trace(Executor& executor, const StepResult& result, int32_t rows);
  int32_t rows_of_next_chunk(const Parts& parts, ProgramKind kind) const;

  const ern_logits_request request_;
  const int64_t prompt_;

  // The engine's thread, and the caller's while ready_.
  std::vector<int32_t> tokens_;  // the ids, then the greedy ones
  std::vector<int32_t> blocks_;
  int64_t computed_ = 0;
  int64_t greedy_ = 0;  // delivered or ready
  bool large_ = false;  // ran a program whose scratch is worth giving back
  ern_logits_chunk chunk_ = {};
  std::vector<float> logits_;  // [rows, vocab]
  std::vector<int32_t> next_ids_;
  std::vector<std::vector<float>> floats_;
  std::vector<std::vector<int32_t>> ints_;
  std::vector<ern_tensor> trace_;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool ready_ = false, gave_up_ = false, ended_ = false;
  Code code_ = Code::ok;
  const char* message_ = "";
};

template <class Wake>
Status LogitsPass::deliver(Wake wake) {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return ready_ || ended_; });
    if (ended_) return {code_, message_};
    lock.unlock();
    const int answer = request_.on_chunk(request_.user, &chunk_);
    lock.lock();
    if (ended_) return {code_, message_};
    gave_up_ = answer != 0;
    ready_ = false;
    lock.unlock();
    wake();
    lock.lock();
  }
}

}  // namespace ern
