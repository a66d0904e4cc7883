#include "generation.hpp"

#include <algorithm>
#include <new>

namespace ern {
namespace {

RandomDraw random_draw(const SamplingParams& params) {
  return {params.temperature, params.top_p, params.min_p, params.top_k, params.seed};
}

}  // namespace

Generation::Generation(const Parts& parts) : parts_(parts) {
  samplers_.reserve(static_cast<size_t>(parts.threads.size()));
  for (int i = 0; i < parts.threads.size(); ++i) samplers_.emplace_back(parts.vocab);
}

void Generation::add(std::unique_ptr<Sequence> sequence) {
  Sequence& added = *sequence;
  try {
    sequences_.try_emplace(added.number, nullptr).first->second = std::move(sequence);
    parts_.scheduler.add(added);
  } catch (const std::bad_alloc&) {
    if (sequence) {
      parts_.queued.fetch_sub(1, std::memory_order_relaxed);
      text_.clear();
      tell(added, nullptr, ERN_FINISH_ERROR, "memory ran out");
    } else {
      end(added, ERN_FINISH_ERROR, "memory ran out", nullptr);
    }
  }
}

void Generation::cancel(uint64_t number) {
  const auto found = sequences_.find(number);
  if (found != sequences_.end()) end(*found->second, ERN_FINISH_CANCELLED, "", nullptr);
}

void Generation::ack(uint64_t number, int64_t tokens) {
  const auto found = sequences_.find(number);
  if (found == sequences_.end()) return;
  Sequence& sequence = *found->second;
  sequence.unread -= std::min(sequence.unread, tokens);
}

void Generation::end_all(ern_finish reason, const char* message) {
  while (!sequences_.empty()) end(*sequences_.begin()->second, reason, message, nullptr);
}

bool Generation::step(bool alone) {
  if (under_way_ == 0) {
    const auto entries = parts_.scheduler.next_step();
    if (entries.empty()) return false;
    begun_at_ = now_ns();
    begin(entries, false);
  }
  const bool ahead = alone && go_ahead();
  StepResult result = parts_.executor.end();
  --under_way_;
  collect(result);
  if (ahead && std::ranges::any_of(draws_, &Draw::reads_logits)) {
    // Only now it shows that the argmax won't do, and the step ahead is over these logits: both once more.
    parts_.executor.end();
    --under_way_;
    parts_.scheduler.drop_ahead();
    begin(parts_.scheduler.step(), false);
    result = parts_.executor.end();
    --under_way_;
    collect(result);
  }
  const int64_t ended = now_ns();
  for (Draw& draw : draws_)
    if (draw.reads_logits) draw.logits = parts_.executor.logits(draw.row);
  int64_t rows = 0;
  for (const StepEntry& entry : parts_.scheduler.step()) rows += entry.rows;
  const bool decode = rows == static_cast<int64_t>(parts_.scheduler.step().size());
  parts_.scheduler.commit();
  sample(draws_);
  Counters& counters = parts_.counters;
  (decode ? counters.decode_steps : counters.prefill_steps) += 1;
  (decode ? counters.decode_tokens : counters.prefill_tokens) += static_cast<uint64_t>(rows);
  (decode ? counters.decode_ns : counters.prefill_ns) += static_cast<uint64_t>(ended - std::max(begun_at_, looked_at_));
  looked_at_ = ended;
  counters.sample_ns += static_cast<uint64_t>(now_ns() - ended);
  for (Draw& draw : draws_) accept(*draw.sequence, std::move(draw.result));
  return true;
}

void Generation::settle() {
  while (under_way_ > 0) step(false);
}

void Generation::abandon(bool device_lost) {
  for (; under_way_ > 0; --under_way_) {
    if (!device_lost) parts_.executor.end();
  }
  parts_.scheduler.drop();
}

void Generation::begin(std::span<const StepEntry> entries, bool ids_of_last) {
  items_.clear();
  int64_t rows = 0;
  // One row further than the step at hand, which is not committed yet.
  const int64_t further = ids_of_last ? 1 : 0;
  for (const auto& [sequence, count] : entries) {
    const int64_t first = sequence->computed + further;
    const bool draws = sequence->pending() == count && !wants_logits(*sequence, further);
    items_.push_back({ids_of_last ? nullptr : sequence->tokens.data() + first, first, count, sequence->blocks,
                      draws ? random_draw(sequence->sampling) : RandomDraw()});
    rows += count;
    if (sequence->started_at != 0) continue;
    sequence->started_at = begun_at_;
    parts_.queued.fetch_sub(1, std::memory_order_relaxed);
    parts_.counters.cached_tokens += static_cast<uint64_t>(sequence->cached);
  }
  const bool decode = rows == static_cast<int64_t>(entries.size());
  parts_.executor.begin(decode ? ProgramKind::decode : ProgramKind::prefill, items_, ids_of_last);
  ++under_way_;
}

// Begins the step after the one under way, where nothing but its tokens is missing.
bool Generation::go_ahead() {
  if (!parts_.executor.runs_ahead()) return false;
  for (const StepEntry& entry : parts_.scheduler.step())
    if (!entry.sequence || wants_logits(*entry.sequence, 0)) return false;
  const auto entries = parts_.scheduler.step_ahead();
  if (entries.empty()) return false;
  begin(entries, true);
  return true;
}

// The rows of the step at hand that a token follows from.
void Generation::collect(const StepResult& result) {
  draws_.clear();
  const auto entries = parts_.scheduler.step();
  for (size_t i = 0; i < entries.size(); ++i) {
    Sequence* const sequence = entries[i].sequence;
    if (!sequence || sequence->pending() > entries[i].rows) continue;  // it left, or more of its prompt is to come
    const int32_t id = result.next_ids ? result.next_ids[i] : -1;
    draws_.push_back({sequence, static_cast<int32_t>(i), id, reads_logits(*sequence, id), nullptr, {}});
  }
}

// Whether the host must see the row of logits, whatever token the device finds. `further`: tokens that the sequence will have more than it has now.
bool Generation::wants_logits(const Sequence& sequence, int64_t further) const {
  const SamplingParams& params = sequence.sampling;
  if (params.logprobs >= 0 || params.penalised() || !params.bias.empty()) return true;
  // What must not come yet would have to be left out of the draw; an argmax that must not come is rare enough to look then.
  return params.temperature != 0 && (!parts_.executor.draws() || too_short(sequence, further));
}

// Whether the device's token is not all that there is to say: then the row is brought to the host.
bool Generation::reads_logits(const Sequence& sequence, int32_t id) const {
  if (id < 0 || wants_logits(sequence, 0)) return true;
  const auto word = static_cast<size_t>(id) / 32;
  if (!parts_.allowed.empty() && (word >= parts_.allowed.size() || (parts_.allowed[word] >> (id % 32) & 1) == 0)) return true;
  return too_short(sequence, 0) && std::ranges::find(sequence.stop_ids, id) != sequence.stop_ids.end();
}

bool Generation::too_short(const Sequence& sequence, int64_t further) {
  return static_cast<int64_t>(sequence.tokens.size()) + further - sequence.prompt < sequence.min_tokens;
}

void Generation::sample(std::vector<Draw>& draws) {
  // Rows that the device has settled cost nothing, so waking the team is worth it from the second row that does.
  if (std::ranges::count_if(draws, &Draw::reads_logits) < 2) {
    for (Draw& draw : draws) draw.result = sample(draw, samplers_.front());
    return;
  }
  std::atomic<size_t> next{0};
  std::atomic<bool> no_memory{false};
  parts_.threads.run([&](Team& team) {
    try {
      for (size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < draws.size();) {
        draws[i].result = sample(draws[i], samplers_[static_cast<size_t>(team.rank)]);
      }
    } catch (const std::bad_alloc&) {
      no_memory = true;
    }
  });
  if (no_memory) throw std::bad_alloc();
}

Sampled Generation::sample(const Draw& draw, Sampler& sampler) const {
  if (!draw.reads_logits) return {draw.next_id, {}};
  const Sequence& sequence = *draw.sequence;
  return sampler.sample(
      {.logits = draw.logits,
       .next_id = draw.next_id,
       .allowed = parts_.allowed,
       .suppressed = too_short(sequence, 0) ? std::span<const int32_t>(sequence.stop_ids) : std::span<const int32_t>(),
       .params = sequence.sampling,
       .counts = sequence.counts,
       .position = sequence.tokens.size()});
}

void Generation::accept(Sequence& sequence, Sampled sampled) {
  if (sampled.id < 0) return end(sequence, ERN_FINISH_ERROR, "the logits hold no number to choose a token by", nullptr);
  sequence.tokens.push_back(sampled.id);
  if (sequence.sampling.penalised()) ++sequence.counts[sampled.id];
  sequence.last_token_at = now_ns();
  if (sequence.first_token_at == 0) sequence.first_token_at = sequence.last_token_at;
  ++sequence.unread;
  text_.clear();
  if (std::ranges::find(sequence.stop_ids, sampled.id) != sequence.stop_ids.end())
    return end(sequence, ERN_FINISH_STOP, "", &sampled);
  if (sequence.text.push(sampled.id, text_)) return end(sequence, ERN_FINISH_STOP, "", &sampled);
  if (static_cast<int64_t>(sequence.tokens.size()) >= sequence.most)
    return end(sequence, ERN_FINISH_LENGTH, "", &sampled);
  tell(sequence, &sampled, ERN_RUNNING, "");
}

// `last`: the token that ended it, whose text is in text_ already.
void Generation::end(Sequence& sequence, ern_finish reason, const char* message, const Sampled* last) {
  if (!last) text_.clear();
  try {
    sequence.text.finish(text_);
  } catch (const std::bad_alloc&) {
    // The end matters more than its last characters.
  }
  if (sequence.started_at == 0) parts_.queued.fetch_sub(1, std::memory_order_relaxed);
  // Whoever hears of the end finds the blocks given back.
  parts_.scheduler.remove(sequence);
  const std::unique_ptr<Sequence> owned = std::move(sequences_.find(sequence.number)->second);
  sequences_.erase(owned->number);
  publish_counters();
  tell(*owned, last, reason, message);
}

void Generation::tell(const Sequence& sequence, const Sampled* last, ern_finish reason, const char* message) {
  ern_event event = {};
  event.request = sequence.number;
  event.text = text_.c_str();
  event.text_bytes = text_.size();
  event.finish = reason;
  event.message = message;
  if (last) {
    event.ids = &last->id;
    event.id_count = 1;
    if (!last->logprobs.empty()) {
      logprobs_.clear();
      for (const auto& [id, logprob] : last->logprobs) logprobs_.push_back({id, logprob});
      event.logprobs = logprobs_.data();
      event.logprob_top = logprobs_.size() - 1;
    }
  }
  if (reason != ERN_RUNNING) {
    const int64_t now = now_ns();
    const auto or_now = [now](int64_t time) { return time != 0 ? time : now; };
    const int64_t started = or_now(sequence.started_at), first = or_now(sequence.first_token_at);
    event.prompt_tokens = sequence.prompt;
    event.cached_tokens = sequence.cached;
    event.completion_tokens = static_cast<int64_t>(sequence.tokens.size()) - sequence.prompt;
    event.queue_ns = started - sequence.submitted_at;
    event.prefill_ns = first - started;
    event.decode_ns = or_now(sequence.last_token_at) - first;
  }
  sequence.on_event(sequence.user, &event);
}

void Generation::publish_counters() {
  Counters& counters = parts_.counters;
  counters.preemptions = parts_.scheduler.preemptions();
  counters.running = parts_.scheduler.resident();
  counters.waiting = parts_.scheduler.waiting();
  counters.free_blocks = static_cast<uint64_t>(parts_.pool.free_blocks());
  counters.cached_blocks = static_cast<uint64_t>(parts_.pool.cached_blocks());
}

}  // namespace ern
