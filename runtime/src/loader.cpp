#include "loader.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "sha256.hpp"

namespace ern {
namespace {

constexpr uint64_t largest_file = uint64_t{1} << 30;  // of what is read whole: code and tables
constexpr uint64_t largest_manifest = uint64_t{16} << 20;

struct Descriptor {
  explicit Descriptor(const std::string& path) : fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {}
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  const int fd;
};

Status io_error(const std::string& path) {
  const int error = errno;
  return {error == ENOENT || error == ENOTDIR ? Code::not_found : Code::io, path + ": " + std::strerror(error)};
}

// The whole of a regular file of `least` to `most` bytes. The size is looked up before anything is allocated.
Result<std::vector<std::byte>> read_file(const std::string& path, uint64_t least, uint64_t most) {
  const Descriptor file(path);  // without waiting: a pipe of this name would make us
  struct stat info;
  if (file.fd < 0 || fstat(file.fd, &info) != 0) return io_error(path);
  if (!S_ISREG(info.st_mode)) return Status{Code::corrupt, path + ": not a file"};
  const auto size = static_cast<uint64_t>(info.st_size);
  if (size < least || size > most) {
    return Status{Code::corrupt, path + ": " + std::to_string(size) + " bytes, expected " +
                                     (least == most ? "" : "at most ") + std::to_string(most)};
  }
  std::vector<std::byte> bytes(size);
  for (size_t at = 0; at < size;) {
    const ssize_t count = ::read(file.fd, bytes.data() + at, size - at);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return io_error(path);
    if (count == 0) return Status{Code::corrupt, path + ": it got shorter while it was read"};
    at += static_cast<size_t>(count);
  }
  return bytes;
}

Result<std::vector<std::byte>> read_checked(const std::string& folder, const ManifestFile& listed) {
  const std::string path = folder + "/" + listed.path;
  if (listed.bytes > largest_file)
    return Status{Code::corrupt, path + ": the manifest gives it " + std::to_string(listed.bytes) + " bytes"};
  auto bytes = read_file(path, listed.bytes, listed.bytes);
  if (!bytes.ok()) return bytes;
  const std::string found = sha256_hex(bytes.value());
  if (found != listed.sha256)
    return Status{Code::corrupt,
                  path + ": SHA-256 is " + found + ", expected " + listed.sha256 + ": the file was changed"};
  return bytes;
}

std::string_view as_text(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

Result<Package> Package::open(const std::string& folder, const Plan& plan) {
  Package package;
  if (folder.empty()) return package;
  const auto text = read_file(folder + "/manifest.json", 0, largest_manifest);
  if (!text.ok()) return text.status();
  const auto parsed = parse_manifest(as_text(text.value()));
  if (!parsed.ok()) return Status{parsed.status().code(), folder + "/" + parsed.status().message()};
  const Manifest& manifest = parsed.value();
  if (manifest.build_id != plan.build_id) {
    return Status{Code::corrupt, folder + "/manifest.json: build " + manifest.build_id +
                                     ", but the library is of build " + plan.build_id};
  }
  const std::string build = folder + "/" + manifest.build;
  for (const ManifestFile& file : manifest.files) {
    if (plan.weights_file.name && file.path == plan.weights_file.name) {
      package.weights_ = file;
      package.weights_path_ = build + "/" + file.path;
      continue;
    }
    auto bytes = read_checked(build, file);
    if (!bytes.ok()) return bytes.status();
    if (file.path == "tokenizer.model") package.tokenizer_model_ = std::move(bytes.value());
    if (file.path == "text.json") package.text_json_ = as_text(bytes.value());
  }
  if (plan.weights_file.name && package.weights_path_.empty()) {
    return Status{Code::corrupt, folder + "/manifest.json: " + plan.weights_file.name + " is not listed"};
  }
  return package;
}

Result<TextParts> Package::load_text(const Plan& plan) {
  TextParts text;
  if (text_json_.empty()) {
    if (tokenizer_model_.empty()) return text;
    return Status{Code::corrupt, "the package has a tokenizer.model, but no text.json"};
  }
  const auto config = parse_text_config(text_json_);
  if (!config.ok()) return Status{config.status().code(), "text.json: " + config.status().message()};
  if (config.value().vocab_size != plan.vocab_size) {
    return Status{Code::corrupt, "text.json: a vocabulary of " + std::to_string(config.value().vocab_size) +
                                     ", expected " + std::to_string(plan.vocab_size)};
  }
  text.stop_ids = config.value().stop_ids;
  text.generation = config.value().generation;
  if (tokenizer_model_.empty()) return text;
  auto tokenizer = Tokenizer::load(tokenizer_model_, text_json_);
  if (!tokenizer.ok()) return tokenizer.status();
  text.tokenizer = std::move(tokenizer.value());
  tokenizer_model_ = {};
  text_json_ = {};
  return text;
}

}  // namespace ern
