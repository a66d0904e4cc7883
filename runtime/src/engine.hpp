// One model in memory and the thread that runs it. This is the runtime's inner face: api.cpp puts C around it, tests
// use it with a plan of their own. What other threads want of the engine goes through an inbox; all else belongs to the
// engine's thread.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "backend.hpp"
#include "counters.hpp"
#include "engine_options.hpp"
#include "executor.hpp"
#include "generation.hpp"
#include "kv_pool.hpp"
#include "loader.hpp"
#include "logits_pass.hpp"
#include "plan.hpp"
#include "scheduler.hpp"
#include "sequence.hpp"
#include "status.hpp"
#include "threads.hpp"
#include "weights.hpp"

namespace ern {

// What ern_profile asks, and its answer.
struct ProfileCall {
  int32_t batch, rows;
  int64_t context;
  std::vector<KernelTime> times;
  Status status;
  bool ended = false;  // under the engine's mutex
};

class Engine {
 public:
  // Checks, loads and starts; see Package::open about an empty folder. `plan` must outlive the engine.
  static Result<std::unique_ptr<Engine>> create(const std::string& folder, const Plan& plan,
                                                const EngineOptions& options);
  // Ends what runs, tells everybody, and joins.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Any thread.
  Status submit(std::unique_ptr<Sequence> sequence, uint64_t* number);
  void cancel(uint64_t number);
  void ack(uint64_t number, int64_t tokens);
  Status logits(const ern_logits_request& request);
  Status profile(ProfileCall& call);

  const Plan& plan() const { return plan_; }
  const TextParts& text() const { return text_; }
  const EngineOptions& options() const { return options_; }  // after defaults: no zeros left
  const Counters& counters() const { return counters_; }
  WeightsMode weights_mode() const { return backend_->weights_mode(); }
  int32_t kv_blocks() const { return pool_->blocks(); }
  uint64_t arena_bytes() const { return executor_->arena_bytes(); }
  // The longest that a sequence may get, prompt and completion: the context, or the cache if that is smaller.
  int64_t most_tokens() const;
  // In a callback: where waiting for the engine would be waiting for oneself.
  bool on_own_thread() const;

 private:
  struct Message {
    enum class Kind { sequence, pass, profile, cancel, ack };
    explicit Message(Kind k, uint64_t n = 0, int64_t t = 0) : kind(k), number(n), tokens(t) {}
    Kind kind;
    uint64_t number;  // cancel, ack
    int64_t tokens;   // ack
    std::unique_ptr<Sequence> sequence;
    LogitsPass* pass = nullptr;
    ProfileCall* profile = nullptr;
  };

  Engine(const Plan& plan, const EngineOptions& options) : plan_(plan), options_(options) {}
  Status load(const std::string& folder);
  void run();
  void handle(Message& message);
  bool advance_passes();
  void end_pass(LogitsPass& pass, Code code, const char* message);
  void end_passes(Code code, const char* message);
  Status check_profile(const ProfileCall& call) const;
  void run_profiles();
  void end_profile(Status status);
  void end_profiles(Code code, const char* message);
  void lose(const Status& status);
  LogitsPass::Parts pass_parts();
  std::span<const uint32_t> allowed() const;
  void send(Message message);

  const Plan& plan_;
  EngineOptions options_;
  Counters counters_;
  TextParts text_;
  std::unique_ptr<Backend> backend_;

  // The engine's thread, once it runs.
  std::unique_ptr<ThreadPool> threads_;
  std::optional<KvPool> pool_;
  std::unique_ptr<Executor> executor_;
  std::optional<Scheduler> scheduler_;
  std::optional<Generation> generation_;
  std::vector<LogitsPass*> passes_;
  std::vector<ProfileCall*> profiles_;

  // Everybody, under the mutex.
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Message> inbox_;
  bool nudged_ = false;  // a pass may go on
  bool stopping_ = false;
  Status lost_;  // why the device is of no use any more
  uint64_t last_number_ = 0;
  int32_t callers_ = 0;  // in logits() and profile()

  std::atomic<int32_t> queued_{0};
  std::thread thread_;
};

}  // namespace ern
