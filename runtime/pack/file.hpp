// Files of the packer: opened, sized, and read and written at positions in full. A call that moves fewer bytes than
// asked is continued, and the end of a source file is an error, because every range was checked against the file's
// size.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "error.hpp"
#include "plan.hpp"

namespace ern::pack {

class File {
 public:
  File() = default;
  File(File&& other) noexcept
      : path_(std::move(other.path_)),
        fd_(std::exchange(other.fd_, -1)),
        unfinished_(std::exchange(other.unfinished_, false)) {}
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  File& operator=(File&&) = delete;
  ~File() {
    if (fd_ >= 0) ::close(fd_);
    if (unfinished_) ::unlink(path_.c_str());
  }

  // Opens for reading and checks that it is a regular file of `bytes` bytes.
  Failure open_source(const std::string& path, int64_t bytes) {
    path_ = path;
    fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // O_NONBLOCK: a pipe must not hold us here
    struct stat info;
    if (fd_ < 0 || ::fstat(fd_, &info) != 0) return errno_error(path_, true);
    if (!S_ISREG(info.st_mode) || info.st_size != bytes) {
      return Error{"source-changed",
                   "found " + std::to_string(info.st_size) + " bytes, expected " + std::to_string(bytes), path_};
    }
    return {};
  }

  // Makes a new file, which goes away again unless `finish` is reached, and reserves its space, so that a full disk
  // shows now and not after a minute.
  Failure create(const std::string& path, int64_t bytes) {
    path_ = path;
    fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd_ < 0) return errno_error(path_, false);
    unfinished_ = true;
    // The system call itself: posix_fallocate would write every block where a file system cannot reserve, and there we
    // find out as we go.
    int result;
    do result = ::fallocate(fd_, 0, 0, std::max(bytes, int64_t{1}));
    while (result != 0 && errno == EINTR);
    if ((result == 0 || errno == EOPNOTSUPP) && ::ftruncate(fd_, bytes) == 0) return {};
    return errno_error(path_, false);
  }

  // Waits until a created file is on the disk; then it stays.
  Failure finish() {
    if (::fsync(fd_) != 0) return errno_error(path_, false);
    unfinished_ = false;
    return {};
  }

  Failure read(void* to, int64_t bytes, int64_t offset) const {
    auto* at = static_cast<char*>(to);
    while (bytes > 0) {
      const ssize_t moved = ::pread(fd_, at, static_cast<size_t>(bytes), offset);
      if (moved < 0 && errno == EINTR) continue;
      if (moved < 0) return errno_error(path_, true);
      if (moved == 0)
        return Error{"source-changed", "found the end of the file at byte " + std::to_string(offset), path_};
      at += moved, offset += moved, bytes -= moved;
    }
    return {};
  }

  Failure write(const void* from, int64_t bytes, int64_t offset) const {
    const auto* at = static_cast<const char*>(from);
    while (bytes > 0) {
      const ssize_t moved = ::pwrite(fd_, at, static_cast<size_t>(bytes), offset);
      if (moved < 0 && errno == EINTR) continue;
      if (moved < 0) return errno_error(path_, false);
      at += moved, offset += moved, bytes -= moved;
    }
    return {};
  }

 private:
  std::string path_;
  int fd_ = -1;
  bool unfinished_ = false;
};

inline Failure open_sources(const Plan& plan, std::vector<File>& files) {
  for (const Source& source : plan.files) {
    files.emplace_back();
    if (Failure failure = files.back().open_source(source.path, source.bytes)) return failure;
  }
  return {};
}

// `rows` runs of `row_bytes`, `stride` apart in the file and side by side in memory.
template <class Move>
Failure move_block(int64_t offset, int64_t rows, int64_t row_bytes, int64_t stride, char* memory, Move move) {
  if (stride == row_bytes) return move(memory, rows * row_bytes, offset);
  for (int64_t row = 0; row < rows; row++) {
    if (Failure failure = move(memory + row * row_bytes, row_bytes, offset + row * stride)) return failure;
  }
  return {};
}

}  // namespace ern::pack
