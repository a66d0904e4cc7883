// Large memory: anonymous pages in huge pages where the system has them, and files mapped read-only. Owns what it maps
// and nothing else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "status.hpp"

namespace ern {

// One mapping; unmapped at the end.
class Mapping {
 public:
  Mapping() = default;
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  ~Mapping();

  // Zeroed on first touch, and only then backed by memory. Aligned to 2 MiB from that size on. `what` is for the
  // message.
  static Result<Mapping> anonymous(uint64_t bytes, const char* what);
  // The first `bytes` of an open file, read-only and shared with every other mapping of it.
  static Result<Mapping> file(int fd, uint64_t bytes, const std::string& path);

  std::byte* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }
  // Gives the memory behind whole pages of [from, bytes) back; it reads as zeros afterwards. For anonymous mappings.
  void discard(uint64_t from) const;

 private:
  Mapping(std::byte* data, uint64_t bytes, std::byte* mapped, uint64_t mapped_bytes)
      : data_(data), bytes_(bytes), mapped_(mapped), mapped_bytes_(mapped_bytes) {}
  std::byte* data_ = nullptr;
  uint64_t bytes_ = 0;
  std::byte* mapped_ = nullptr;  // what munmap gets: data_ and the slack that aligning left
  uint64_t mapped_bytes_ = 0;
};

// What this process can still take without swapping: MemAvailable, and what is left under the limits of its control
// groups. UINT64_MAX where the system doesn't say.
uint64_t available_memory();

// Does the system give huge pages to who asks for them with madvise?
bool huge_pages_allowed();

}  // namespace ern
