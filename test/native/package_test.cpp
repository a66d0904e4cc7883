// Packages on disk: what is whole loads in every way and gives the same tokens; what was changed, cut, or points
// elsewhere is refused, with a word on what.
#include <fcntl.h>
#include <sys/stat.h>

#include <chrono>
#include <memory>

#include "check.hpp"
#include "fake_plan.hpp"
#include "memory.hpp"
#include "package_folder.hpp"
#include "reader.hpp"

using namespace ern;
using test::PackageFolder;
using test::Reader;

constinit const Plan ern::model_plan = fake::make_plan();

namespace {

// The fake model with its weights in a file: the same numbers that synthetic ones have, so the same tokens must come.
struct Packed {
  std::string header = std::string(256, ' '), header_sha256 = test::hash_of(header);
  std::string bytes;
  Plan plan = fake::make_plan();

  Packed() {
    std::string data(plan.weights_bytes, '\0');
    const auto values = fake::weight_values();
    std::memcpy(data.data() + 256, values.data(), values.size() * 4);
    bytes = header + data;
    plan.synthetic = nullptr;
    plan.synthetic_count = 0;
    plan.weights_file = {"weights.safetensors", bytes.size(), header.size(), header_sha256.c_str()};
  }
};

void fill(PackageFolder& folder, const Packed& packed) {
  folder.add("lib/libern_model.so", "the library");
  folder.add("src/plan.cpp", "the plan");
  folder.add("weights.safetensors", packed.bytes);
}

void refused(const PackageFolder& folder, const Plan& plan, Code code, const std::string& word,
             const EngineOptions& options = {}) {
  const auto engine = Engine::create(folder.path(), plan, options);
  CHECK(!engine.ok());
  if (engine.ok()) return;
  CHECK_EQUAL(static_cast<int>(engine.status().code()), static_cast<int>(code), engine.status().message());
  CHECK(engine.status().message().find(word) != std::string::npos);
  if (engine.status().message().find(word) == std::string::npos)
    std::fprintf(stderr, "  not about %s: %s\n", word.c_str(), engine.status().message().c_str());
}

void whole() {
  const Packed packed;
  PackageFolder folder("fake-1");
  fill(folder, packed);
  for (const WeightsMode mode : {WeightsMode::automatic, WeightsMode::map, WeightsMode::copy}) {
    for (const bool verify : {false, true}) {
      EngineOptions options;
      options.weights = mode;
      options.verify = verify;
      auto engine = Engine::create(folder.path(), packed.plan, options);
      CHECK(engine.ok());
      if (!engine.ok()) std::fprintf(stderr, "%s\n", engine.status().message().c_str());
      if (mode != WeightsMode::automatic) CHECK(engine.value()->weights_mode() == mode);
      Reader reader({1, 2, 3}, 20);
      CHECK(reader.submit(*engine.value()).ok());
      reader.wait();
      CHECK_EQUAL(reader.ids, fake::expected_continuation(reader.prompt, 20));
    }
  }
  // Two engines share one copy, and a new file is not taken for the old one.
  EngineOptions options;
  options.weights = WeightsMode::copy;
  const auto first = Engine::create(folder.path(), packed.plan, options);
  std::string other = packed.bytes;
  other[600] = static_cast<char>(other[600] ^ 64);
  folder.overwrite("weights.safetensors", other);
  refused(folder, packed.plan, Code::corrupt, "SHA-256", [] {
    EngineOptions checked;
    checked.verify = true;
    return checked;
  }());
}

void changed() {
  const Packed packed;
  const auto with = [&](auto change, Code code, const std::string& word) {
    PackageFolder folder("fake-1");
    fill(folder, packed);
    change(folder);
    refused(folder, packed.plan, code, word);
  };
  with([](PackageFolder& f) { f.overwrite("lib/libern_model.so", "the librarY"); }, Code::corrupt, "libern_model.so");
  with([](PackageFolder& f) { f.overwrite("src/plan.cpp", "the plan "); }, Code::corrupt, "9 bytes, expected 8");
  with([](PackageFolder& f) { std::filesystem::remove(f.build() + "/src/plan.cpp"); }, Code::not_found, "plan.cpp");
  with([](PackageFolder& f) { std::filesystem::remove(f.path() + "/manifest.json"); }, Code::not_found,
       "manifest.json");
  with([](PackageFolder& f) { std::filesystem::remove(f.build() + "/weights.safetensors"); }, Code::not_found,
       "weights.safetensors");
  with([&](PackageFolder& f) { f.overwrite("weights.safetensors", packed.bytes.substr(0, packed.bytes.size() - 1)); },
       Code::corrupt, "weights.safetensors");
  with([&](PackageFolder& f) { f.overwrite("weights.safetensors", packed.bytes + "x"); }, Code::corrupt,
       "weights.safetensors");
  with(
      [&](PackageFolder& f) {
        std::string bytes = packed.bytes;
        bytes[3] = 'x';
        f.overwrite("weights.safetensors", bytes);
      },
      Code::corrupt, "header");
  // The list agrees with the file, but the library was built for another.
  with([&](PackageFolder& f) { f.add("weights.safetensors", packed.bytes + "x"); }, Code::corrupt,
       "weights.safetensors");
  with(
      [](PackageFolder& f) {
        std::filesystem::remove(f.build() + "/src/plan.cpp");
        mkfifo((f.build() + "/src/plan.cpp").c_str(), 0600);  // reading it would wait for ever
      },
      Code::corrupt, "not a file");
  with(
      [](PackageFolder& f) {
        std::filesystem::remove(f.build() + "/weights.safetensors");
        mkfifo((f.build() + "/weights.safetensors").c_str(), 0600);
      },
      Code::corrupt, "weights.safetensors");
  with([](PackageFolder& f) { f.add("tokenizer.model", "not protobuf"); }, Code::corrupt, "text.json");
  with(
      [](PackageFolder& f) {
        f.add("tokenizer.model", "not protobuf"), f.add("text.json", R"({"format":1,"vocab_size":97})");
      },
      Code::corrupt, "");
  with([](PackageFolder& f) { f.add("text.json", R"({"format":1,"vocab_size":98})"); }, Code::corrupt, "98");
  PackageFolder other("fake-2");
  fill(other, packed);
  refused(other, packed.plan, Code::corrupt, "fake-2");
  PackageFolder unlisted("fake-1");
  unlisted.add("lib/libern_model.so", "the library");
  unlisted.overwrite("weights.safetensors", packed.bytes);
  refused(unlisted, packed.plan, Code::corrupt, "not listed");
}

void lying_manifests() {
  const Packed packed;
  PackageFolder folder("fake-1");
  fill(folder, packed);
  const std::string digits(64, 'a');
  const auto with = [&](const std::string& manifest, const std::string& word) {
    folder.write_manifest(manifest);
    refused(folder, packed.plan, Code::corrupt, word);
  };
  const auto files = [](const std::string& entries) {
    return R"({"format":1,"build":"build-0123abcd","build_id":"fake-1","files":{)" + entries + "}}";
  };
  with("", "manifest.json");
  with("{", "manifest.json");
  with("[]", "format");
  with(R"({"format":2})", "format");
  for (const char* build : {"", "build", "build-/..", "../build-1", "build-1/x", "build-\\u0000", "/build-1"}) {
    with(R"({"format":1,"build_id":"fake-1","files":{},"build":")" + std::string(build) + "\"}", "build");
  }
  with(R"({"format":1,"build":"build-1","files":{}})", "build_id");
  with(R"({"format":1,"build":"build-1","build_id":"fake-1","files":[]})", "files");
  for (const char* path :
       {"/etc/passwd", "../manifest.json", "a/../../b", "a//b", "a/", "./a", "", "a b", "a\\\\b", "a\\u0000b", "ä"}) {
    with(files("\"" + std::string(path) + R"(":{"sha256":")" + digits + R"(","bytes":1})"), "path");
  }
  with(files(R"("src/plan.cpp":{"sha256":"abc","bytes":8})"), "sha256");
  with(files(R"("src/plan.cpp":{"sha256":")" + std::string(64, 'A') + R"(","bytes":8})"), "sha256");
  with(files(R"("src/plan.cpp":{"sha256":")" + digits + R"(","bytes":-8})"), "bytes");
  with(files(R"("src/plan.cpp":{"sha256":")" + digits + R"(","bytes":1e3})"), "bytes");
  with(files(R"("src/plan.cpp":{"sha256":")" + digits + R"(","bytes":9223372036854775807})"),
       "plan.cpp");  // and nothing of that size is allocated
  with(files(R"("src/plan.cpp":{"sha256":")" + digits + R"(","bytes":8})"), "SHA-256");
  with(files(R"("a":{"sha256":")" + digits + R"(","bytes":1},"a":{"sha256":")" + digits + R"(","bytes":1})"),
       "manifest.json");  // twice
}

// A plan that can't be: the compiler's bug, told before anything is touched.
void wrong_plans() {
  const auto with = [](auto change) {
    Plan plan = fake::make_plan();
    std::vector<Program> programs(plan.programs, plan.programs + plan.program_count);
    std::vector<Launch> launches(programs[0].launches, programs[0].launches + programs[0].launch_count);
    std::vector<Output> outputs(programs[0].outputs, programs[0].outputs + programs[0].output_count);
    programs[0].launches = launches.data();
    programs[0].outputs = outputs.data();
    plan.programs = programs.data();
    change(plan, programs, launches, outputs);
    const auto engine = Engine::create("", plan, {});
    CHECK(!engine.ok() && engine.status().code() == Code::internal);
  };
  using Programs = std::vector<Program>;
  using Launches = std::vector<Launch>;
  using Outputs = std::vector<Output>;
  with([](Plan& plan, Programs&, Launches&, Outputs&) { plan.abi = 99; });
  with([](Plan& plan, Programs&, Launches&, Outputs&) { plan.vocab_size = 0; });
  with([](Plan& plan, Programs&, Launches&, Outputs&) { plan.max_batch = 9; });
  with([](Plan& plan, Programs&, Launches&, Outputs&) { plan.prefill_chunk = 33; });
  with([](Plan& plan, Programs&, Launches&, Outputs&) { plan.weights_bytes = 256; });
  with([](Plan&, Programs& programs, Launches&, Outputs&) { programs[0].arena_bytes = 100; });
  with([](Plan&, Programs& programs, Launches&, Outputs&) { programs[0].inputs.bytes = 2048; });
  with([](Plan&, Programs& programs, Launches&, Outputs&) { programs[0].max_sequences = 100; });
  with([](Plan&, Programs&, Launches& launches, Outputs&) { launches[0].fn = nullptr; });
  with([](Plan&, Programs&, Launches& launches, Outputs&) {
    static const Arg far[] = {{Space::kv, fake::block_bytes + 1}};
    launches[0].args = far, launches[0].arg_count = 1;
  });
  with([](Plan&, Programs&, Launches&, Outputs& outputs) { outputs[0].columns = 5; });
  with([](Plan&, Programs&, Launches&, Outputs& outputs) { outputs[0].offset = UINT64_MAX - 3; });
}

// What doesn't fit is refused at load.
void too_large() {
  static const SyntheticWeight weight = {0, uint64_t{1} << 40, Dtype::bf16, Fill::uniform, 1};
  Plan plan = fake::make_plan();
  plan.weights_bytes = uint64_t{2} << 40;
  plan.synthetic = &weight;
  plan.synthetic_count = 1;
  const auto weights = Engine::create("", plan, {});
  CHECK(!weights.ok() && weights.status().code() == Code::out_of_memory);
  EngineOptions options;
  options.kv_tokens = int64_t{1} << 31;
  const auto slots = Engine::create("", model_plan, options);
  CHECK(!slots.ok() && slots.status().code() == Code::invalid_argument);
  Plan wide = fake::make_plan();
  wide.kv_block_bytes = uint64_t{1} << 40;
  const auto cache = Engine::create("", wide, {});
  CHECK(!cache.ok() && cache.status().code() == Code::out_of_memory);
}

// Not part of the suite: how long weights take, from a file of 720 MB in the page cache and from nothing.
void speed(const char* folder_name) {
  const uint64_t size = uint64_t{720} << 20;
  Plan plan = fake::make_plan();
  const std::string header(256, ' '), sha256 = test::hash_of(header), path = std::string(folder_name) + "/speed.bin";
  plan.weights_bytes = size;
  static const SyntheticWeight weight = {0, size / 2, Dtype::bf16, Fill::normal, 0.02f};
  plan.synthetic = &weight;
  plan.synthetic_count = 1;
  const auto report = [&](const char* what, const Plan& loaded, const std::string& folder, WeightsMode mode) {
    EngineOptions options;
    options.weights = mode;
    const auto engine = Engine::create(folder, loaded, options);
    if (!engine.ok()) std::printf("%s\n", engine.status().message().c_str());
    else std::printf("%s %.1f ms\n", what, static_cast<double>(engine.value()->counters().load_ns) / 1e6);
  };
  report("synthetic", plan, "", WeightsMode::automatic);
  PackageFolder folder("fake-1");
  folder.overwrite("weights.safetensors", header + std::string(size, 'x'));
  folder.list("weights.safetensors", std::string(64, '0'), header.size() + size);
  plan.synthetic = nullptr;
  plan.synthetic_count = 0;
  plan.weights_file = {"weights.safetensors", header.size() + size, header.size(), sha256.c_str()};
  for (int i = 0; i < 3; ++i) {
    report("map", plan, folder.path(), WeightsMode::map);
    report("copy", plan, folder.path(), WeightsMode::copy);
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count > 1) return speed(arguments[1]), 0;
  whole();
  changed();
  lying_manifests();
  wrong_plans();
  too_large();
  return check::result();
}
