#include "scheduler.hpp"

#include <algorithm>

namespace ern {
namespace {

// Prompt rows in a step beside others: fewer would read all weights for next to nothing.
constexpr int32_t least_chunk = 32;

void insert(std::vector<Sequence*>& list, Sequence& sequence) {
  list.insert(std::ranges::upper_bound(list, sequence.number, {}, &Sequence::number), &sequence);
}

void erase(std::vector<Sequence*>& list, Sequence& sequence) {
  const auto found = std::ranges::find(list, &sequence);
  if (found != list.end()) list.erase(found);
}

}  // namespace

void Scheduler::add(Sequence& sequence) {
  // All that its stay can need, so that nothing on the way of a step allocates for it.
  const auto blocks = static_cast<size_t>(blocks_for(sequence.most));
  sequence.blocks.reserve(blocks);
  sequence.serials.reserve(blocks);
  const size_t everybody = waiting_.size() + resident_.size() + 1;
  for (auto* list : {&waiting_, &resident_, &active_}) {
    if (list->capacity() < everybody) list->reserve(2 * everybody);
  }
  for (auto* list : {&step_, &ahead_}) {
    if (list->capacity() < everybody) list->reserve(2 * everybody);
  }
  insert(waiting_, sequence);
}

void Scheduler::remove(Sequence& sequence) {
  erase(waiting_, sequence);
  erase(resident_, sequence);
  release(sequence);
}

void Scheduler::admit() {
  auto active = static_cast<int32_t>(std::ranges::count_if(resident_, [](const Sequence* s) { return !s->stalled(); }));
  for (size_t i = 0; i < waiting_.size() && active < limits_.max_batch;) {
    Sequence& sequence = *waiting_[i];
    if (sequence.stalled()) {
      ++i;
      continue;
    }
    // Those that run may want a block each soon: without these to spare the newcomer would be sent away again at once.
    bool admitted = try_admit(sequence, active);
    // Whoever doesn't read must not keep others from running.
    for (Sequence* idle; !admitted && (idle = victim(true));) {
      preempt(*idle);  // it may land before place i: it is stalled, and passed over
      i = static_cast<size_t>(std::ranges::find(waiting_, &sequence) - waiting_.begin());
      admitted = try_admit(sequence, active);
    }
    if (!admitted) return;  // the next one would fit perhaps, but then a large one might wait for ever
    waiting_.erase(waiting_.begin() + static_cast<ptrdiff_t>(i));
    insert(resident_, sequence);
    ++active;
  }
}

// Blocks for all tokens that the sequence has, so that its prefill can't get stuck half way.
bool Scheduler::try_admit(Sequence& sequence, int32_t spare) {
  const auto size = static_cast<int64_t>(sequence.tokens.size());
  // The last token is always computed: its row is where the next token comes from.
  KvPool::Match match = pool_.match(sequence.tokens, size - 1);
  if (pool_.free_blocks() < blocks_for(size) - static_cast<int32_t>(match.blocks.size()) + spare) {
    for (auto block = match.blocks.rbegin(); block != match.blocks.rend(); ++block) pool_.release(*block);
    return false;
  }
  pool_.match_partly(sequence.tokens, size - 1, match);
  sequence.blocks.assign(match.blocks.begin(), match.blocks.end());
  sequence.serials.assign(match.serials.begin(), match.serials.end());
  while (static_cast<int32_t>(sequence.blocks.size()) < blocks_for(size)) sequence.blocks.push_back(pool_.allocate());
  sequence.computed = match.tokens;
  sequence.resident = true;
  if (!sequence.admitted) sequence.cached = match.tokens;
  sequence.admitted = true;
  return true;
}

std::span<const StepEntry> Scheduler::next_step() {
  admit();
  step_.clear();
  active_.clear();
  for (Sequence* sequence : resident_) {
    if (!sequence->stalled() && static_cast<int32_t>(active_.size()) < limits_.max_batch) active_.push_back(sequence);
  }
  for (Sequence* sequence : active_) {
    // A victim of an older one is gone from here; it can't be in the step yet, since victims are newer than who needs
    // their blocks, or stalled.
    if (sequence->resident && sequence->pending() == 1 && grow(*sequence)) step_.push_back({sequence, 1});
  }
  const int32_t chunk = step_.empty()
                            ? limits_.prefill_chunk
                            : std::min(limits_.prefill_chunk, std::max(least_chunk, limits_.prefill_chunk / 4));
  int32_t room = std::min(chunk, limits_.max_rows - static_cast<int32_t>(step_.size()));
  for (Sequence* sequence : active_) {
    if (!sequence->resident || sequence->pending() == 1 || room == 0) continue;
    const auto rows = static_cast<int32_t>(std::min<int64_t>(sequence->pending(), room));
    step_.push_back({sequence, rows});
    room -= rows;
  }
  return step_;
}

std::span<const StepEntry> Scheduler::step_ahead() {
  if (!waiting_.empty() || resident_.size() != step_.size()) return {};
  int32_t wanted = 0;
  for (const auto& [sequence, rows] : step_) {
    if (!sequence || rows != 1 || sequence->pending() != 1) return {};
    // The token of the step at hand must leave room for another, in the request and in its reader's queue.
    if (static_cast<int64_t>(sequence->tokens.size()) + 1 >= sequence->most) return {};
    if (sequence->unread + 1 >= sequence->most_unread) return {};
    wanted += std::max(0, blocks_for(sequence->computed + 2) - static_cast<int32_t>(sequence->blocks.size()));
  }
  if (wanted > pool_.free_blocks()) return {};
  for (const StepEntry& entry : step_) {
    std::vector<int32_t>& blocks = entry.sequence->blocks;
    if (static_cast<int32_t>(blocks.size()) < blocks_for(entry.sequence->computed + 2)) blocks.push_back(pool_.allocate());
  }
  ahead_ = step_;
  return ahead_;
}

void Scheduler::commit() {
  for (const StepEntry& entry : step_) {
    if (!entry.sequence) continue;
    entry.sequence->computed += entry.rows;
    publish(*entry.sequence);
  }
  step_.swap(ahead_);
  ahead_.clear();
}

// What a step under way still writes for it goes behind what was published, into blocks that whoever gets them next writes
// after that step.
void Scheduler::leave_steps(const Sequence& sequence) {
  for (auto* list : {&step_, &ahead_}) {
    for (StepEntry& entry : *list)
      if (entry.sequence == &sequence) entry.sequence = nullptr;
  }
}

// Room for one more row. False if the sequence itself had to make way.
bool Scheduler::grow(Sequence& sequence) {
  while (static_cast<int32_t>(sequence.blocks.size()) < blocks_for(sequence.computed + 1)) {
    const int32_t block = pool_.allocate();
    if (block >= 0) {
      sequence.blocks.push_back(block);
      continue;
    }
    Sequence* const idle = victim(true);
    preempt(idle ? *idle : *victim(false));
    if (!sequence.resident) return false;
  }
  return true;
}

// The newest resident sequence, or the newest whose reader doesn't read; nullptr if there is none.
Sequence* Scheduler::victim(bool only_stalled) const {
  const auto found = std::find_if(resident_.rbegin(), resident_.rend(),
                                  [&](const Sequence* s) { return !only_stalled || s->stalled(); });
  return found == resident_.rend() ? nullptr : *found;
}

// Back to the queue, at the place of its age. What was generated stays and is computed again as part of the prompt, so
// the reader sees only a pause.
void Scheduler::preempt(Sequence& sequence) {
  release(sequence);
  erase(resident_, sequence);
  insert(waiting_, sequence);
  ++preemptions_;
}

void Scheduler::publish(Sequence& sequence) {
  const int64_t size = pool_.block_size();
  for (size_t i = sequence.serials.size(); static_cast<int64_t>(i + 1) * size <= sequence.computed; ++i) {
    const std::span<const int32_t> tokens(sequence.tokens.data() + static_cast<int64_t>(i) * size,
                                          static_cast<size_t>(size));
    sequence.serials.push_back(
        pool_.publish(sequence.blocks[i], i == 0 ? KvPool::root : sequence.serials[i - 1], tokens));
  }
}

void Scheduler::release(Sequence& sequence) {
  leave_steps(sequence);
  if (!sequence.resident) return;
  const int64_t size = pool_.block_size();
  const size_t whole = sequence.serials.size();
  if (sequence.computed > static_cast<int64_t>(whole) * size) {
    const int64_t begin = static_cast<int64_t>(whole) * size;
    const std::span<const int32_t> rest(sequence.tokens.data() + begin, static_cast<size_t>(sequence.computed - begin));
    pool_.publish_partial(sequence.blocks[whole], whole == 0 ? KvPool::root : sequence.serials[whole - 1], rest);
  }
  for (auto block = sequence.blocks.rbegin(); block != sequence.blocks.rend(); ++block) pool_.release(*block);
  sequence.blocks.clear();
  sequence.serials.clear();
  sequence.computed = 0;
  sequence.resident = false;
}

bool Scheduler::reserve(int32_t count, std::vector<int32_t>& blocks) {
  if (count > pool_.blocks()) return false;
  blocks.reserve(static_cast<size_t>(count));
  while (pool_.free_blocks() < count) {
    Sequence* const idle = victim(true);
    Sequence* const newest = idle ? idle : victim(false);
    if (!newest) return false;
    preempt(*newest);
  }
  for (int32_t i = 0; i < count; ++i) blocks.push_back(pool_.allocate());
  return true;
}

}  // namespace ern
