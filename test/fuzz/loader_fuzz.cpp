// libFuzzer harness: any bytes as a package. The input is a package in one string, `name NUL bytes NUL NUL` for each
// file ("manifest.json" first of all; others lie in the build folder), written to a folder and opened as the engine
// does; and its first file alone as a manifest.
//
//   S=runtime/src; clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -Iruntime -I$S
//   test/fuzz/loader_fuzz.cpp $S/*.cpp -pthread -o loader_fuzz
//   ./loader_fuzz -max_total_time=60 new/ test/fuzz/corpus/loader
//
// Without clang: test/fuzz/replay.cpp runs the kept corpus. test/fuzz/loader_seeds.mjs writes it.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "loader.hpp"
#include "manifest.hpp"
#include "packed_file.hpp"
#include "plan.hpp"
#include "threads.hpp"
#include "weights.hpp"

// A plan of no model: 256 bytes of header, 64 of weights.
constinit const ern::Plan ern::model_plan = {
    .abi = ern::plan_abi,
    .arch = ern::ArchLevel::x86_64_v3,
    .build_id = "fuzz",
    .info_json = "{}",
    .vocab_size = 400,
    .embedding_rows = 400,
    .max_context = 64,
    .max_batch = 1,
    .prefill_chunk = 1,
    .threads = 1,
    .kv_block_size = 16,
    .kv_block_bytes = 64,
    .kv_tokens = 64,
    .weights_bytes = 64,
    .weights_file = {"weights.safetensors", 320, 256,
                     "e770f82df9f292cbdbb5b4113162e57af8db285aff6d421048e5a653caa78311"},
    .synthetic_seed = 0,
    .synthetic = nullptr,
    .synthetic_count = 0,
    .programs = nullptr,
    .program_count = 0,
};

namespace {

namespace fs = std::filesystem;

void require(bool condition) {
  if (!condition) std::abort();
}

// Takes up to the next `end` off the front.
std::string_view take(std::string_view& rest, std::string_view end) {
  const size_t at = rest.find(end);
  const std::string_view part = rest.substr(0, at);
  rest.remove_prefix(at == rest.npos ? rest.size() : at + end.size());
  return part;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fs::path root = [] {
    std::string pattern = (fs::temp_directory_path() / "ern-fuzz-XXXXXX").string();
    require(mkdtemp(pattern.data()) != nullptr);
    std::atexit([] { fs::remove_all(root); });
    return fs::path(pattern);
  }();
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  std::string build = "build-0";
  for (int files = 0; files < 6 && !rest.empty(); ++files) {
    const std::string name(take(rest, std::string_view("\0", 1)));
    const std::string bytes(take(rest, std::string_view("\0\0", 2)));
    if (name == "manifest.json") {
      const auto manifest = ern::parse_manifest(bytes);
      if (manifest.ok()) {
        build = manifest.value().build;
        require(ern::is_plain_path(build) && build.find('/') == build.npos);
        for (const auto& file : manifest.value().files)
          require(ern::is_plain_path(file.path) && file.sha256.size() == 64);
      } else {
        require(!manifest.status().message().empty());
      }
      std::ofstream(root / name, std::ios::binary) << bytes;
    } else if (ern::is_plain_path(name) && name.find('/') == name.npos) {
      fs::create_directories(root / build);
      std::ofstream(root / build / name, std::ios::binary) << bytes;
    }
  }
  auto package = ern::Package::open(root.string(), ern::model_plan);
  if (package.ok()) {
    (void)package.value().load_text(ern::model_plan);
    static const auto pool = ern::ThreadPool::create(1);
    for (const auto mode : {ern::WeightsMode::map, ern::WeightsMode::copy}) {
      const auto weights = ern::Weights::load(ern::model_plan, package.value(), mode, true, *pool.value());
      if (weights.ok()) require(weights.value()->data() != nullptr);
    }
  }
  for (const auto& entry : fs::directory_iterator(root)) fs::remove_all(entry.path());
  return 0;
}
