// Memory that runs out: the same small session with the n-th allocation failing, for every n. Each call succeeds or
// says why not, each accepted request ends once, nothing hangs, crashes or leaks (run under AddressSanitizer), and the
// engine goes on.
#define FAKE_VOCAB 400

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <new>

#include "check.hpp"
#include "fake_plan.hpp"
#include "include/ern.h"
#include "package_folder.hpp"
#include "tiny_model.hpp"

constinit const ern::Plan ern::model_plan = fake::make_plan();

namespace {

std::atomic<int64_t> countdown{0};  // the allocation that takes it to 0 fails; negative or 0 at the start: none does
thread_local int exempt = 0;        // what the test itself needs

struct Exempt {
  Exempt() { ++exempt; }
  ~Exempt() { --exempt; }
};

// Checks allocate.
#define OWN_CHECK(condition) { const Exempt own; CHECK(condition); }
#define OWN_CHECK_EQUAL(found, expected) { const Exempt own; CHECK_EQUAL(found, expected); }

void* allocate(size_t size, size_t alignment) {
  if (exempt == 0 && countdown.load() > 0 && countdown.fetch_sub(1) == 1) return nullptr;
  if (alignment <= alignof(std::max_align_t)) return std::malloc(size ? size : 1);
  return std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}
void* allocate_or_throw(size_t size, size_t alignment) {
  if (void* memory = allocate(size, alignment)) return memory;
  throw std::bad_alloc();
}

}  // namespace

// Ours are malloc and free on both sides, which the compiler can't see when it inlines one of them.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
void* operator new(size_t size, const std::nothrow_t&) noexcept { return allocate(size, 1); }
void* operator new[](size_t size, const std::nothrow_t&) noexcept { return allocate(size, 1); }
void* operator new(size_t size) { return allocate_or_throw(size, 1); }
void* operator new[](size_t size) { return allocate_or_throw(size, 1); }
void* operator new(size_t size, std::align_val_t alignment) {
  return allocate_or_throw(size, static_cast<size_t>(alignment));
}
void* operator new[](size_t size, std::align_val_t alignment) {
  return allocate_or_throw(size, static_cast<size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }

namespace {

struct Request {
  std::mutex mutex;
  std::condition_variable changed;
  ern_engine* engine = nullptr;
  bool accepted = false;
  int ends = 0;
  ern_finish finish = ERN_RUNNING;

  static void on_event(void* user, const ern_event* event) {
    auto& request = *static_cast<Request*>(user);
    const Exempt own;
    ern_ack(request.engine, event->request, static_cast<int64_t>(event->id_count));
    const std::lock_guard lock(request.mutex);
    request.ends += event->finish != ERN_RUNNING;
    request.finish = event->finish;
    request.changed.notify_all();
  }
  void submit(int i) {
    const char* const stop = "never there";
    const int32_t bias_id = 5;
    const float bias = 0.5f;
    ern_sampling sampling = {};
    sampling.size = sizeof sampling;
    sampling.temperature = i % 2 ? 0.9f : 0;
    sampling.top_p = 0.8f;
    if (i != 2) {  // that one reads no logits, so that the step after it may begin early
      sampling.repetition_penalty = 1.1f;
      sampling.logprobs = 3;
      sampling.bias_ids = &bias_id, sampling.bias_values = &bias, sampling.bias_count = 1;
    }
    const ern_part parts[] = {{ERN_PART_TEMPLATE, "<|begin|>", 9}, {ERN_PART_USER, "the abc the abc the abc", 23}};
    ern_request request = {};
    request.size = sizeof request;
    request.parts = parts, request.part_count = 2;
    request.sampling = &sampling;
    request.max_tokens = 12;
    request.stops = &stop, request.stop_count = 1;
    request.on_event = on_event, request.user = this;
    uint64_t number = 0;
    const ern_status status = ern_submit(engine, &request, &number);
    accepted = status == ERN_OK;
    OWN_CHECK(status == ERN_OK || status == ERN_OUT_OF_MEMORY);
  }
  void wait() {
    if (!accepted) return;
    std::unique_lock lock(mutex);
    if (!changed.wait_for(lock, std::chrono::seconds(30), [this] { return ends > 0; })) {
      std::fprintf(stderr, "a request did not end\n");
      std::abort();
    }
  }
};

// Everything a program does with an engine, once. True if nothing failed.
bool session(const char* folder) {
  ern_engine_options options = {};
  options.size = sizeof options;
  options.threads = 2;
  options.kv_tokens = 160;
  ern_engine* engine = nullptr;
  const ern_status created = ern_engine_create(folder, &options, &engine);
  OWN_CHECK(created == ERN_OK || created == ERN_OUT_OF_MEMORY);
  if (created != ERN_OK) return false;
  bool good = true;
  Request requests[4];
  for (int i = 0; i < 4; ++i) {
    requests[i].engine = engine;
    requests[i].submit(i);
  }
  const int32_t ids[] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  const ern_logits_request pass = {sizeof pass, ids, 9, 4, 1, 3, [](void*, const ern_logits_chunk*) { return 0; },
                                   nullptr};
  const ern_status passed = ern_logits(engine, &pass);
  OWN_CHECK(passed == ERN_OK || passed == ERN_OUT_OF_MEMORY);
  char* text = nullptr;
  size_t bytes = 0;
  const ern_status decoded = ern_detokenize(engine, ids, 9, 1, &text, &bytes);
  ern_free(text);
  char* info = nullptr;
  const ern_status informed = ern_info(engine, &info);
  ern_free(info);
  for (Request& request : requests) {
    request.wait();
    good = good && request.accepted && request.finish == ERN_FINISH_LENGTH;
  }
  // It works again, whatever happened.
  if (countdown <= 0) {
    Request again;
    again.engine = engine;
    again.submit(1);
    again.wait();
    OWN_CHECK(again.accepted && again.finish == ERN_FINISH_LENGTH);
    OWN_CHECK_EQUAL(again.ends, 1);
    ern_memory memory = {};
    memory.size = sizeof memory;
    ern_get_memory(engine, &memory);
    OWN_CHECK_EQUAL(memory.kv_free_blocks, 10);
  }
  ern_engine_destroy(engine);
  for (Request& request : requests) OWN_CHECK_EQUAL(request.ends, request.accepted ? 1 : 0);
  return good && passed == ERN_OK && decoded == ERN_OK && informed == ERN_OK;
}

}  // namespace

int main() {
  test::PackageFolder folder("fake-1");
  folder.add("lib/libern_model.so", "the library");
  folder.add("tokenizer.model", tiny::rich().bytes());
  folder.add("text.json", R"({"format":1,"vocab_size":400})");
  CHECK(session(folder.path().c_str()));
  const int64_t many = int64_t{1} << 40;
  countdown = many;
  session(folder.path().c_str());
  const int64_t allocations = many - countdown;
  int failed = 0, rounds = 0;
  // All of the first ones, then in strides that reach every kind of place.
  for (int64_t n = 1; n <= allocations; n += 1 + n / 150, ++rounds) {
    countdown = n;
    failed += !session(folder.path().c_str());
    countdown = 0;
  }
  std::printf("%lld allocations, %d sessions, %d of them met a failure\n", static_cast<long long>(allocations), rounds,
              failed);
  CHECK(failed > 50);
  return check::result();
}
