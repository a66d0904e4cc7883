// Engine objects: opening a library, the methods, and an end that is safe when JavaScript forgets about it or the process leaves.

#include "node/engine.hpp"

#include <dlfcn.h>

#include <set>
#include <string>

namespace ern::node {
namespace {

using Shared = std::shared_ptr<Session>;

// Environments (the main thread, each Worker) may end while engines run: then the engines end first.
void cleanup(void* data) {
  auto* session = static_cast<Shared*>(data);
  (*session)->close();
}

Shared* unwrap(napi_env env, napi_callback_info info, size_t* argc, napi_value* argv) {
  napi_value self = nullptr;
  void* data = nullptr;
  napi_get_cb_info(env, info, argc, argv, &self, nullptr);
  if (napi_unwrap(env, self, &data) != napi_ok || data == nullptr) {
    throw_status(env, ERN_INVALID_ARGUMENT, "not an engine");
    return nullptr;
  }
  auto* session = static_cast<Shared*>(data);
  if ((*session)->closing()) {
    throw_status(env, ERN_INVALID_ARGUMENT, "the engine was disposed of");
    return nullptr;
  }
  return session;
}

napi_value engine_info(napi_env env, napi_callback_info info) {
  size_t argc = 0;
  Shared* session = unwrap(env, info, &argc, nullptr);
  if (!session) return nullptr;
  const ern_api* api = (*session)->api;
  char* json = nullptr;
  if (const ern_status status = api->info((*session)->engine, &json); status != ERN_OK) return throw_status(env, status, api->last_message());
  napi_value text = make_string(env, json, NAPI_AUTO_LENGTH);
  api->free(json);
  ern_memory memory = {};
  memory.size = sizeof memory;
  napi_value result = nullptr;
  napi_create_object(env, &result);
  set(env, result, "json", text);
  if (api->get_memory((*session)->engine, &memory) == ERN_OK) {
    set(env, result, "kvFreeBlocks", memory.kv_free_blocks);
    set(env, result, "kvBlocks", memory.kv_blocks);
    set(env, result, "kvBlockSize", memory.kv_block_size);
    set(env, result, "weightBytes", static_cast<double>(memory.weight_bytes));
  }
  return result;
}

napi_value engine_tokenize(napi_env env, napi_callback_info info) {
  size_t argc = 1;
  napi_value argv[1];
  Shared* session = unwrap(env, info, &argc, argv);
  if (!session) return nullptr;
  const ern_api* api = (*session)->api;
  Parts prompt;
  prompt.read(env, nullptr, argv[0]);
  int32_t* ids = nullptr;
  size_t count = 0;
  const ern_status status = api->tokenize((*session)->engine, prompt.parts.data(), prompt.parts.size(), &ids, &count);
  if (status != ERN_OK) return throw_status(env, status, api->last_message());
  napi_value result = make_typed(env, napi_int32_array, count, [&](void* data) { std::copy(ids, ids + count, static_cast<int32_t*>(data)); });
  api->free(ids);
  return result;
}

napi_value engine_detokenize(napi_env env, napi_callback_info info) {
  size_t argc = 2;
  napi_value argv[2];
  Shared* session = unwrap(env, info, &argc, argv);
  if (!session) return nullptr;
  const ern_api* api = (*session)->api;
  const std::vector<int32_t> ids = int32s(env, argv[0]);
  char* text = nullptr;
  size_t bytes = 0;
  const ern_status status = api->detokenize((*session)->engine, ids.data(), ids.size(), boolean(env, argv[1]), &text, &bytes);
  if (status != ERN_OK) return throw_status(env, status, api->last_message());
  napi_value result = make_string(env, text, bytes);
  api->free(text);
  return result;
}

napi_value engine_submit(napi_env env, napi_callback_info info) {
  size_t argc = 2;
  napi_value argv[2];
  Shared* session = unwrap(env, info, &argc, argv);
  return session ? submit(env, *session, argv[0], argv[1]) : nullptr;
}

napi_value engine_logits(napi_env env, napi_callback_info info) {
  size_t argc = 5;
  napi_value argv[5];
  Shared* session = unwrap(env, info, &argc, argv);
  return session ? logits(env, *session, argc, argv) : nullptr;
}

napi_value engine_profile(napi_env env, napi_callback_info info) {
  size_t argc = 3;
  napi_value argv[3];
  Shared* session = unwrap(env, info, &argc, argv);
  return session ? profile(env, *session, argc, argv) : nullptr;
}

struct Dispose {
  Shared session;
  napi_deferred deferred = nullptr;
  napi_async_work work = nullptr;
};

napi_value engine_dispose(napi_env env, napi_callback_info info) {
  napi_value self = nullptr, promise = nullptr;
  size_t argc = 0;
  void* data = nullptr;
  napi_get_cb_info(env, info, &argc, nullptr, &self, nullptr);
  auto* work = new Dispose;
  napi_create_promise(env, &work->deferred, &promise);
  if (napi_unwrap(env, self, &data) == napi_ok && data) work->session = *static_cast<Shared*>(data);
  if (work->session) work->session->begin_close();
  napi_create_async_work(
      env, nullptr, make_string(env, "ern_dispose", NAPI_AUTO_LENGTH),
      [](napi_env, void* p) {
        if (auto& session = static_cast<Dispose*>(p)->session) session->close();
      },
      [](napi_env env, napi_status, void* p) {
        auto* work = static_cast<Dispose*>(p);
        napi_resolve_deferred(env, work->deferred, undefined(env));
        napi_delete_async_work(env, work->work);
        delete work;
      },
      work, &work->work);
  napi_queue_async_work(env, work->work);
  return promise;
}

napi_value make_engine(napi_env env, const Shared& session) {
  const napi_property_descriptor methods[] = {
      {"info", nullptr, engine_info, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"tokenize", nullptr, engine_tokenize, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"detokenize", nullptr, engine_detokenize, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"submit", nullptr, engine_submit, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"logits", nullptr, engine_logits, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"profile", nullptr, engine_profile, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"dispose", nullptr, engine_dispose, nullptr, nullptr, nullptr, napi_default, nullptr},
  };
  napi_value object = nullptr;
  napi_create_object(env, &object);
  napi_define_properties(env, object, std::size(methods), methods);
  // One handle for the object, which goes with it; one for the environment's end, whose hooks run before the last objects are finalized.
  auto* hook = new Shared(session);
  napi_add_env_cleanup_hook(env, cleanup, hook);
  struct Handle {
    Shared session;
    Shared* hook;
  };
  static_assert(offsetof(Handle, session) == 0, "unwrap() reads the session first");
  auto* handle = new Handle{session, hook};
  napi_wrap(
      env, object, handle,
      [](napi_env env, void* data, void*) {
        auto* handle = static_cast<Handle*>(data);
        napi_remove_env_cleanup_hook(env, cleanup, handle->hook);
        handle->session->close();
        delete handle->hook;
        delete handle;
      },
      nullptr, nullptr);
  return object;
}

struct Create {
  std::string library, package;
  ern_engine_options options = {};
  napi_deferred deferred = nullptr;
  napi_async_work work = nullptr;
  ern_status status = ERN_OK;
  std::string message;
  const ern_api* api = nullptr;
  ern_engine* engine = nullptr;
};

// Opens the library once a process: its path is never reused for another build, and it is never closed, since its threads may be in it.
void create_on_worker(napi_env, void* data) {
  auto* work = static_cast<Create*>(data);
  const auto fail = [&](ern_status status, std::string message) {
    work->status = status;
    work->message = std::move(message);
  };
  void* library = dlopen(work->library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) return fail(ERN_NOT_FOUND, dlerror());
  using GetApi = const ern_api* (*)(uint32_t);
  const auto get_api = reinterpret_cast<GetApi>(dlsym(library, "ern_get_api"));
  work->api = get_api ? get_api(ERN_API_VERSION) : nullptr;
  if (!work->api) return fail(ERN_UNSUPPORTED, "the package's library has another interface: build the package again");
  const ern_status status = work->api->engine_create(work->package.c_str(), &work->options, &work->engine);
  if (status != ERN_OK) fail(status, work->api->last_message());
}

void create_done(napi_env env, napi_status, void* data) {
  auto* work = static_cast<Create*>(data);
  if (work->status == ERN_OK) {
    napi_resolve_deferred(env, work->deferred, make_engine(env, std::make_shared<Session>(work->api, work->engine)));
  } else {
    napi_reject_deferred(env, work->deferred, make_error(env, work->status, work->message));
  }
  napi_delete_async_work(env, work->work);
  delete work;
}

}  // namespace

napi_value create_engine(napi_env env, napi_callback_info info) {
  size_t argc = 3;
  napi_value argv[3];
  napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr);
  auto* work = new Create;
  work->library = string(env, argv[0]);
  work->package = string(env, argv[1]);
  work->options.size = sizeof work->options;
  work->options.threads = static_cast<int32_t>(number(env, argv[2], "threads"));
  work->options.kv_tokens = static_cast<int64_t>(number(env, argv[2], "kvTokens"));
  work->options.verify = boolean(env, get(env, argv[2], "verify"));
  work->options.weights = static_cast<int32_t>(number(env, argv[2], "weights"));
  work->options.prefill_chunk = static_cast<int32_t>(number(env, argv[2], "prefillChunk"));
  napi_value promise = nullptr;
  napi_create_promise(env, &work->deferred, &promise);
  napi_create_async_work(env, nullptr, make_string(env, "ern_create", NAPI_AUTO_LENGTH), create_on_worker, create_done, work, &work->work);
  napi_queue_async_work(env, work->work);
  return promise;
}

}  // namespace ern::node
