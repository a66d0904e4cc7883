#include "control_groups.hpp"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <memory>

namespace ern {
namespace {

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

// A file that holds one number; UINT64_MAX for "max", and where there is none.
uint64_t read_number(const std::string& path) {
  const File file(std::fopen(path.c_str(), "re"));
  uint64_t value = 0;
  return file && std::fscanf(file.get(), "%" SCNu64, &value) == 1 ? value : UINT64_MAX;
}

uint64_t cached_files(const std::string& folder) {
  const File file(std::fopen((folder + "/memory.stat").c_str(), "re"));
  char line[256];
  uint64_t bytes = 0;
  while (file && std::fgets(line, sizeof line, file.get())) {
    if (std::sscanf(line, "file %" SCNu64, &bytes) == 1) return bytes;
  }
  return 0;
}

}  // namespace

std::vector<std::string> control_groups() {
  const File file(std::fopen("/proc/self/cgroup", "re"));
  char line[4096];
  std::string group;
  while (file && std::fgets(line, sizeof line, file.get())) {
    if (std::strncmp(line, "0::/", 4) == 0) group.assign(line + 3, std::strcspn(line + 3, "\n"));
  }
  std::vector<std::string> folders;
  while (!group.empty()) {
    if (group.back() == '/') group.pop_back();
    folders.push_back("/sys/fs/cgroup" + group);
    if (group.empty()) break;
    group.resize(group.rfind('/') + 1);
  }
  return folders;
}

int32_t cpu_quota() {
  int32_t least = INT32_MAX;
  for (const std::string& folder : control_groups()) {
    const File file(std::fopen((folder + "/cpu.max").c_str(), "re"));
    uint64_t quota = 0, period = 0;  // microseconds of processor time in each period; "max" for no quota
    if (!file || std::fscanf(file.get(), "%" SCNu64 " %" SCNu64, &quota, &period) != 2 || period == 0) continue;
    least = static_cast<int32_t>(
        std::min<uint64_t>(static_cast<uint64_t>(least), std::max<uint64_t>(1, (quota + period - 1) / period)));
  }
  return least;
}

uint64_t memory_left() {
  uint64_t least = UINT64_MAX;
  for (const std::string& folder : control_groups()) {
    const uint64_t limit = read_number(folder + "/memory.max"), used = read_number(folder + "/memory.current");
    if (limit == UINT64_MAX || used == UINT64_MAX) continue;
    const uint64_t held = used - std::min(used, cached_files(folder));
    least = std::min(least, limit - std::min(limit, held));
  }
  return least;
}

}  // namespace ern
