// The engine as a whole, over the model of fake_plan.hpp: one request by itself, what is refused, and how engines begin
// and end. Cases are named on the command line; without a name all run. Beside these: batching_test.cpp and
// logits_test.cpp.
#include <atomic>
#include <cmath>
#include <cstring>
#include <thread>

#include "engine_support.hpp"
#include "info.hpp"
#include "json.hpp"

using namespace ern;
using namespace test;

constinit const Plan ern::model_plan = fake::make_plan();

namespace {

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
  std::printf("exit\n");
  std::exit(check::result());
}
}  // namespace

int main(int count, char** arguments) {
  const std::string only = count > 1 ? arguments[1] : "";
  if (only == "exit") exit_while_running();
  const Case cases[] = {{"solo", solo},
                        {"limits", limits},
                        {"stops", stops},
                        {"logprobs", logprobs},
                        {"destroy", destroy_while_running},
                        {"several-engines", several_engines},
                        {"threads", threads_make_no_difference},
                        {"information", information}};
  return run_cases(cases, only);
}
