// SHA-256 (FIPS 180-4), for checking a package's files at load. Uses the CPU's SHA instructions where it has them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace ern {

class Sha256 {
 public:
  Sha256();
  void update(std::span<const std::byte> data);
  void update(const void* data, size_t size) { update({static_cast<const std::byte*>(data), size}); }
  // Ends the message; the object must not be updated afterwards.
  std::array<uint8_t, 32> finish();
  // finish() as 64 lower-case hexadecimal digits.
  std::string finish_hex();

  // For tests: false makes objects created afterwards take the portable way. Not for use while other threads hash.
  static void allow_hardware(bool allow);

 private:
  using Compress = void (*)(uint32_t* state, const uint8_t* blocks, size_t count);
  Compress compress_;
  uint32_t state_[8];
  uint64_t size_ = 0;       // bytes so far
  uint8_t block_[64];       // size_ % 64 of them are waiting
};

std::string sha256_hex(std::span<const std::byte> data);

}  // namespace ern
