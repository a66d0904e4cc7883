// The reader of one request in a test: gathers what its events bring, acknowledges or doesn't, and can be waited for.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "engine.hpp"
#include "request.hpp"

namespace test {

// A hang must fail, not wait.
inline constexpr auto patience = std::chrono::seconds(60);

class Reader {
 public:
  // As a request: `prompt` ids and greedy, to be changed before submit().
  explicit Reader(std::vector<int32_t> prompt_ids, int64_t max_tokens = 0) : prompt(std::move(prompt_ids)) {
    request.size = sizeof request;
    request.max_tokens = max_tokens;
    sampling.size = sizeof sampling;
  }
  Reader(const Reader&) = delete;

  ern::Status submit(ern::Engine& to) {
    engine = &to;
    ern_part part = {ERN_PART_TOKENS, prompt.data(), prompt.size()};
    ern_request copy = request;
    if (!copy.parts) copy.parts = &part, copy.part_count = 1;
    copy.sampling = &sampling;
    copy.on_event = on_event;
    copy.user = this;
    auto sequence = ern::make_sequence(copy, to);
    if (!sequence.ok()) return sequence.status();
    return to.submit(std::move(sequence.value()), &number);
  }
  void wait() {
    std::unique_lock lock(mutex);
    if (changed.wait_for(lock, patience, [this] { return finish != ERN_RUNNING; })) return;
    std::fprintf(stderr, "request %llu did not end\n", static_cast<unsigned long long>(number));
    std::abort();
  }
  // Until so many tokens came, or the end.
  void wait_for(size_t count) {
    std::unique_lock lock(mutex);
    if (changed.wait_for(lock, patience, [&] { return ids.size() >= count || finish != ERN_RUNNING; })) return;
    std::abort();
  }
  size_t count() {
    const std::lock_guard lock(mutex);
    return ids.size();
  }

  std::vector<int32_t> prompt;
  ern_request request = {};
  ern_sampling sampling = {};
  bool acknowledges = true;
  size_t cancel_at = 0;                        // cancels when so many tokens have come
  const std::atomic<bool>* gate = nullptr;     // holds the engine's thread up until it is true
  std::atomic<bool> begun{false};              // an event has come

  ern::Engine* engine = nullptr;
  uint64_t number = 0;
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<int32_t> ids;
  std::vector<std::vector<ern_logprob>> logprobs;
  std::string text, message;
  ern_finish finish = ERN_RUNNING;
  ern_event last = {};

 private:
  static void on_event(void* user, const ern_event* event) {
    auto& reader = *static_cast<Reader*>(user);
    reader.begun = true;
    while (reader.gate && !*reader.gate) std::this_thread::yield();
    if (reader.acknowledges && event->id_count > 0)
      reader.engine->ack(event->request, static_cast<int64_t>(event->id_count));
    const std::lock_guard lock(reader.mutex);
    if (reader.finish != ERN_RUNNING) std::abort();  // an event after the last
    reader.ids.insert(reader.ids.end(), event->ids, event->ids + event->id_count);
    if (event->logprobs) reader.logprobs.emplace_back(event->logprobs, event->logprobs + 1 + event->logprob_top);
    if (reader.cancel_at != 0 && reader.ids.size() == reader.cancel_at) reader.engine->cancel(event->request);
    reader.text.append(event->text, event->text_bytes);
    reader.finish = event->finish;
    if (event->finish != ERN_RUNNING) reader.message = event->message;
    reader.last = *event;
    reader.changed.notify_all();
  }
};

}  // namespace test
