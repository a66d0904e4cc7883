#include "memory.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>

#include "control_groups.hpp"

namespace ern {
namespace {

constexpr uint64_t huge_page = uint64_t{2} << 20;
constexpr uint64_t page = 4096;
constexpr uint64_t most = uint64_t{1} << 47;  // the address space of a process: larger sizes would only overflow below

uint64_t round_up(uint64_t bytes, uint64_t unit) { return (bytes + unit - 1) / unit * unit; }

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

}  // namespace

Mapping::Mapping(Mapping&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      mapped_(std::exchange(other.mapped_, nullptr)),
      mapped_bytes_(std::exchange(other.mapped_bytes_, 0)) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(mapped_, other.mapped_);
  std::swap(mapped_bytes_, other.mapped_bytes_);
  return *this;
}

Mapping::~Mapping() {
  if (mapped_) munmap(mapped_, mapped_bytes_);
}

Result<Mapping> Mapping::anonymous(uint64_t bytes, const char* what) {
  const auto failure = [&](const char* why) {
    return Status{Code::out_of_memory, std::string(what) + ": no room for " + std::to_string(bytes) + " bytes: " + why};
  };
  if (bytes > most) return failure("more than an address space");
  // Huge pages need an address that is a multiple of their size: map a little more and start inside it.
  const bool huge = bytes >= huge_page;
  const uint64_t size = round_up(std::max<uint64_t>(bytes, 1), huge ? huge_page : page);
  const uint64_t mapped_size = huge ? size + huge_page : size;
  void* mapped = mmap(nullptr, mapped_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return failure(std::strerror(errno));
  auto* data = static_cast<std::byte*>(mapped);
  if (huge) {
    data = reinterpret_cast<std::byte*>(round_up(reinterpret_cast<uint64_t>(mapped), huge_page));
    madvise(data, size, MADV_HUGEPAGE);  // fine where it fails: the pages are small then
  }
  return Mapping(data, bytes, static_cast<std::byte*>(mapped), mapped_size);
}

Result<Mapping> Mapping::file(int fd, uint64_t bytes, const std::string& path) {
  if (bytes == 0 || bytes > most)
    return Status{Code::corrupt, path + ": a size of " + std::to_string(bytes) + " bytes"};
  void* mapped = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
  if (mapped == MAP_FAILED)
    return Status{errno == ENOMEM ? Code::out_of_memory : Code::io, path + ": " + std::strerror(errno)};
  return Mapping(static_cast<std::byte*>(mapped), bytes, static_cast<std::byte*>(mapped), bytes);
}

void Mapping::discard(uint64_t from) const {
  from = round_up(from, page);
  if (from < bytes_) madvise(data_ + from, bytes_ - from, MADV_DONTNEED);
}

uint64_t available_memory() {
  const File file(std::fopen("/proc/meminfo", "re"));
  char line[256];
  uint64_t kib = 0, available = UINT64_MAX;
  while (file && std::fgets(line, sizeof line, file.get())) {
    if (std::sscanf(line, "MemAvailable: %" SCNu64 " kB", &kib) == 1) available = kib * 1024;
  }
  return std::min(available, memory_left());
}

bool huge_pages_allowed() {
  const File file(std::fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re"));
  char line[128] = "";
  return file && std::fgets(line, sizeof line, file.get()) && !std::strstr(line, "[never]");
}

}  // namespace ern
