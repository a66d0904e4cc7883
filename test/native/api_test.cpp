// The C interface as a C program sees it, with text: everything through the table of functions, over the fake model
// with a tokenizer beside it.
#define FAKE_VOCAB 400

#include <condition_variable>
#include <cstring>
#include <mutex>

#include "check.hpp"
#include "fake_plan.hpp"
#include "include/ern.h"
#include "json.hpp"
#include "package_folder.hpp"
#include "tiny_model.hpp"
#include "tokenizer.hpp"
#include "utf8.hpp"

constinit const ern::Plan ern::model_plan = fake::make_plan();

namespace {

const ern_api* api = nullptr;

const char* const text_json =
    R"({"format":1,"vocab_size":400,"added":[{"id":390,"content":"<think>","special":false},{"id":391,"content":"<img>"}],)"
    R"("specials":["<mask>"],"stop_ids":[2],"generation":{"do_sample":true,"temperature":0.8,"top_p":0.75,"top_k":0,"repetition_penalty":1.0}})";

struct Answer {
  std::mutex mutex;
  std::condition_variable changed;
  ern_engine* engine = nullptr;
  std::vector<int32_t> ids;
  std::string text;
  ern_finish finish = ERN_RUNNING;
  ern_event last = {};
  std::vector<ern_status> from_callback;

  static void on_event(void* user, const ern_event* event) {
    auto& answer = *static_cast<Answer*>(user);
    const std::lock_guard lock(answer.mutex);
    CHECK_EQUAL(std::strlen(event->text), event->text_bytes);
    CHECK(ern::utf8::is_valid({event->text, event->text_bytes}));
    answer.ids.insert(answer.ids.end(), event->ids, event->ids + event->id_count);
    answer.text += event->text;
    answer.finish = event->finish;
    answer.last = *event;
    // What a callback may do, and what it must not: no deadlock either way.
    answer.from_callback.push_back(api->ack(answer.engine, event->request, static_cast<int64_t>(event->id_count)));
    const int32_t id = 1;
    const ern_logits_request pass = {sizeof pass, &id, 1, 0, 0, 0, [](void*, const ern_logits_chunk*) { return 0; },
                                     nullptr};
    CHECK_EQUAL(api->logits(answer.engine, &pass), ERN_INVALID_ARGUMENT);
    api->engine_destroy(answer.engine);
    answer.changed.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex);
    if (!changed.wait_for(lock, std::chrono::seconds(60), [this] { return finish != ERN_RUNNING; })) std::abort();
  }
};

ern_part user(const char* text) { return {ERN_PART_USER, text, std::strlen(text)}; }
ern_part from_template(const char* text) { return {ERN_PART_TEMPLATE, text, std::strlen(text)}; }

std::vector<int32_t> tokenize(ern_engine* engine, std::vector<ern_part> parts) {
  int32_t* ids = nullptr;
  size_t count = 0;
  CHECK_EQUAL(api->tokenize(engine, parts.data(), parts.size(), &ids, &count), ERN_OK);
  const std::vector<int32_t> result(ids, ids + count);
  api->free(ids);
  return result;
}

std::string detokenize(ern_engine* engine, const std::vector<int32_t>& ids, bool keep) {
  char* text = nullptr;
  size_t bytes = 0;
  CHECK_EQUAL(api->detokenize(engine, ids.data(), ids.size(), keep, &text, &bytes), ERN_OK);
  const std::string result(text, bytes);
  api->free(text);
  return result;
}

// Greedy over the ids that have a piece, which is what the engine may choose from.
std::vector<int32_t> expected(std::vector<int32_t> tokens, size_t count, const ern::Tokenizer& tokenizer) {
  std::vector<int32_t> out;
  for (; out.size() < count; tokens.push_back(out.back())) {
    auto row = fake::expected_logits(tokens, tokens.size());
    for (int32_t id = 0; id < fake::vocab; ++id) {
      if (!tokenizer.has_piece(id)) row[static_cast<size_t>(id)] = -1e30f;
    }
    out.push_back(static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin()));
    if (tokenizer.is_stop(out.back())) break;
  }
  return out;
}

