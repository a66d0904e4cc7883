// The weights in memory: the packed file mapped or copied, or numbers made up. Read-only once loaded, and shared by all
// engines of a process that want the same ones. What lies where in them is the plan's business.
#pragma once

#include <cstdint>
#include <memory>

#include "loader.hpp"
#include "memory.hpp"
#include "plan.hpp"
#include "status.hpp"
#include "threads.hpp"

namespace ern {

// Same order as ERN_WEIGHTS_... in ern.h.
enum class WeightsMode : int { automatic = 0, map, copy };

class Weights {
 public:
  // Map leaves the bytes in the page cache: nothing is read before it is needed, and processes share them. Copy reads
  // them into huge pages with all threads of the pool: fewer misses of the address cache when they are streamed.
  // Automatic copies where there are huge pages and room, as long as it goes fast; from a cold disk, say, it maps.
  // Always checks the file's size and its header's SHA-256; with `verify` every byte.
  static Result<std::shared_ptr<const Weights>> load(const Plan& plan, const Package& package, WeightsMode mode,
                                                     bool verify, ThreadPool& pool);

  Weights(Mapping mapping, uint64_t offset, WeightsMode mode)
      : mapping_(std::move(mapping)), offset_(offset), mode_(mode) {}
  const std::byte* data() const { return mapping_.data() + offset_; }
  WeightsMode mode() const { return mode_; }  // map or copy; made-up weights count as copy

 private:
  Mapping mapping_;
  uint64_t offset_;  // of the data
  WeightsMode mode_;
};

}  // namespace ern
