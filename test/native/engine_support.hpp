// What the tests of the engine share: engines over the model of fake_plan.hpp, prompts, forward passes gathered whole,
// and cases picked by name. A test that includes it defines model_plan.
#pragma once

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "check.hpp"
#include "fake_plan.hpp"
#include "reader.hpp"

namespace test {

using namespace ern;
using Readers = std::vector<std::unique_ptr<Reader>>;

inline std::unique_ptr<Engine> start(const EngineOptions& options = {}) {
  auto engine = Engine::create("", model_plan, options);
  if (!engine.ok()) {
    std::fprintf(stderr, "%s\n", engine.status().message().c_str());
    std::exit(2);
  }
  return std::move(engine.value());
}

inline std::vector<int32_t> prompt_of(std::mt19937& random, size_t size) {
  std::vector<int32_t> ids(size);
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % fake::vocab);
  return ids;
}

// What a forward pass gave, joined.
struct Chunks {
  std::vector<float> logits;  // of the prompt
  std::vector<std::vector<float>> greedy_logits;
  std::vector<int32_t> greedy_ids, next_ids;
  std::vector<int64_t> starts;
  std::vector<float> hidden, narrow;
  std::vector<int32_t> indices;
  int stop_after = -1;
  std::atomic<bool> begun{false};

  static int on_chunk(void* user, const ern_logits_chunk* chunk) {
    auto& chunks = *static_cast<Chunks*>(user);
    chunks.begun = true;
    if (chunks.stop_after-- == 0) return 1;
    const ern_tensor& t = chunk->logits;
    if (chunk->greedy) {
      CHECK_EQUAL(t.rows, size_t{1});
      CHECK_EQUAL(chunk->start, static_cast<int64_t>(chunks.greedy_ids.size()));
      chunks.greedy_logits.emplace_back(t.f32, t.f32 + t.columns);
      chunks.greedy_ids.push_back(chunk->next_ids[0]);
      return 0;
    }
    CHECK_EQUAL(chunk->start, static_cast<int64_t>(chunks.next_ids.size()));
    chunks.starts.push_back(chunk->start);
    for (size_t row = 0; row < t.rows; ++row)
      chunks.logits.insert(chunks.logits.end(), t.f32 + row * t.row_stride, t.f32 + row * t.row_stride + t.columns);
    chunks.next_ids.insert(chunks.next_ids.end(), chunk->next_ids, chunk->next_ids + t.rows);
    for (size_t i = 0; i < chunk->trace_count; ++i) {
      const ern_tensor& trace = chunk->trace[i];
      const std::string name = trace.name;
      for (size_t row = 0; row < trace.rows; ++row) {
        const float* f = trace.f32 ? trace.f32 + row * trace.row_stride : nullptr;
        if (name == "hidden") chunks.hidden.insert(chunks.hidden.end(), f, f + trace.columns);
        if (name == "narrow") chunks.narrow.insert(chunks.narrow.end(), f, f + trace.columns);
        if (name == "indices") chunks.indices.push_back(trace.i32[row * trace.row_stride]);
      }
    }
    return 0;
  }
};

inline Status run_logits(Engine& engine, const std::vector<int32_t>& ids, int32_t chunk, bool trace, int64_t greedy,
                  Chunks& chunks) {
  const ern_logits_request request = {sizeof request, ids.data(), ids.size(),       chunk,
                                      trace,          greedy,     Chunks::on_chunk, &chunks};
  if (Status status = check_logits(request, engine); !status.ok()) return status;
  return engine.logits(request);
}

struct Case {
  const char* name;
  void (*run)();
};

// The case that the command line names, or all; each prints its name when it is done.
template <size_t Count>
int run_cases(const Case (&cases)[Count], const std::string& only) {
  for (const Case& each : cases) {
    if (!only.empty() && only != each.name) continue;
    each.run();
    std::printf("%s\n", each.name);
  }
  return check::result();
}

}  // namespace test
