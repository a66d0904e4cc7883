// Writes package folders for tests: files, and a manifest that tells the truth about them unless a test changes it.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <span>
#include <string>

#include "sha256.hpp"

namespace test {

inline std::string hash_of(const std::string& bytes) { return ern::sha256_hex(std::as_bytes(std::span(bytes))); }

class PackageFolder {
 public:
  explicit PackageFolder(std::string build_id) : build_id_(std::move(build_id)) {
    std::string pattern = (std::filesystem::temp_directory_path() / "ern-package-XXXXXX").string();
    if (!mkdtemp(pattern.data())) std::abort();
    root_ = pattern;
  }
  ~PackageFolder() { std::filesystem::remove_all(root_); }
  PackageFolder(const PackageFolder&) = delete;

  const std::string& path() const { return root_; }
  std::string build() const { return root_ + "/build-0123abcd"; }

  // Puts the file there and into the list.
  void add(const std::string& name, const std::string& bytes) {
    overwrite(name, bytes);
    list(name, hash_of(bytes), bytes.size());
  }
  // The file alone: the list then lies.
  void overwrite(const std::string& name, const std::string& bytes) {
    const std::string path = build() + "/" + name;
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::ofstream(path, std::ios::binary) << bytes;
  }
  // The list alone.
  void list(const std::string& name, const std::string& sha256, size_t bytes) {
    listed_[name] = "{\"sha256\":\"" + sha256 + "\",\"bytes\":" + std::to_string(bytes) + "}";
    std::string text =
        R"({"format":1,"compiler":"test","build":"build-0123abcd","build_id":")" + build_id_ + R"(","files":{)";
    for (const auto& [each, entry] : listed_) text += (text.back() == '{' ? "\"" : ",\"") + each + "\":" + entry;
    write_manifest(text + "}}");
  }
  void write_manifest(const std::string& text) { std::ofstream(root_ + "/manifest.json", std::ios::binary) << text; }

 private:
  std::string build_id_, root_;
  std::map<std::string, std::string> listed_;
};

}  // namespace test
