// Requests: from a JavaScript object to ern_submit, and events from the engine's thread back to JavaScript in order.

#include <optional>

#include "node/engine.hpp"

namespace ern::node {
namespace {

// An event, copied on the engine's thread.
struct Event {
  std::string text;
  std::vector<int32_t> ids;
  std::vector<ern_logprob> logprobs;
  size_t top = 0;
  ern_finish finish = ERN_RUNNING;
  std::string message;
  double prompt_tokens = 0, cached_tokens = 0, completion_tokens = 0;
  double queue_ms = 0, prefill_ms = 0, decode_ms = 0;
};

// Lives until the last event was delivered, or the environment is gone.
struct Channel {
  napi_threadsafe_function function = nullptr;
  // Only the engine's thread reads and writes it: after `napi_closing` the function must not be touched again.
  bool closed = false;
};

// What the JavaScript handle keeps.
struct Handle {
  std::shared_ptr<Session> session;
  uint64_t number = 0;
};

const char* finish_name(ern_finish finish) {
  switch (finish) {
    case ERN_FINISH_STOP: return "stop";
    case ERN_FINISH_LENGTH: return "length";
    case ERN_FINISH_CANCELLED: return "cancelled";
    default: return "error";
  }
}

void on_engine_event(void* user, const ern_event* event) {
  auto* channel = static_cast<Channel*>(user);
  const bool last = event->finish != ERN_RUNNING;
  if (!channel->closed) {
    auto copy = std::make_unique<Event>();
    copy->text.assign(event->text, event->text_bytes);
    copy->ids.assign(event->ids, event->ids + event->id_count);
    if (event->logprobs) copy->logprobs.assign(event->logprobs, event->logprobs + event->id_count * (1 + event->logprob_top));
    copy->top = event->logprob_top;
    copy->finish = event->finish;
    if (last) {
      copy->message = event->message ? event->message : "";
      copy->prompt_tokens = static_cast<double>(event->prompt_tokens);
      copy->cached_tokens = static_cast<double>(event->cached_tokens);
      copy->completion_tokens = static_cast<double>(event->completion_tokens);
      copy->queue_ms = static_cast<double>(event->queue_ns) / 1e6;
      copy->prefill_ms = static_cast<double>(event->prefill_ns) / 1e6;
      copy->decode_ms = static_cast<double>(event->decode_ns) / 1e6;
    }
    // The queue has no bound of its own: max_unread bounds what a request may have in it.
    if (napi_call_threadsafe_function(channel->function, copy.get(), napi_tsfn_nonblocking) == napi_ok) {
      copy.release();
    } else {
      channel->closed = true;
    }
  }
  if (last) {
    if (!channel->closed) napi_release_threadsafe_function(channel->function, napi_tsfn_release);
    delete channel;
  }
}

napi_value logprobs_of(napi_env env, const Event& event) {
  napi_value list = nullptr;
  napi_create_array_with_length(env, event.ids.size(), &list);
  for (size_t i = 0; i < event.ids.size(); i++) {
    const ern_logprob* own = event.logprobs.data() + i * (1 + event.top);
    napi_value entry = nullptr, ids = nullptr, values = nullptr;
    napi_create_object(env, &entry);
    napi_create_array_with_length(env, event.top, &ids);
    napi_create_array_with_length(env, event.top, &values);
    for (size_t j = 0; j < event.top; j++) {
      napi_set_element(env, ids, static_cast<uint32_t>(j), make_number(env, own[1 + j].id));
      napi_set_element(env, values, static_cast<uint32_t>(j), make_number(env, own[1 + j].logprob));
    }
    set(env, entry, "logprob", own[0].logprob);
    set(env, entry, "topIds", ids);
    set(env, entry, "topLogprobs", values);
    napi_set_element(env, list, static_cast<uint32_t>(i), entry);
  }
  return list;
}

napi_value to_js(napi_env env, const Event& event) {
  napi_value object = nullptr, ids = nullptr;
  napi_create_object(env, &object);
  set(env, object, "text", event.text);
  napi_create_array_with_length(env, event.ids.size(), &ids);
  for (size_t i = 0; i < event.ids.size(); i++) napi_set_element(env, ids, static_cast<uint32_t>(i), make_number(env, event.ids[i]));
  set(env, object, "ids", ids);
  if (!event.logprobs.empty()) set(env, object, "logprobs", logprobs_of(env, event));
  if (event.finish == ERN_RUNNING) return object;
  napi_value finish = nullptr;
  napi_create_object(env, &finish);
  set(env, finish, "reason", std::string(finish_name(event.finish)));
  set(env, finish, "message", event.message);
  set(env, finish, "promptTokens", event.prompt_tokens);
  set(env, finish, "cachedTokens", event.cached_tokens);
  set(env, finish, "completionTokens", event.completion_tokens);
  set(env, finish, "queueMs", event.queue_ms);
  set(env, finish, "prefillMs", event.prefill_ms);
  set(env, finish, "decodeMs", event.decode_ms);
  set(env, object, "finish", finish);
  return object;
}

void deliver(napi_env env, napi_value on_event, void*, void* data) {
  std::unique_ptr<Event> event(static_cast<Event*>(data));
  if (!env || !on_event) return;  // the environment is going: the event has no reader
  napi_value argument = to_js(env, *event);
  napi_call_function(env, undefined(env), on_event, 1, &argument, nullptr);
}

Handle* handle_of(napi_env env, napi_callback_info info, size_t* argc, napi_value* argv) {
  napi_value self = nullptr;
  void* data = nullptr;
  napi_get_cb_info(env, info, argc, argv, &self, nullptr);
  if (napi_unwrap(env, self, &data) != napi_ok || !data) return nullptr;
  auto* handle = static_cast<Handle*>(data);
  return handle->session->closing() ? nullptr : handle;
}

napi_value request_cancel(napi_env env, napi_callback_info info) {
  size_t argc = 0;
  if (Handle* handle = handle_of(env, info, &argc, nullptr)) handle->session->api->cancel(handle->session->engine, handle->number);
  return undefined(env);
}

napi_value request_ack(napi_env env, napi_callback_info info) {
  size_t argc = 1;
  napi_value argv[1];
  if (Handle* handle = handle_of(env, info, &argc, argv)) {
    handle->session->api->ack(handle->session->engine, handle->number, static_cast<int64_t>(number(env, argv[0])));
  }
  return undefined(env);
}

// The request and everything that its pointers point to.
struct Request {
  Parts prompt;
  std::vector<int32_t> bias_ids, stop_ids;
  std::vector<float> bias_values;
  std::vector<std::string> stops;
  std::vector<const char*> stop_pointers;
  ern_request c = {};
  ern_sampling sampling = {};

