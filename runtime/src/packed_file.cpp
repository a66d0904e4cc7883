#include "packed_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "counters.hpp"
#include "pieces.hpp"
#include "sha256.hpp"

namespace ern {
namespace {

constexpr double grace = 0.02;  // seconds before the speed of a copy is judged

// errno, or 0; -1 for a file that ends early.
int read_at(int fd, std::byte* to, uint64_t at, uint64_t bytes) {
  while (bytes > 0) {
    const ssize_t count = ::pread(fd, to, bytes, static_cast<off_t>(at));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return count < 0 ? errno : -1;
    to += count, at += static_cast<uint64_t>(count), bytes -= static_cast<uint64_t>(count);
  }
  return 0;
}

Status read_failed(const std::string& path, int error) {
  if (error < 0) return {Code::corrupt, path + ": it ends early: the file was changed"};
  return {error == ENOENT ? Code::not_found : Code::io, path + ": " + std::strerror(error)};
}

}  // namespace

Result<PackedFile> PackedFile::open(const Plan& plan, const Package& package) {
  const std::string& path = package.weights_path();
  PackedFile file(plan, package, ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.fd_ < 0 || fstat(file.fd_, &file.info_) != 0) return read_failed(path, errno);
  const auto size = static_cast<uint64_t>(file.info_.st_size);
  if (!S_ISREG(file.info_.st_mode) || size != plan.weights_file.bytes || size != package.weights().bytes) {
    return Status{Code::corrupt, path + ": " + std::to_string(size) + " bytes, expected " +
                                     std::to_string(plan.weights_file.bytes) + ": the file was changed"};
  }
  return file;
}

PackedFile::PackedFile(PackedFile&& other) noexcept
    : plan_(other.plan_), package_(other.package_), fd_(std::exchange(other.fd_, -1)), info_(other.info_) {}

PackedFile::~PackedFile() {
  if (fd_ >= 0) ::close(fd_);
}

Result<std::vector<std::byte>> PackedFile::read_header() const {
  std::vector<std::byte> header(plan_->weights_file.data_offset);
  if (const int error = read_at(fd_, header.data(), 0, header.size()))
    return read_failed(package_->weights_path(), error);
  return header;
}

Status PackedFile::check_header() const {
  const auto header = read_header();
  if (!header.ok()) return header.status();
  if (sha256_hex(header.value()) == plan_->weights_file.header_sha256) return {};
  return {Code::corrupt, package_->weights_path() +
                             ": its header is not the one that this library was built for: the file was changed"};
}

Result<Mapping> PackedFile::map() const {
  auto mapping = Mapping::file(fd_, plan_->weights_file.bytes, package_->weights_path());
  // Only advice: a failure changes nothing but the speed of the first pass.
  if (mapping.ok() && plan_->weights_file.bytes < available_memory())
    madvise(mapping.value().data(), plan_->weights_file.bytes, MADV_WILLNEED);
  return mapping;
}

Result<Mapping> PackedFile::copy(ThreadPool& pool, double slowest) const {
  auto mapping = Mapping::anonymous(plan_->weights_bytes, "weights");
  if (!mapping.ok()) return mapping;
  posix_fadvise(fd_, 0, 0, POSIX_FADV_SEQUENTIAL);
  constexpr int too_slow = -2;
  std::atomic<int> failed{0};
  std::atomic<uint64_t> done{0};
  const int64_t start = now_ns();
  in_pieces(pool, plan_->weights_bytes, [&](uint64_t begin, uint64_t end) {
    if (failed.load(std::memory_order_relaxed) != 0) return;
    if (const int error =
            read_at(fd_, mapping.value().data() + begin, plan_->weights_file.data_offset + begin, end - begin))
      failed = error;
    const auto bytes = static_cast<double>(done.fetch_add(end - begin) + (end - begin));
    if (slowest > 0 && static_cast<double>(now_ns() - start) * 1e-9 > grace + bytes / slowest) failed = too_slow;
  });
  if (failed == too_slow) return Status{Code::busy, "copying the weights is slow now"};
  if (failed != 0) return read_failed(package_->weights_path(), failed);
  return mapping;
}

Status PackedFile::verify(const std::byte* data) const {
  const auto header = read_header();
  if (!header.ok()) return header.status();
  Sha256 hash;
  hash.update(header.value());
  hash.update(data, plan_->weights_bytes);
  const std::string found = hash.finish_hex();
  const std::string& expected = package_->weights().sha256;
  if (found == expected) return {};
  return {Code::corrupt,
          package_->weights_path() + ": SHA-256 is " + found + ", expected " + expected + ": the file was changed"};
}

std::string PackedFile::identity() const {
  std::string id;
  for (const auto part :
       {static_cast<int64_t>(info_.st_dev), static_cast<int64_t>(info_.st_ino), static_cast<int64_t>(info_.st_size),
        static_cast<int64_t>(info_.st_mtim.tv_sec), static_cast<int64_t>(info_.st_mtim.tv_nsec)}) {
    id += std::to_string(part) + " ";
  }
  return id;
}

}  // namespace ern
