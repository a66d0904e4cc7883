// The file of packed weights on its way into memory: opened, checked against the plan and the manifest, mapped or
// copied. Who shares the result is weights.cpp's business.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <string>

#include "loader.hpp"
#include "memory.hpp"
#include "plan.hpp"
#include "status.hpp"
#include "threads.hpp"

namespace ern {

class PackedFile {
 public:
  // Checks that it is a file of the size that plan and manifest give.
  static Result<PackedFile> open(const Plan& plan, const Package& package);
  PackedFile(PackedFile&& other) noexcept;
  PackedFile& operator=(PackedFile&&) = delete;
  ~PackedFile();

  // The bytes before the data are those that the library was built for.
  Status check_header() const;
  // The whole file, read-only, left in the page cache. The data begins at data_offset.
  Result<Mapping> map() const;
  // The data alone, in huge pages, read by all threads of the pool. With `slowest` > 0 (bytes a second) it gives up
  // with `busy` when it goes slower than that.
  Result<Mapping> copy(ThreadPool& pool, double slowest) const;
  // SHA-256 of header and data, over the bytes that kernels will read: a file that changes in between doesn't matter.
  Status verify(const std::byte* data) const;

  // Tells files apart on this system, and the same file before and after a change.
  std::string identity() const;

 private:
  PackedFile(const Plan& plan, const Package& package, int fd) : plan_(&plan), package_(&package), fd_(fd) {}
  Result<std::vector<std::byte>> read_header() const;

  const Plan* plan_;
  const Package* package_;
  int fd_;
  struct stat info_ = {};
};

}  // namespace ern
