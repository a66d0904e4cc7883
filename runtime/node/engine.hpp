// The JavaScript engine object of the addon: what it shares with its requests, and how its end is ordered.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>

#include "node/convert.hpp"

namespace ern::node {

// An engine of an opened library. JavaScript calls, work on libuv's threads and callbacks of the engine's thread share it.
class Session {
 public:
  Session(const ern_api* api, ern_engine* engine) : api(api), engine(engine) {}
  ~Session() { close(); }

  const ern_api* const api;
  ern_engine* const engine;

  bool closing() const { return closing_.load(std::memory_order_acquire); }

  // Forward passes run on other threads: they enter and leave, and the end of the engine waits for them.
  bool enter() {
    std::lock_guard lock(mutex_);
    if (closing()) return false;
    active_++;
    return true;
  }
  void leave() {
    std::lock_guard lock(mutex_);
    active_--;
    idle_.notify_all();
  }

  // From here on calls are refused and passes give up. On the JavaScript thread.
  void begin_close() { closing_.store(true, std::memory_order_release); }

  // Waits for passes, then destroys the engine; its requests get their last events first. Once; may block for as long as a step takes.
  void close() {
    begin_close();
    std::unique_lock lock(mutex_);
    idle_.wait(lock, [this] { return active_ == 0; });
    if (!destroyed_) {
      destroyed_ = true;
      api->engine_destroy(engine);
    }
  }

 private:
  std::atomic<bool> closing_{false};
  std::mutex mutex_;
  std::condition_variable idle_;
  int active_ = 0;
  bool destroyed_ = false;
};

// `createEngine(library, packageDir, options)`: a promise of an engine object.
napi_value create_engine(napi_env env, napi_callback_info info);
// `engine.submit(request, onEvent)`: an object with cancel() and ack(tokens).
napi_value submit(napi_env env, const std::shared_ptr<Session>& session, napi_value request, napi_value on_event);
// `engine.logits(ids, chunk, trace, greedy, onChunk)`: a promise that settles when the pass is over.
napi_value logits(napi_env env, const std::shared_ptr<Session>& session, size_t argc, napi_value* argv);
// `engine.profile(batch, rows, context)`: a promise of the kernels' times.
napi_value profile(napi_env env, const std::shared_ptr<Session>& session, size_t argc, napi_value* argv);

}  // namespace ern::node
