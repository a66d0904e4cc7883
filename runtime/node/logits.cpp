// Forward passes: ern_logits waits, so it runs on a libuv thread; its chunks come back to JavaScript through a bounded queue, so that a long
// prompt of a large vocabulary never piles up in memory.

#include <cstring>

#include "node/engine.hpp"

namespace ern::node {
namespace {

constexpr size_t kChunksUnderWay = 2;

struct Tensor {
  std::string name;
  size_t columns = 0;
  bool integer = false;
  std::vector<float> f32;
  std::vector<int32_t> i32;
};

struct Chunk {
  int64_t start = 0;
  bool greedy = false;
  size_t rows = 0;
  std::vector<float> logits;
  std::vector<int32_t> next_ids;
  std::vector<Tensor> trace;
};

struct Pass {
  std::shared_ptr<Session> session;
  std::vector<int32_t> ids;
  ern_logits_request request = {};
  napi_threadsafe_function function = nullptr;
  napi_deferred deferred = nullptr;
  napi_async_work work = nullptr;
  bool closed = false;
  ern_status status = ERN_OK;
  std::string message;
  // On the JavaScript thread. The work and the queue both hold the pass; when the environment ends in mid-pass, the queue goes first.
  bool done = false;
  int holders = 2;
};

void drop(napi_env env, Pass* pass) {
  if (--pass->holders > 0) return;
  napi_delete_async_work(env, pass->work);
  delete pass;
}

template <class T>
std::vector<T> copy_rows(const T* data, const ern_tensor& tensor) {
  std::vector<T> out(tensor.rows * tensor.columns);
  for (size_t row = 0; row < tensor.rows; row++) std::memcpy(&out[row * tensor.columns], data + row * tensor.row_stride, tensor.columns * sizeof(T));
  return out;
}

Tensor copy_tensor(const ern_tensor& tensor) {
  Tensor copy;
  copy.name = tensor.name;
  copy.columns = tensor.columns;
  copy.integer = tensor.i32 != nullptr;
  if (copy.integer) copy.i32 = copy_rows(tensor.i32, tensor);
  else copy.f32 = copy_rows(tensor.f32, tensor);
  return copy;
}

int on_chunk(void* user, const ern_logits_chunk* chunk) {
  auto* pass = static_cast<Pass*>(user);
  if (pass->closed || pass->session->closing()) return 1;
  auto copy = std::make_unique<Chunk>();
  copy->start = chunk->start;
  copy->greedy = chunk->greedy != 0;
  copy->rows = chunk->logits.rows;
  copy->logits = copy_rows(chunk->logits.f32, chunk->logits);
  copy->next_ids.assign(chunk->next_ids, chunk->next_ids + chunk->logits.rows);
  for (size_t i = 0; i < chunk->trace_count; i++) copy->trace.push_back(copy_tensor(chunk->trace[i]));
  if (napi_call_threadsafe_function(pass->function, copy.get(), napi_tsfn_blocking) != napi_ok) {
    pass->closed = true;
    return 1;
  }
  copy.release();
  return 0;
}

napi_value floats(napi_env env, const std::vector<float>& values) {
  return make_typed(env, napi_float32_array, values.size(), [&](void* data) { std::memcpy(data, values.data(), values.size() * 4); });
}
napi_value ints(napi_env env, const std::vector<int32_t>& values) {
  return make_typed(env, napi_int32_array, values.size(), [&](void* data) { std::memcpy(data, values.data(), values.size() * 4); });
}

void deliver(napi_env env, napi_value callback, void*, void* data) {
  std::unique_ptr<Chunk> chunk(static_cast<Chunk*>(data));
  if (!env || !callback) return;
  napi_value object = nullptr, trace = nullptr, greedy = nullptr;
  napi_create_object(env, &object);
  napi_get_boolean(env, chunk->greedy, &greedy);
  set(env, object, "start", static_cast<double>(chunk->start));
  set(env, object, "greedy", greedy);
  set(env, object, "rows", static_cast<double>(chunk->rows));
  set(env, object, "logits", floats(env, chunk->logits));
  set(env, object, "nextIds", ints(env, chunk->next_ids));
  napi_create_array_with_length(env, chunk->trace.size(), &trace);
  for (size_t i = 0; i < chunk->trace.size(); i++) {
    const Tensor& tensor = chunk->trace[i];
    napi_value entry = nullptr;
    napi_create_object(env, &entry);
    set(env, entry, "name", tensor.name);
    set(env, entry, "cols", static_cast<double>(tensor.columns));
    set(env, entry, "data", tensor.integer ? ints(env, tensor.i32) : floats(env, tensor.f32));
    napi_set_element(env, trace, static_cast<uint32_t>(i), entry);
  }
  set(env, object, "trace", trace);
  napi_call_function(env, undefined(env), callback, 1, &object, nullptr);
}

void execute(napi_env, void* data) {
  auto* pass = static_cast<Pass*>(data);
  if (!pass->session->enter()) {
    pass->status = ERN_CANCELLED;
    pass->message = "the engine was disposed of";
    return;
  }
  pass->status = pass->session->api->logits(pass->session->engine, &pass->request);
  if (pass->status != ERN_OK) pass->message = pass->session->api->last_message();
  pass->session->leave();
}

// The queue's end comes after its last chunk was delivered: only then the promise settles.
void finalize(napi_env env, void* data, void*) {
  auto* pass = static_cast<Pass*>(data);
  if (pass->done) {
    if (pass->status == ERN_OK) napi_resolve_deferred(env, pass->deferred, undefined(env));
    else napi_reject_deferred(env, pass->deferred, make_error(env, pass->status, pass->message));
  }
  drop(env, pass);
}

void complete(napi_env env, napi_status, void* data) {
  auto* pass = static_cast<Pass*>(data);
  pass->done = true;
  if (!pass->closed) napi_release_threadsafe_function(pass->function, napi_tsfn_release);
  drop(env, pass);
}

}  // namespace

napi_value logits(napi_env env, const std::shared_ptr<Session>& session, size_t argc, napi_value* argv) {
  if (argc < 5) return throw_status(env, ERN_INVALID_ARGUMENT, "logits takes ids, chunk, trace, greedy and a function");
  auto* pass = new Pass;
  pass->session = session;
  pass->ids = int32s(env, argv[0]);
  pass->request.size = sizeof pass->request;
  pass->request.ids = pass->ids.data();
  pass->request.id_count = pass->ids.size();
  pass->request.chunk = static_cast<int32_t>(number(env, argv[1]));
  pass->request.trace = boolean(env, argv[2]);
  pass->request.greedy = static_cast<int64_t>(number(env, argv[3]));
  pass->request.on_chunk = on_chunk;
  pass->request.user = pass;
  if (napi_create_threadsafe_function(env, argv[4], nullptr, make_string(env, "ern_logits", NAPI_AUTO_LENGTH), kChunksUnderWay, 1, pass, finalize, nullptr, deliver,
                                      &pass->function) != napi_ok) {
    delete pass;
    return throw_status(env, ERN_INVALID_ARGUMENT, "logits needs a function for its chunks");
  }
  napi_value promise = nullptr;
  napi_create_promise(env, &pass->deferred, &promise);
  napi_create_async_work(env, nullptr, make_string(env, "ern_logits", NAPI_AUTO_LENGTH), execute, complete, pass, &pass->work);
  napi_queue_async_work(env, pass->work);
  return promise;
}

}  // namespace ern::node
