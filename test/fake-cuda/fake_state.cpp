#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "fake_cuda.hpp"

namespace fake {
namespace {

std::string environment(const char* name, const char* otherwise) {
  const char* const value = std::getenv(name);
  return value ? value : otherwise;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) out += c == '"' || c == '\\' ? std::string("\\") + c : std::string(1, c);
  return out + "\"";
}

}  // namespace

State& state() {
  static State instance;
  return instance;
}

State::State() {
  version = std::atoi(environment("FAKE_CUDA_VERSION", "13000").c_str());
  total = static_cast<size_t>(std::atol(environment("FAKE_CUDA_MEMORY", "1024").c_str())) << 20;
  taken = static_cast<size_t>(std::atol(environment("FAKE_CUDA_TAKEN", "0").c_str())) << 20;
  multiprocessors = std::atoi(environment("FAKE_CUDA_MULTIPROCESSORS", "132").c_str());
  const std::string list = environment("FAKE_CUDA_CAPABILITY", "9.0");
  for (size_t at = 0; at < list.size(); at = std::min(list.find(',', at), list.size() - 1) + 1) {
    int major = 0, minor = 0;
    if (std::sscanf(list.c_str() + at, "%d.%d", &major, &minor) == 2) capabilities.emplace_back(major, minor);
  }
  computes = environment("FAKE_CUDA_COMPUTES", "") == "1";
  const std::string behaves = environment("FAKE_CUDA_VARIANT", "");
  variant = behaves.substr(0, behaves.find(':'));
  behaviour = behaves.substr(std::min(behaves.size(), variant.size() + 1));
  const std::string failure = environment("FAKE_CUDA_FAIL", "");
  const size_t first = failure.find(':'), second = failure.find(':', first + 1);
  if (second != failure.npos) {
    fail_call = failure.substr(0, first);
    fail_at = std::atol(failure.c_str() + first + 1);
    fail_error = std::atoi(failure.c_str() + second + 1);
  }
}

State::~State() {
  const std::string path = environment("FAKE_CUDA_REPORT", "");
  if (path.empty()) return;
  std::FILE* const file = std::fopen(path.c_str(), "w");
  if (!file) return;
  std::fprintf(file, "{\"live\":{\"memory\":%zu,\"pinned\":%zu,\"streams\":%zu,\"modules\":%zu,\"graphs\":%zu,\"execs\":%zu,\"events\":%zu,\"contexts\":%d},\n",
               device.size(), pinned.size(), streams.size(), modules.size(), graphs.size(), execs.size(), events.size(), contexts);
  const auto table = [file](const char* name, const std::map<std::string, long>& entries) {
    std::fprintf(file, "\"%s\":{", name);
    const char* comma = "";
    for (const auto& [key, count] : entries) std::fprintf(file, "%s%s:%ld", comma, quoted(key).c_str(), count), comma = ",";
    std::fprintf(file, "},\n");
  };
  table("calls", calls);
  table("launches", launches);
  std::fprintf(file, "\"mistakes\":[");
  for (size_t i = 0; i < mistakes.size(); ++i) std::fprintf(file, "%s%s", i ? "," : "", quoted(mistakes[i]).c_str());
  std::fprintf(file, "]}\n");
  std::fclose(file);
}

int State::enter(const char* name) {
  ++calls[name];
  if (fail_call == name && --fail_at == 0) {
    if (fail_error >= 700 && fail_error < 800) sticky = fail_error;
    return fail_error;
  }
  return sticky;
}

void State::wrong(const std::string& what) {
  if (mistakes.size() < 20) mistakes.push_back(what);
}

char* State::memory(Pointer at, size_t bytes, const char* call) {
  auto found = device.upper_bound(at);
  if (found != device.begin()) {
    --found;
    if (at >= found->first && at + bytes <= found->first + std::max<size_t>(found->second, 1)) return reinterpret_cast<char*>(at);
  }
  wrong(std::string(call) + ": memory that is not allocated, or was freed");
  return nullptr;
}

// Parameters are the step, then the arguments in the kernel table's order.
void emulate(const std::string& kernel, void** parameters) {
  State& s = state();
  const auto pointer = [parameters](int index) { return *static_cast<Pointer*>(parameters[index]); };
  const auto ints = [&](int index) { return reinterpret_cast<int32_t*>(pointer(index)); };
  const auto starts = [&](const char* name) { return kernel.rfind(name, 0) == 0; };
  if (starts("embedding")) s.running->ids = ints(1), s.running->last_rows = nullptr;
  if (starts("gather_rows")) s.running->last_rows = ints(2);
  if (starts("persistent_decode"))
    for (int32_t i = 0; i < ints(0)[1]; ++i) ints(2)[i] = next_id(ints(1)[i]);
  if (starts("fill_synthetic_f32")) *reinterpret_cast<float*>(pointer(0)) = 1;
  if (starts("draw_tokens")) {
    for (int32_t i = 0; i < ints(0)[1]; ++i) ints(5)[i] = ints(6)[i] = ints(2)[i];
  }
  const bool last = kernel.size() > 5 && kernel.compare(kernel.size() - 5, 5, "_last") == 0;
  if (starts("head_argmax")) {
    const int32_t* const step = ints(0);
    const int more = (kernel.find("_bias") != kernel.npos) + (kernel.find("_norm") != kernel.npos);
    const int32_t rows = last ? step[1] : step[0];
    int32_t* const out = ints(4 + more);
    for (int32_t i = 0; i < rows; ++i) out[i] = next_id(s.running->ids[last && s.running->last_rows ? s.running->last_rows[i] : i]);
  }
}

}  // namespace fake