void text(ern_engine* engine, const ern::Tokenizer& tokenizer) {
  CHECK_EQUAL(tokenize(engine, {user("<mask> the")}).size() > 2, true);
  const auto marked = tokenize(engine, {from_template("<mask>"), user("abc")});
  CHECK_EQUAL(marked.size(), size_t{2});
  CHECK_EQUAL(detokenize(engine, marked, false), "abc");
  CHECK_EQUAL(detokenize(engine, marked, true), "<mask>abc");
  CHECK_EQUAL(detokenize(engine, {}, true), "");
  const int32_t raw[] = {5, 6};
  const auto mixed = tokenize(engine, {user("a"), {ERN_PART_TOKENS, raw, 2}, user("b")});
  CHECK_EQUAL(mixed.size(), size_t{4});
  CHECK_EQUAL(tokenize(engine, {}), std::vector<int32_t>());

  const std::vector<ern_part> prompt = {from_template("<|begin|>"), user("the 你好 abc"), from_template("\n")};
  const auto ids = tokenize(engine, prompt);
  const auto wanted = expected(ids, 60, tokenizer);
  const std::string whole = tokenizer.decode(wanted);
  const auto ask = [&](Answer& answer, const char* stop) {
    ern_request request = {};
    request.size = sizeof request;
    request.parts = prompt.data(), request.part_count = prompt.size();
    request.max_tokens = 60;
    if (stop) request.stops = &stop, request.stop_count = 1;
    request.on_event = Answer::on_event, request.user = &answer;
    answer.engine = engine;
    uint64_t number = 0;
    CHECK_EQUAL(api->submit(engine, &request, &number), ERN_OK);
    answer.wait();
    CHECK_EQUAL(answer.last.request, number);
    for (const ern_status status : answer.from_callback) CHECK_EQUAL(status, ERN_OK);
  };
  Answer plain;
  ask(plain, nullptr);
  CHECK_EQUAL(plain.ids, wanted);
  CHECK_EQUAL(plain.text, whole);
  CHECK_EQUAL(plain.last.prompt_tokens, static_cast<int64_t>(ids.size()));
  // A stop string out of the middle of the answer: the text ends right before it.
  for (const size_t at : {size_t{3}, whole.size() / 2}) {
    size_t begin = at;
    while ((static_cast<unsigned char>(whole[begin]) & 0xC0) == 0x80) ++begin;
    size_t end = begin;
    for (int i = 0; i < 2 && end < whole.size(); ++i)
      end += ern::utf8::valid_length(whole.data() + end, whole.size() - end);
    const std::string stop = whole.substr(begin, end - begin);
    Answer stopped;
    ask(stopped, stop.c_str());
    CHECK_EQUAL(stopped.text, whole.substr(0, whole.find(stop)));
    CHECK_EQUAL(stopped.finish, ERN_FINISH_STOP);
  }
}

