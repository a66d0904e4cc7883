// The engine as a whole, over the model of fake_plan.hpp: whatever runs beside a request, and however often it is sent
// away and computed again, it says what it would say alone. Cases are named on the command line; without a name all
// run.
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <thread>

#include "check.hpp"
#include "fake_plan.hpp"
#include "info.hpp"
#include "json.hpp"
#include "reader.hpp"

using namespace ern;
using test::Reader;

constinit const Plan ern::model_plan = fake::make_plan();

namespace {

std::unique_ptr<Engine> start(const EngineOptions& options = {}) {
  auto engine = Engine::create("", model_plan, options);
  if (!engine.ok()) {
    std::fprintf(stderr, "%s\n", engine.status().message().c_str());
    std::exit(2);
  }
  return std::move(engine.value());
}

std::vector<int32_t> prompt_of(std::mt19937& random, size_t size) {
  std::vector<int32_t> ids(size);
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % fake::vocab);
  return ids;
}

using Readers = std::vector<std::unique_ptr<Reader>>;

// ---- one request ----

void solo() {
  const auto engine = start();
  for (const size_t size : {1, 2, 15, 16, 17, 31, 32, 33, 70}) {
    std::mt19937 random(static_cast<unsigned>(size));
    Reader reader(prompt_of(random, size), 40);
    CHECK(reader.submit(*engine).ok());
    reader.wait();
    CHECK_EQUAL(reader.ids, fake::expected_continuation(reader.prompt, 40), std::to_string(size));
    CHECK_EQUAL(reader.finish, ERN_FINISH_LENGTH);
    CHECK_EQUAL(reader.last.prompt_tokens, static_cast<int64_t>(size));
    CHECK_EQUAL(reader.last.completion_tokens, 40);
    CHECK(reader.last.queue_ns >= 0 && reader.last.prefill_ns > 0 && reader.last.decode_ns > 0);
  }
  CHECK_EQUAL(engine->counters().free_blocks, uint64_t{128});
}

void limits() {
  EngineOptions options;
  options.max_queue = 2;
  options.kv_tokens = 100;  // 7 blocks
  const auto engine = start(options);
  CHECK_EQUAL(engine->most_tokens(), 112);
  std::mt19937 random(1);
  const auto refused = [&](Reader& reader, Code code, const char* what) {
    const Status status = reader.submit(*engine);
    CHECK_EQUAL(static_cast<int>(status.code()), static_cast<int>(code), what);
    CHECK(!status.message().empty());
  };
  Reader empty({});
  refused(empty, Code::invalid_argument, "empty");
  Reader outside({5, fake::vocab});
  refused(outside, Code::invalid_argument, "id");
  Reader negative({-1});
  refused(negative, Code::invalid_argument, "id");
  Reader too_long(prompt_of(random, 112));
  refused(too_long, Code::invalid_argument, "length");
  const std::pair<float ern_sampling::*, float> bad[] = {{&ern_sampling::temperature, -1.0f},
                                                         {&ern_sampling::temperature, NAN},
                                                         {&ern_sampling::top_p, 1.5f},
                                                         {&ern_sampling::min_p, 2.0f},
                                                         {&ern_sampling::repetition_penalty, -1.0f},
                                                         {&ern_sampling::presence_penalty, INFINITY}};
  for (const auto& [field, value] : bad) {
    Reader reader({1});
    reader.sampling.*field = value;
    refused(reader, Code::invalid_argument, "sampling");
  }
  Reader biased({1});
  const int32_t id = 99;
  const float bias = 1;
  biased.sampling.bias_ids = &id, biased.sampling.bias_values = &bias, biased.sampling.bias_count = 1;
  refused(biased, Code::invalid_argument, "bias");
  Reader wants_text({1});
  const ern_part text = {ERN_PART_USER, "hello", 5};
  wants_text.request.parts = &text, wants_text.request.part_count = 1;
  refused(wants_text, Code::unsupported, "text");

  Reader longest(prompt_of(random, 111));
  CHECK(longest.submit(*engine).ok());
  longest.wait();
  CHECK_EQUAL(longest.ids, fake::expected_continuation(longest.prompt, 1));
  CHECK_EQUAL(longest.finish, ERN_FINISH_LENGTH);
  Reader to_the_end({3, 4});
  CHECK(to_the_end.submit(*engine).ok());
  to_the_end.wait();
  CHECK_EQUAL(to_the_end.ids, fake::expected_continuation(to_the_end.prompt, 110));
  CHECK_EQUAL(to_the_end.finish, ERN_FINISH_LENGTH);

  // The queue holds two that have not begun; a third is told so at once.
  std::atomic<bool> gate{false};
  Reader holder({1}, 2);
  holder.gate = &gate;
  CHECK(holder.submit(*engine).ok());
  while (!holder.begun) std::this_thread::yield();
  Readers readers;
  int busy = 0;
  for (int i = 0; i < 5; ++i) {
    readers.push_back(std::make_unique<Reader>(prompt_of(random, 90), 20));
    const Status status = readers.back()->submit(*engine);
    if (status.ok()) continue;
    CHECK(status.code() == Code::busy);
    readers.pop_back();
    ++busy;
  }
  CHECK_EQUAL(busy, 3);
  gate = true;
  for (auto& reader : readers) {
    reader->wait();
    CHECK_EQUAL(reader->ids, fake::expected_continuation(reader->prompt, 20));
  }
  Reader after({1}, 3);
  CHECK(after.submit(*engine).ok());
  after.wait();
}

