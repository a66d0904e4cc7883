// A main for fuzz harnesses where there is no libFuzzer: runs each file named, and each file of each folder named, once, and then every file
// shortened and with single bytes changed. With -fsanitize=address,undefined under g++ this is what the test suite runs on the kept corpus.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

// A copy of exactly this size, so that the sanitizer sees a read past the end.
void run(const std::string& bytes, size_t size) {
  const std::vector<uint8_t> exact(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

}  // namespace

int main(int count, char** arguments) {
  std::vector<std::filesystem::path> files;
  for (int i = 1; i < count; i++) {
    if (!std::filesystem::is_directory(arguments[i])) {
      files.emplace_back(arguments[i]);
      continue;
    }
    for (const auto& entry : std::filesystem::directory_iterator(arguments[i])) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  size_t runs = 0;
  for (const auto& path : files) {
    std::ifstream file(path, std::ios::binary);
    std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    run(bytes, bytes.size());
    const size_t step = bytes.size() / 24 + 1;
    for (size_t at = 0; at < bytes.size(); at += step, runs += 2) {
      run(bytes, at);
      std::string bent = bytes;
      bent[at] = static_cast<char>(bent[at] ^ (1 << (at % 8)));
      run(bent, bent.size());
    }
    runs++;
  }
  std::printf("%zu files, %zu runs\n", files.size(), runs);
  return files.empty() ? 2 : 0;
}
