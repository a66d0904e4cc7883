// Forward passes: the logits of every position in any chunks, traced or not, the greedy tokens after them, beside
// requests and beside each other.
#include <thread>

#include "engine_support.hpp"

using namespace ern;
using namespace test;

constinit const Plan ern::model_plan = fake::make_plan();

namespace {

void logits() {
  EngineOptions options;
  options.kv_tokens = 16 * 12;
  const auto engine = start(options);
  std::mt19937 random(5);
  const auto ids = prompt_of(random, 75);
  std::vector<float> expected;
  for (size_t count = 1; count <= ids.size(); ++count) {
    const auto row = fake::expected_logits(ids, count);
    expected.insert(expected.end(), row.begin(), row.end());
  }
  const auto continuation = fake::expected_continuation(ids, 9);
  // Beside a request that must not notice, though the pool is too small for both.
  Reader beside(prompt_of(random, 50), 120);
  CHECK(beside.submit(*engine).ok());
  for (const int32_t chunk : {0, 1, 7, 16, 1000}) {
    for (const bool trace : {false, true}) {
      Chunks chunks;
      CHECK(run_logits(*engine, ids, chunk, trace, 9, chunks).ok());
      CHECK(chunks.logits == expected);
      CHECK_EQUAL(chunks.greedy_ids, continuation);
      auto tokens = ids;
      for (size_t i = 0; i < chunks.greedy_logits.size(); ++i) {
        CHECK(chunks.greedy_logits[i] == fake::expected_logits(tokens, tokens.size()));
        tokens.push_back(continuation[i]);
      }
      const size_t size = chunk == 0 || chunk > 16 ? 16 : static_cast<size_t>(chunk);
      CHECK_EQUAL(chunks.starts.size(), (ids.size() + size - 1) / size);
      CHECK_EQUAL(chunks.indices.size(), trace ? ids.size() : 0);
      for (size_t i = 0; i < chunks.indices.size(); ++i) {
        const uint64_t digest = fake::digest_of(ids, i + 1);
        CHECK_EQUAL(chunks.indices[i], static_cast<int32_t>(digest % 1000000));
        CHECK_EQUAL(chunks.hidden[2 * i], static_cast<float>(digest % 1000));
        CHECK_EQUAL(chunks.hidden[2 * i + 1], 0.5f);
        CHECK_EQUAL(chunks.narrow[i], static_cast<float>(digest % 256));
      }
    }
  }
  // Two passes at once, neither of which leaves room for the other.
  Chunks first, second;
  std::thread other([&] { CHECK(run_logits(*engine, ids, 5, false, 60, first).ok()); });
  CHECK(run_logits(*engine, ids, 3, false, 60, second).ok());
  other.join();
  CHECK(first.logits == expected && second.logits == expected);
  CHECK_EQUAL(first.greedy_ids, fake::expected_continuation(ids, 60));
  CHECK_EQUAL(second.greedy_ids, first.greedy_ids);
  beside.wait();
  CHECK_EQUAL(beside.ids, fake::expected_continuation(beside.prompt, 120));

  Chunks stopped;
  stopped.stop_after = 2;
  CHECK(run_logits(*engine, ids, 4, false, 0, stopped).code() == Code::cancelled);
  CHECK_EQUAL(stopped.next_ids.size(), size_t{8});
  CHECK(run_logits(*engine, {}, 0, false, 0, stopped).code() == Code::invalid_argument);
  CHECK(run_logits(*engine, {1, 97}, 0, false, 0, stopped).code() == Code::invalid_argument);
  CHECK(run_logits(*engine, ids, 0, false, 1000, stopped).code() == Code::invalid_argument);
  CHECK_EQUAL(engine->counters().free_blocks, uint64_t{12});
}
}  // namespace

int main(int count, char** arguments) {
  const Case cases[] = {{"logits", logits}};
  return run_cases(cases, count > 1 ? arguments[1] : "");
}
