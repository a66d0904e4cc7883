// Large memory handled by all threads, a piece at a time.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "threads.hpp"

namespace ern {

// Several huge pages, and small enough that all threads end together.
inline constexpr uint64_t piece_bytes = uint64_t{8} << 20;

// Calls work(begin, end) for the pieces of [0, bytes), from all threads of the pool; returns when all are done.
template <class Work>
void in_pieces(ThreadPool& pool, uint64_t bytes, const Work& work) {
  std::atomic<uint64_t> next{0};
  pool.run([&](Team&) {
    for (uint64_t begin; (begin = next.fetch_add(piece_bytes, std::memory_order_relaxed)) < bytes;)
      work(begin, std::min(bytes, begin + piece_bytes));
  });
}

}  // namespace ern