void messages(ern_engine* engine) {
  CHECK_EQUAL(api->tokenize(nullptr, nullptr, 0, nullptr, nullptr), ERN_INVALID_ARGUMENT);
  CHECK(std::strlen(api->last_message()) > 0);
  int32_t* ids = nullptr;
  size_t count = 0;
  const ern_part bad_kind = {static_cast<ern_part_kind>(7), "x", 1};
  CHECK_EQUAL(api->tokenize(engine, &bad_kind, 1, &ids, &count), ERN_INVALID_ARGUMENT);
  CHECK(std::strstr(api->last_message(), "kind"));
  const ern_part null_data = {ERN_PART_USER, nullptr, 1};
  CHECK_EQUAL(api->tokenize(engine, &null_data, 1, &ids, &count), ERN_INVALID_ARGUMENT);
  uint64_t number = 0;
  ern_request request = {};
  CHECK_EQUAL(api->submit(engine, &request, &number), ERN_INVALID_ARGUMENT);  // no size
  request.size = sizeof request;
  CHECK_EQUAL(api->submit(engine, &request, &number), ERN_INVALID_ARGUMENT);  // no callback
  request.on_event = Answer::on_event;
  CHECK_EQUAL(api->submit(engine, &request, &number), ERN_INVALID_ARGUMENT);  // no prompt
  CHECK(std::strstr(api->last_message(), "empty"));
  // A caller that is older than the library leaves out the last fields; a newer one must not use what the library
  // doesn't know.
  struct Newer {
    ern_memory memory;
    uint64_t more;
  } newer = {};
  newer.memory.size = sizeof newer;
  newer.more = 5;
  CHECK_EQUAL(api->get_memory(engine, &newer.memory), ERN_OK);
  CHECK_EQUAL(newer.more, uint64_t{0});
  CHECK_EQUAL(newer.memory.size, sizeof newer);
  ern_memory older = {};
  older.size = offsetof(ern_memory, kv_bytes);
  older.kv_free_blocks = 12345;
  CHECK_EQUAL(api->get_memory(engine, &older), ERN_OK);
  CHECK_EQUAL(older.weight_bytes, ern::model_plan.weights_bytes);
  CHECK_EQUAL(older.kv_free_blocks, 12345);
  struct NewerRequest {
    ern_request request;
    int more;
  } wide = {request, 1};
  wide.request.size = sizeof wide;
  CHECK_EQUAL(api->submit(engine, &wide.request, &number), ERN_UNSUPPORTED);
  ern_timings timings = {};
  timings.size = sizeof timings;
  CHECK_EQUAL(api->get_timings(engine, &timings), ERN_OK);
  CHECK(timings.load_ns > 0 && timings.decode_steps > 0 && timings.prefill_tokens > 0);
  CHECK_EQUAL(api->cancel(engine, 999999), ERN_OK);
  CHECK_EQUAL(api->ack(engine, 999999, 5), ERN_OK);
  CHECK_EQUAL(api->ack(engine, 1, -5), ERN_INVALID_ARGUMENT);
  char* info = nullptr;
  CHECK_EQUAL(api->info(engine, &info), ERN_OK);
  const auto parsed = ern::json::Document::parse(info);
  CHECK(parsed.ok());
  CHECK_EQUAL(parsed.value().root().find("generation")->find("temperature")->number().value(), 0.8);
  CHECK_EQUAL(parsed.value().root().find("generation")->find("topP")->number().value(), 0.75);
  api->free(info);
}

}  // namespace

int main() {
  api = ern_get_api(ERN_API_VERSION);
  CHECK(api && api->size == sizeof(ern_api) && api->version == ERN_API_VERSION);
  CHECK(ern_get_api(99) == nullptr);
  CHECK(std::strlen(api->runtime_version()) > 0);

  const std::string model = tiny::rich().bytes();
  auto tokenizer = ern::Tokenizer::load(std::as_bytes(std::span(model)), text_json);
  if (!tokenizer.ok()) return std::fprintf(stderr, "%s\n", tokenizer.status().message().c_str()), 2;
  test::PackageFolder folder("fake-1");
  folder.add("lib/libern_model.so", "the library");
  folder.add("tokenizer.model", model);
  folder.add("text.json", text_json);

  ern_engine* engine = nullptr;
  CHECK_EQUAL(api->engine_create(nullptr, nullptr, &engine), ERN_INVALID_ARGUMENT);
  CHECK_EQUAL(api->engine_create("/nonexistent", nullptr, &engine), ERN_NOT_FOUND);
  CHECK(engine == nullptr && std::strstr(api->last_message(), "/nonexistent"));
  ern_engine_options options = {};
  CHECK_EQUAL(api->engine_create(folder.path().c_str(), &options, &engine), ERN_INVALID_ARGUMENT);  // no size
  options.size = sizeof options;
  options.threads = -1;
  CHECK_EQUAL(api->engine_create(folder.path().c_str(), &options, &engine), ERN_INVALID_ARGUMENT);
  options.threads = 2;
  CHECK_EQUAL(api->engine_create(folder.path().c_str(), &options, &engine), ERN_OK);
  if (!engine) return std::fprintf(stderr, "%s\n", api->last_message()), 2;
  text(engine, *tokenizer.value());
  messages(engine);
  api->engine_destroy(engine);
  api->engine_destroy(nullptr);
  return check::result();
}
