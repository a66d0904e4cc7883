// One request while it is in the engine: its tokens, how far the cache has them, and what its reader has taken. Plain
// data: the scheduler moves it, generation.cpp lengthens it. The engine's thread alone touches it once it was
// submitted.
#pragma once

#include <cstdint>
#include <vector>

#include "include/ern.h"
#include "sampler.hpp"
#include "text_stream.hpp"

namespace ern {

struct Sequence {
  uint64_t number = 0;          // order of arrival, never used again
  std::vector<int32_t> tokens;  // the prompt, then what was generated
  int64_t prompt = 0;           // tokens of the prompt
  int64_t most = 0;             // tokens.size() never exceeds it
  int64_t min_tokens = 0;
  SamplingParams sampling;
  TokenCounts counts;             // of `tokens`, if penalties ask for it
  std::vector<int32_t> stop_ids;  // the model's and the request's own
  TextStream text;
  ern_event_fn on_event = nullptr;
  void* user = nullptr;

  // In the cache. A sequence is resident (holds blocks) or waits; tokens[0, computed) are in its blocks, in order.
  bool resident = false;
  std::vector<int32_t> blocks;
  std::vector<uint64_t> serials;  // of the leading whole blocks: their nodes in the pool
  int64_t computed = 0;
  int64_t pending() const {
    return static_cast<int64_t>(tokens.size()) - computed;
  }  // at least 1: the last token is never computed before it is needed

  // The reader.
  int64_t unread = 0;
  int64_t most_unread = 0;
  bool stalled() const { return unread >= most_unread; }

  // Numbers for the last event; times in ns of the steady clock, 0: not yet.
  bool admitted = false;  // once: what was cached counts at the first admission only
  int64_t cached = 0;
  int64_t submitted_at = 0, started_at = 0, first_token_at = 0, last_token_at = 0;
};

}  // namespace ern
