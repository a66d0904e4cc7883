// Numbers that the engine's thread counts and any thread may read. Each is exact by itself; together they are a
// moment's picture.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace ern {

// Nanoseconds of a clock that never goes back.
inline int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

class Counter {
 public:
  void operator+=(uint64_t more) {
    value_.store(value_.load(std::memory_order_relaxed) + more, std::memory_order_relaxed);
  }  // one writer
  void operator=(uint64_t value) { value_.store(value, std::memory_order_relaxed); }
  operator uint64_t() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

struct Counters {
  Counter load_ns;
  Counter prefill_steps, prefill_tokens, prefill_ns;
  Counter decode_steps, decode_tokens, decode_ns;
  Counter sample_ns, preemptions, cached_tokens;
  Counter running, waiting;
  Counter free_blocks, cached_blocks;
};

}  // namespace ern