void stops() {
  const auto engine = start();
  const std::vector<int32_t> prompt = {7, 8, 9};
  const auto expected = fake::expected_continuation(prompt, 30);
  const int32_t stop = expected[11];
  const auto first = static_cast<size_t>(std::find(expected.begin(), expected.end(), stop) - expected.begin());
  Reader reader(prompt, 30);
  reader.request.stop_ids = &stop, reader.request.stop_id_count = 1;
  CHECK(reader.submit(*engine).ok());
  reader.wait();
  CHECK_EQUAL(reader.finish, ERN_FINISH_STOP);
  CHECK_EQUAL(reader.ids, std::vector<int32_t>(expected.begin(), expected.begin() + static_cast<ptrdiff_t>(first) + 1));

  // Until min_tokens the stop id can't come, so another continuation does.
  Reader stubborn(prompt, 30);
  stubborn.request.stop_ids = &stop, stubborn.request.stop_id_count = 1;
  stubborn.request.min_tokens = 30;
  CHECK(stubborn.submit(*engine).ok());
  stubborn.wait();
  CHECK_EQUAL(stubborn.ids.size(), size_t{30});
  CHECK_EQUAL(stubborn.finish, ERN_FINISH_LENGTH);
  CHECK(std::find(stubborn.ids.begin(), stubborn.ids.end(), stop) == stubborn.ids.end());
}

void logprobs() {
  const auto engine = start();
  Reader reader({1, 2, 3}, 5);
  reader.sampling.logprobs = 4;
  CHECK(reader.submit(*engine).ok());
  reader.wait();
  std::vector<int32_t> tokens = reader.prompt;
  CHECK_EQUAL(reader.logprobs.size(), size_t{5});
  for (size_t i = 0; i < reader.logprobs.size(); ++i) {
    const auto row = fake::expected_logits(tokens, tokens.size());
    double total = 0;
    for (const float value : row) total += std::exp(static_cast<double>(value));
    const auto& found = reader.logprobs[i];
    CHECK_EQUAL(found.size(), size_t{4});
    CHECK_EQUAL(found[0].id, reader.ids[i]);
    CHECK_EQUAL(found[1].id, reader.ids[i]);  // greedy: the best is the one
    for (const auto& entry : found)
      CHECK(std::abs(entry.logprob - (row[static_cast<size_t>(entry.id)] - std::log(total))) < 1e-5);
    for (size_t j = 2; j < found.size(); ++j) CHECK(found[j].logprob <= found[j - 1].logprob);
    tokens.push_back(reader.ids[i]);
  }
}

// ---- several at once ----

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

// ---- forward passes ----

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

Status run_logits(Engine& engine, const std::vector<int32_t>& ids, int32_t chunk, bool trace, int64_t greedy,
                  Chunks& chunks) {
  const ern_logits_request request = {sizeof request, ids.data(), ids.size(),       chunk,
                                      trace,          greedy,     Chunks::on_chunk, &chunks};
  if (Status status = check_logits(request, engine); !status.ok()) return status;
  return engine.logits(request);
}

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

// ---- beginnings and ends ----

