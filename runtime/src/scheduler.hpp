// Continuous batching: which sequences run in the next step, with how many rows, and who gives up blocks when the pool
// is empty. Decides about tokens and blocks alone: nothing is run, sampled or told to a reader here. For the engine's
// thread.
//
// Older sequences go first, always: in admission, for a place in the step, and for blocks. So the oldest one always
// gets on, whatever the rest does, and since each fits into the pool alone, every one ends.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kv_pool.hpp"
#include "sequence.hpp"

namespace ern {

struct SchedulerLimits {
  int32_t max_batch;      // sequences in a step
  int32_t prefill_chunk;  // prompt rows in a step; a quarter of it beside sequences that generate, whose readers wait
                          // for the step
  int32_t max_rows;       // rows of any kind in a step, at least max_batch
};

struct StepEntry {
  Sequence* sequence;  // nullptr: it left, and what is computed for it is nobody's
  int32_t rows;  // tokens[computed, computed + rows)
};

class Scheduler {
 public:
  Scheduler(KvPool& pool, const SchedulerLimits& limits) : pool_(pool), limits_(limits) {}

  // Puts a new sequence at the end of the queue. It must outlive its stay here.
  void add(Sequence& sequence);
  // Takes it out, wherever it is, and gives its blocks back; its prefix stays cached.
  void remove(Sequence& sequence);

  // The next step: admits who fits, then one row of each sequence that has one left, then prompts in chunks, oldest
  // first. Each entry's blocks hold its rows. Empty when nobody can go on. Valid until the next call; entries of sequences
  // that leave meanwhile, or lose their blocks, become null. The step before was committed.
  std::span<const StepEntry> next_step();
  // The step after the one at hand, as far as it is certain before its tokens are known: the same sequences with one row
  // each, the token after their last one. Empty if anybody else could have a say in it, or somebody is about to end or to
  // stall. Blocks are at hand for it; once it is made, the step at hand may be run and committed, and this one is then the
  // step at hand.
  std::span<const StepEntry> step_ahead();
  // The step at hand was run: its rows are in the cache, whole blocks are published.
  void commit();
  // The step at hand. Empty if there is none.
  std::span<const StepEntry> step() const { return step_; }
  // Forgets the step ahead, or both: what was run of them is not in the cache.
  void drop_ahead() { ahead_.clear(); }
  void drop() { step_.clear(), ahead_.clear(); }

  // Takes `count` blocks for a use of its own, making sequences wait if it must. False, and nothing taken, if there are
  // not so many.
  bool reserve(int32_t count, std::vector<int32_t>& blocks);

  size_t resident() const { return resident_.size(); }
  size_t waiting() const { return waiting_.size(); }
  uint64_t preemptions() const { return preemptions_; }

 private:
  int32_t blocks_for(int64_t tokens) const {
    return static_cast<int32_t>((tokens + pool_.block_size() - 1) / pool_.block_size());
  }
  void admit();
  bool try_admit(Sequence& sequence, int32_t spare);
  bool grow(Sequence& sequence);
  Sequence* victim(bool only_stalled) const;
  void preempt(Sequence& sequence);
  void publish(Sequence& sequence);
  void release(Sequence& sequence);
  void leave_steps(const Sequence& sequence);

  KvPool& pool_;
  const SchedulerLimits limits_;
  std::vector<Sequence*> waiting_, resident_;  // each by number
  std::vector<Sequence*> active_;
  std::vector<StepEntry> step_, ahead_;
  uint64_t preemptions_ = 0;
};

}  // namespace ern
