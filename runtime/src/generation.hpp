// From steps to tokens to events: runs what the scheduler chose, samples where a sequence's last token was computed,
// and tells its reader. Owns the sequences that are in the engine. For the engine's thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "counters.hpp"
#include "executor.hpp"
#include "kv_pool.hpp"
#include "sampler.hpp"
#include "scheduler.hpp"
#include "sequence.hpp"
#include "threads.hpp"

namespace ern {

class Generation {
 public:
  struct Parts {
    Executor& executor;
    KvPool& pool;
    Scheduler& scheduler;
    ThreadPool& threads;
    Counters& counters;
    std::atomic<int32_t>& queued;  // requests that were submitted and have not had a step; one less for each that gets
                                   // its first, or ends before
    int32_t vocab;
    std::span<const uint32_t> allowed;  // ids that may be sampled; empty: all
  };
  explicit Generation(const Parts& parts);

  // Always takes it: without memory for one more, it ends with an error.
  void add(std::unique_ptr<Sequence> sequence);
  // Both are fine for a number that is not here.
  void cancel(uint64_t number);
  void ack(uint64_t number, int64_t tokens);
  // Ends every sequence.
  void end_all(ern_finish reason, const char* message);

  // One step of the model for whoever can go on. False if nobody can. `alone`: nobody else wants the executor soon, so
  // that the step after it may be begun before its tokens are looked at.
  bool step(bool alone);
  // Ends what is under way: whoever else uses the executor or the pool's blocks comes after it.
  void settle();
  // After a failure in mid-step: what was begun is waited for, if the device still answers, and forgotten.
  void abandon(bool device_lost);

  // The scheduler's and the pool's numbers, for everybody.
  void publish_counters();
  Sampler& sampler() { return samplers_.front(); }

 private:
  struct Draw {  // one row to sample from
    Sequence* sequence;
    int32_t row;
    int32_t next_id;    // as the device found or drew it
    bool reads_logits;  // next_id is not all that is asked
    float* logits;      // nullptr without reads_logits
    Sampled result;
  };

  void begin(std::span<const StepEntry> entries, bool ids_of_last);
  bool go_ahead();
  void collect(const StepResult& result);
  bool wants_logits(const Sequence& sequence, int64_t further) const;
  bool reads_logits(const Sequence& sequence, int32_t id) const;
  static bool too_short(const Sequence& sequence, int64_t further);
  void sample(std::vector<Draw>& draws);
  Sampled sample(const Draw& draw, Sampler& sampler) const;
  void accept(Sequence& sequence, Sampled sampled);
  void end(Sequence& sequence, ern_finish reason, const char* message, const Sampled* last);
  void tell(const Sequence& sequence, const Sampled* last, ern_finish reason, const char* message);

  Parts parts_;
  std::unordered_map<uint64_t, std::unique_ptr<Sequence>> sequences_;
  std::vector<Sampler> samplers_;  // one a thread
  int32_t under_way_ = 0;      // steps that were begun and have not ended; the first of them is the scheduler's step
  int64_t looked_at_ = 0;      // when the last one ended
  int64_t begun_at_ = 0;       // the step at hand
  // Of the step at hand; kept for their memory.
  std::vector<StepItem> items_;
  std::vector<Draw> draws_;
  std::string text_;
  std::vector<ern_logprob> logprobs_;
};

}  // namespace ern
