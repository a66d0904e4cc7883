// Several requests in one engine: whatever runs beside a request, and however often it is sent away and computed again,
// it says what it would say alone; and what was computed once is not computed again.
#include <atomic>
#include <cstring>
#include <thread>

#include "engine_support.hpp"

using namespace ern;
using namespace test;

constinit const Plan ern::model_plan = fake::make_plan();

namespace {

// Random times or all at once, block size 16, chunk 7, a pool too small for all, one cancelled, one reader that stalls.
void batching(int threads, unsigned seed, bool sampled, bool at_once) {
  EngineOptions options;
  options.threads = threads;
  options.prefill_chunk = 7;
  const int64_t blocks = seed % 2 ? 14 : 24;
  options.kv_tokens = 16 * blocks;
  options.max_unread = 8;
  options.max_batch = seed % 2 ? 4 : 8;
  const auto engine = start(options);
  std::mt19937 random(seed);
  std::vector<std::vector<int32_t>> alone;
  Readers readers;
  const auto shared = prompt_of(random, 40);
  for (int i = 0; i < 24; ++i) {
    auto prompt = prompt_of(random, 1 + random() % 60);
    if (i % 3 == 0)
      prompt.insert(prompt.begin(), shared.begin(), shared.begin() + static_cast<ptrdiff_t>(10 + random() % 30));
    readers.push_back(std::make_unique<Reader>(std::move(prompt), 1 + random() % 60));
    Reader& reader = *readers.back();
    if (sampled && i % 2 == 1) {
      reader.sampling.temperature = 1.5f;
      reader.sampling.top_p = 0.9f;
      reader.sampling.repetition_penalty = 1.2f;
      reader.sampling.seed = static_cast<uint64_t>(i);
      // Alone, in an engine with room for everything.
      const auto other = start();
      Reader solo_reader(reader.prompt, reader.request.max_tokens);
      solo_reader.sampling = reader.sampling;
      CHECK(solo_reader.submit(*other).ok());
      solo_reader.wait();
      alone.push_back(solo_reader.ids);
    } else {
      alone.push_back(fake::expected_continuation(reader.prompt, static_cast<size_t>(reader.request.max_tokens)));
    }
  }
  const size_t cancelled = 5, stalled = 9;
  readers[cancelled]->request.max_tokens = 0;
  readers[cancelled]->cancel_at = 3;
  readers[stalled]->acknowledges = false;
  readers[stalled]->request.max_tokens = 60;
  readers[stalled]->sampling = {};
  readers[stalled]->sampling.size = sizeof(ern_sampling);
  alone[stalled] = fake::expected_continuation(readers[stalled]->prompt, 60);
  std::atomic<bool> gate{!at_once};
  Reader first({1}, 1);
  first.gate = &gate;
  CHECK(first.submit(*engine).ok());
  for (auto& reader : readers) {
    CHECK(reader->submit(*engine).ok());
    if (!at_once && random() % 2) std::this_thread::sleep_for(std::chrono::microseconds(random() % 2000));
  }
  gate = true;
  readers[cancelled]->wait();
  CHECK_EQUAL(readers[cancelled]->finish, ERN_FINISH_CANCELLED);
  for (size_t i = 0; i < readers.size(); ++i) {
    if (i == cancelled || i == stalled) continue;
    readers[i]->wait();
    CHECK_EQUAL(readers[i]->ids, alone[i], "request " + std::to_string(i));
    CHECK_EQUAL(readers[i]->finish, ERN_FINISH_LENGTH);
  }
  // The slow reader stopped at its window, and goes on when it reads.
  readers[stalled]->wait_for(8);
  CHECK_EQUAL(readers[stalled]->count(), size_t{8});
  readers[stalled]->acknowledges = true;
  engine->ack(readers[stalled]->number, 8);
  readers[stalled]->wait();
  CHECK_EQUAL(readers[stalled]->ids, alone[stalled]);
  CHECK_EQUAL(engine->counters().free_blocks, static_cast<uint64_t>(blocks));
  CHECK_EQUAL(engine->counters().running, uint64_t{0});
  CHECK_EQUAL(engine->counters().waiting, uint64_t{0});
  if (at_once) CHECK(engine->counters().preemptions > 0);
}

// Requests that hold everything and don't read must not keep others from running.
void stalled_pool() {
  EngineOptions options;
  options.kv_tokens = 16 * 8;
  options.max_unread = 4;
  const auto engine = start(options);
  std::mt19937 random(3);
  Readers idle;
  for (int i = 0; i < 4; ++i) {
    idle.push_back(std::make_unique<Reader>(prompt_of(random, 28), 50));
    idle.back()->acknowledges = false;
    CHECK(idle.back()->submit(*engine).ok());
  }
  for (auto& reader : idle) reader->wait_for(4);
  Reader reader(prompt_of(random, 60), 60);
  CHECK(reader.submit(*engine).ok());
  reader.wait();
  CHECK_EQUAL(reader.ids, fake::expected_continuation(reader.prompt, 60));
  for (auto& each : idle) {
    each->acknowledges = true;
    engine->ack(each->number, 4);
  }
  for (auto& each : idle) {
    each->wait();
    CHECK_EQUAL(each->ids, fake::expected_continuation(each->prompt, 50));
  }
}

void prefix_reuse() {
  const auto engine = start();
  std::mt19937 random(4);
  // A chat: each turn is the last one, its answer, and something new. All but the last token of the answer is in the
  // cache, in whole blocks or not.
  std::vector<int32_t> history = prompt_of(random, 37);
  int64_t cached = 0;
  for (int turn = 0; turn < 5; ++turn) {
    Reader reader(history, 11 + turn);
    CHECK(reader.submit(*engine).ok());
    reader.wait();
    CHECK_EQUAL(reader.ids, fake::expected_continuation(history, static_cast<size_t>(11 + turn)));
    CHECK_EQUAL(reader.last.cached_tokens, cached, "turn " + std::to_string(turn));
    history.insert(history.end(), reader.ids.begin(), reader.ids.end());
    cached = static_cast<int64_t>(history.size()) - 1;
    const auto more = prompt_of(random, 3 + turn * 5);
    history.insert(history.end(), more.begin(), more.end());
  }
  // The same prompt again: all but its last token, whose row is needed.
  Reader again(history, 4);
  CHECK(again.submit(*engine).ok());
  again.wait();
  Reader third(history, 4);
  CHECK(third.submit(*engine).ok());
  third.wait();
  CHECK_EQUAL(third.last.cached_tokens, static_cast<int64_t>(history.size()) - 1);
  CHECK_EQUAL(third.ids, fake::expected_continuation(history, 4));
  // A prompt that leaves it in the middle of a block.
  std::vector<int32_t> fork(history.begin(), history.begin() + 25);
  fork.push_back((history[25] + 1) % fake::vocab);
  Reader forked(fork, 20);
  CHECK(forked.submit(*engine).ok());
  forked.wait();
  CHECK_EQUAL(forked.last.cached_tokens, 25);
  CHECK_EQUAL(forked.ids, fake::expected_continuation(fork, 20));
  CHECK_EQUAL(engine->counters().free_blocks, uint64_t{128});
}
}  // namespace

int main(int count, char** arguments) {
  const Case cases[] = {
      {"batching",
       [] {
         for (unsigned seed = 1; seed <= 6; ++seed) batching(2, seed, false, seed > 2);
       }},
      {"batching-sampled",
       [] {
         batching(1, 11, true, true);
         batching(3, 12, true, false);
         batching(3, 13, true, true);
       }},
      {"stalled-pool", stalled_pool},
      {"prefix-reuse", prefix_reuse}};
  return run_cases(cases, count > 1 ? arguments[1] : "");
}