  void read(napi_env env, napi_value js) {
    prompt.read(env, get(env, js, "ids"), get(env, js, "segments"));
    bias_ids = int32s(env, get(env, js, "biasIds"));
    bias_values = float32s(env, get(env, js, "biasValues"));
    stop_ids = int32s(env, get(env, js, "stopIds"));
    napi_value list = get(env, js, "stop");
    uint32_t count = 0;
    napi_get_array_length(env, list, &count);
    for (uint32_t i = 0; i < count; i++) {
      napi_value text = nullptr;
      napi_get_element(env, list, i, &text);
      stops.push_back(string(env, text));
    }
    for (const std::string& stop : stops) stop_pointers.push_back(stop.c_str());

    c.size = sizeof c;
    c.parts = prompt.parts.data();
    c.part_count = prompt.parts.size();
    c.max_tokens = static_cast<int64_t>(number(env, js, "maxTokens"));
    c.min_tokens = static_cast<int64_t>(number(env, js, "minTokens"));
    c.stops = stop_pointers.data();
    c.stop_count = stop_pointers.size();
    c.stop_ids = stop_ids.data();
    c.stop_id_count = stop_ids.size();
    c.keep_specials = boolean(env, get(env, js, "keepSpecials"));
    c.sampling = &sampling;
    ern_sampling& s = sampling;
    s.size = sizeof s;
    s.temperature = static_cast<float>(number(env, js, "temperature"));
    s.top_p = static_cast<float>(number(env, js, "topP"));
    s.top_k = static_cast<int32_t>(number(env, js, "topK"));
    s.min_p = static_cast<float>(number(env, js, "minP"));
    s.repetition_penalty = static_cast<float>(number(env, js, "repetitionPenalty"));
    s.frequency_penalty = static_cast<float>(number(env, js, "frequencyPenalty"));
    s.presence_penalty = static_cast<float>(number(env, js, "presencePenalty"));
    bool lossless = false;
    napi_get_value_bigint_uint64(env, get(env, js, "seed"), &s.seed, &lossless);
    s.bias_ids = bias_ids.data();
    s.bias_values = bias_values.data();
    s.bias_count = std::min(bias_ids.size(), bias_values.size());
    s.logprobs = static_cast<int32_t>(number(env, js, "logprobs")) + 1;
  }
};

}  // namespace

napi_value submit(napi_env env, const std::shared_ptr<Session>& session, napi_value js, napi_value on_event) {
  Request request;
  request.read(env, js);
  auto channel = std::make_unique<Channel>();
  if (napi_create_threadsafe_function(env, on_event, nullptr, make_string(env, "ern_request", NAPI_AUTO_LENGTH), 0, 1, nullptr, nullptr, nullptr, deliver,
                                      &channel->function) != napi_ok) {
    return throw_status(env, ERN_INVALID_ARGUMENT, "onEvent must be a function");
  }
  request.c.on_event = on_engine_event;
  request.c.user = channel.get();
  auto handle = std::make_unique<Handle>(Handle{session, 0});
  const ern_status status = session->api->submit(session->engine, &request.c, &handle->number);
  if (status != ERN_OK) {
    napi_release_threadsafe_function(channel->function, napi_tsfn_abort);
    return throw_status(env, status, session->api->last_message());
  }
  (void)channel.release();  // the last event frees it

  const napi_property_descriptor methods[] = {
      {"cancel", nullptr, request_cancel, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"ack", nullptr, request_ack, nullptr, nullptr, nullptr, napi_default, nullptr},
  };
  napi_value object = nullptr;
  napi_create_object(env, &object);
  napi_define_properties(env, object, std::size(methods), methods);
  napi_wrap(
      env, object, handle.release(), [](napi_env, void* data, void*) { delete static_cast<Handle*>(data); }, nullptr, nullptr);
  return object;
}

}  // namespace ern::node