void destroy_while_running() {
  std::mt19937 random(6);
  for (int round = 0; round < 20; ++round) {
    Readers readers;
    Chunks chunks;
    std::thread caller;
    {
      auto engine = start();
      for (int i = 0; i < 6; ++i) {
        readers.push_back(std::make_unique<Reader>(prompt_of(random, 30)));
        if (i == 2) readers.back()->acknowledges = false;
        CHECK(readers.back()->submit(*engine).ok());
      }
      const auto ids = prompt_of(random, 300);
      caller = std::thread([&chunks, ids, e = engine.get()] {
        const Status status = run_logits(*e, ids, 1, false, 0, chunks);
        CHECK(status.ok() || status.code() == Code::cancelled);
      });
      readers[0]->wait_for(static_cast<size_t>(1 + round % 5));
      // No new call may begin during the end: the pass must be under way.
      while (!chunks.begun) std::this_thread::yield();
    }
    caller.join();
    for (auto& reader : readers) {
      CHECK(reader->finish == ERN_FINISH_CANCELLED || reader->finish == ERN_FINISH_LENGTH);  // told before the end
      const auto expected = fake::expected_continuation(reader->prompt, reader->ids.size());
      CHECK_EQUAL(reader->ids, expected);
    }
  }
}

void several_engines() {
  std::mt19937 random(7);
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([prompt = prompt_of(random, 40)] {
      const auto engine = start();
      Reader reader(prompt, 50);
      CHECK(reader.submit(*engine).ok());
      reader.wait();
      CHECK_EQUAL(reader.ids, fake::expected_continuation(prompt, 50));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

void threads_make_no_difference() {
  std::mt19937 random(8);
  const auto prompt = prompt_of(random, 50);
  for (const int threads : {1, 2, 5}) {
    EngineOptions options;
    options.threads = threads;
    const auto engine = start(options);
    Reader reader(prompt, 30);
    CHECK(reader.submit(*engine).ok());
    reader.wait();
    CHECK_EQUAL(reader.ids, fake::expected_continuation(prompt, 30));
  }
}

void information() {
  const auto engine = start();
  const auto parsed = json::Document::parse(info_json(*engine));
  CHECK(parsed.ok());
  const json::Value root = parsed.value().root();
  CHECK_EQUAL(root.find("model")->find("layers")->integer().value(), 1);
  CHECK_EQUAL(root.find("threads")->integer().value(), 2);
  CHECK_EQUAL(root.find("maxContext")->integer().value(), fake::max_context);
  CHECK_EQUAL(root.find("kvFreeBlocks")->integer().value(), 128);
  CHECK_EQUAL(std::string(*root.find("buildId")->string()), std::string("fake-1"));
  CHECK(root.find("generation")->is(json::Kind::object));
}

// The process ends while the engine runs: nothing may be destroyed under its threads.
[[noreturn]] void exit_while_running() {
  struct Session {
    std::unique_ptr<Engine> engine = start();
    Readers readers;
  };
  static Session* const session = new Session;  // in use until the end, and never destroyed
  std::mt19937 random(9);
  for (int i = 0; i < 8; ++i) {
    session->readers.push_back(std::make_unique<Reader>(prompt_of(random, 30)));
    CHECK(session->readers.back()->submit(*session->engine).ok());
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(3));
  std::exit(check::result());
}

}  // namespace

int main(int count, char** arguments) {
  const std::string only = count > 1 ? arguments[1] : "";
  if (only == "exit") exit_while_running();
  const struct {
    const char* name;
    void (*run)();
  } cases[] = {{"solo", solo},
               {"limits", limits},
               {"stops", stops},
               {"logprobs", logprobs},
               {"batching",
                [] {
                  for (unsigned seed = 1; seed <= 6; ++seed) batching(2, seed, false, seed > 2);
                }},
               {"batching-sampled",
                [] { batching(1, 11, true, true), batching(3, 12, true, false), batching(3, 13, true, true); }},
               {"stalled-pool", stalled_pool},
               {"prefix-reuse", prefix_reuse},
               {"logits", logits},
               {"destroy", destroy_while_running},
               {"several-engines", several_engines},
               {"threads", threads_make_no_difference},
               {"information", information}};
  for (const auto& each : cases) {
    if (!only.empty() && only != each.name) continue;
    each.run();
    std::printf("%s\n", each.name);
  }
  return check::result();
}
