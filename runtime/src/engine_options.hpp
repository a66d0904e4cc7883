// What the caller of an engine chose, after defaults: plain data, the same as ern_engine_options without its C.
#pragma once

#include <cstdint>

#include "weights.hpp"

namespace ern {

struct EngineOptions {
  int32_t threads = 0;  // 0 here and below: the plan's
  WeightsMode weights = WeightsMode::automatic;
  bool verify = false;
  int32_t max_batch = 0;
  int64_t kv_tokens = 0;
  int32_t prefill_chunk = 0;
  int32_t max_queue = 256;
  int32_t max_unread = 64;
};

}  // namespace ern
