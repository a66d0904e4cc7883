// The C interface: arguments checked, exceptions stopped, messages kept. What the calls do is elsewhere.
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>

#include "engine.hpp"
#include "include/ern.h"
#include "info.hpp"
#include "plan.hpp"
#include "request.hpp"

struct ern_engine {
  std::unique_ptr<ern::Engine> engine;
};

namespace ern {
namespace {

static_assert(static_cast<int>(Code::ok) == ERN_OK &&
              static_cast<int>(Code::invalid_argument) == ERN_INVALID_ARGUMENT &&
              static_cast<int>(Code::not_found) == ERN_NOT_FOUND && static_cast<int>(Code::corrupt) == ERN_CORRUPT &&
              static_cast<int>(Code::unsupported) == ERN_UNSUPPORTED &&
              static_cast<int>(Code::out_of_memory) == ERN_OUT_OF_MEMORY && static_cast<int>(Code::busy) == ERN_BUSY &&
              static_cast<int>(Code::cancelled) == ERN_CANCELLED && static_cast<int>(Code::io) == ERN_IO &&
              static_cast<int>(Code::internal) == ERN_INTERNAL && static_cast<int>(Code::device) == ERN_DEVICE);
static_assert(static_cast<int>(WeightsMode::automatic) == ERN_WEIGHTS_AUTO &&
              static_cast<int>(WeightsMode::map) == ERN_WEIGHTS_MAP &&
              static_cast<int>(WeightsMode::copy) == ERN_WEIGHTS_COPY);

// A fixed array: setting it can't fail, and a thread that ends has nothing to free.
thread_local char last_message[1024] = "";

ern_status fail(Code code, const char* message) {
  size_t size = std::strlen(message);
  if (size >= sizeof last_message) {
    size = sizeof last_message - 1;
    while (size > 0 && (static_cast<unsigned char>(message[size]) & 0xC0) == 0x80) --size;  // never half a character
  }
  std::memcpy(last_message, message, size);
  last_message[size] = '\0';
  return static_cast<ern_status>(code);
}

// Runs the body of a call; whatever it throws becomes a status.
template <class Body>
ern_status guarded(Body body) {
  try {
    const Status status = body();
    return status.ok() ? ERN_OK : fail(status.code(), status.message().c_str());
  } catch (const std::bad_alloc&) {
    return fail(Code::out_of_memory, "memory ran out");
  } catch (const std::exception& error) {
    return fail(Code::internal, error.what());
  } catch (...) {
    return fail(Code::internal, "an unknown exception");
  }
}

Status null_argument(const char* name) { return {Code::invalid_argument, std::string(name) + " is NULL"}; }

// Memory for the caller, freed by ern_free. At least one byte, so that an empty result isn't NULL.
template <class Element>
Element* hand_out(const Element* data, size_t count) {
  auto* const memory = static_cast<Element*>(std::malloc(count * sizeof(Element) + 1));
  if (!memory) throw std::bad_alloc();
  if (count > 0) std::memcpy(memory, data, count * sizeof(Element));
  return memory;
}

Result<EngineOptions> read_options(const ern_engine_options* given) {
  EngineOptions options;
  if (!given) return options;
  const auto read = read_struct(given, "options");
  if (!read.ok()) return read.status();
  const ern_engine_options& o = read.value();
  if (o.threads < 0 || o.max_batch < 0 || o.kv_tokens < 0 || o.prefill_chunk < 0 || o.max_queue < 0 ||
      o.max_unread < 0) {
    return Status{Code::invalid_argument, "options: a negative number"};
  }
  if (o.threads > max_team)
    return Status{Code::invalid_argument,
                  "threads is " + std::to_string(o.threads) + ", expected at most " + std::to_string(max_team)};
  if (o.weights < ERN_WEIGHTS_AUTO || o.weights > ERN_WEIGHTS_COPY)
    return Status{Code::invalid_argument, "weights is " + std::to_string(o.weights)};
  options.threads = o.threads;
  options.weights = static_cast<WeightsMode>(o.weights);
  options.verify = o.verify != 0;
  options.max_batch = o.max_batch;
  options.kv_tokens = o.kv_tokens;
  options.prefill_chunk = o.prefill_chunk;
  if (o.max_queue > 0) options.max_queue = o.max_queue;
  if (o.max_unread > 0) options.max_unread = o.max_unread;
  return options;
}

// Writes what fits of `value` into the caller's struct, whose own size stays.
template <class Struct>
Status write_struct(Struct* given, Struct value, const char* name) {
  if (!given || given->size < sizeof(size_t) || given->size > 4096)
    return {Code::invalid_argument, std::string(name) + ": NULL, or its size is not set"};
  value.size = given->size;
  std::memset(given, 0, value.size);
  std::memcpy(given, &value, value.size < sizeof value ? value.size : sizeof value);
  return {};
}

}  // namespace
}  // namespace ern

using namespace ern;

extern "C" {

ern_status ern_engine_create(const char* package_dir, const ern_engine_options* given, ern_engine** engine) {
  return guarded([&]() -> Status {
    if (!engine) return null_argument("engine");
    *engine = nullptr;
    if (!package_dir || !*package_dir) return null_argument("package_dir");
    const auto options = read_options(given);
    if (!options.ok()) return options.status();
    auto holder = std::make_unique<ern_engine>();
    auto created = Engine::create(package_dir, model_plan, options.value());
    if (!created.ok()) return created.status();
    holder->engine = std::move(created.value());
    *engine = holder.release();
    return {};
  });
}

void ern_engine_destroy(ern_engine* engine) {
  // From a callback it would wait for itself: then it is left alone, as the header says.
  if (!engine || engine->engine->on_own_thread()) return;
  delete engine;
}

ern_status ern_tokenize(ern_engine* engine, const ern_part* parts, size_t part_count, int32_t** ids, size_t* count) {
  return guarded([&]() -> Status {
    if (!engine || !ids || !count) return null_argument("engine, ids or count");
    *ids = nullptr, *count = 0;
    const auto encoded =
        encode_parts(parts, part_count, engine->engine->text().tokenizer.get(), engine->engine->plan().embedding_rows);
    if (!encoded.ok()) return encoded.status();
    *ids = hand_out(encoded.value().data(), encoded.value().size());
    *count = encoded.value().size();
    return {};
  });
}

ern_status ern_detokenize(ern_engine* engine, const int32_t* ids, size_t count, int32_t keep_specials, char** text,
                          size_t* bytes) {
  return guarded([&]() -> Status {
    if (!engine || !text || !bytes || (count > 0 && !ids)) return null_argument("engine, ids, text or bytes");
    *text = nullptr, *bytes = 0;
    const Tokenizer* const tokenizer = engine->engine->text().tokenizer.get();
    if (!tokenizer) return {Code::unsupported, "this package has no tokenizer"};
    const std::string decoded = tokenizer->decode({ids, count}, keep_specials != 0);
    *text = hand_out(decoded.c_str(), decoded.size() + 1);
    *bytes = decoded.size();
    return {};
  });
}

void ern_free(void* memory) { std::free(memory); }

ern_status ern_submit(ern_engine* engine, const ern_request* given, uint64_t* number) {
  return guarded([&]() -> Status {
    if (!engine || !number) return null_argument("engine or number");
    const auto request = read_struct(given, "request");
    if (!request.ok()) return request.status();
    auto sequence = make_sequence(request.value(), *engine->engine);
    if (!sequence.ok()) return sequence.status();
    return engine->engine->submit(std::move(sequence.value()), number);
  });
}

ern_status ern_cancel(ern_engine* engine, uint64_t number) {
  return guarded([&]() -> Status {
    if (!engine) return null_argument("engine");
    engine->engine->cancel(number);
    return {};
  });
}

ern_status ern_ack(ern_engine* engine, uint64_t number, int64_t tokens) {
  return guarded([&]() -> Status {
    if (!engine) return null_argument("engine");
    if (tokens < 0) return {Code::invalid_argument, "tokens is negative"};
    engine->engine->ack(number, tokens);
    return {};
  });
}

ern_status ern_logits(ern_engine* engine, const ern_logits_request* given) {
  return guarded([&]() -> Status {
    if (!engine) return null_argument("engine");
    const auto request = read_struct(given, "request");
    if (!request.ok()) return request.status();
    if (engine->engine->on_own_thread())
      return {Code::invalid_argument, "ern_logits waits for the thread that it was called on"};
    if (Status status = check_logits(request.value(), *engine->engine); !status.ok()) return status;
    return engine->engine->logits(request.value());
  });
}

ern_status ern_profile(ern_engine* engine, const ern_profile_request* given) {
  return guarded([&]() -> Status {
    if (!engine) return null_argument("engine");
    const auto read = read_struct(given, "request");
    if (!read.ok()) return read.status();
    const ern_profile_request& request = read.value();
    if (!request.on_kernel) return null_argument("on_kernel");
    if (engine->engine->on_own_thread())
      return {Code::invalid_argument, "ern_profile waits for the thread that it was called on"};
    ProfileCall call{request.batch, request.rows, request.context, {}, {}};
    if (Status status = engine->engine->profile(call); !status.ok()) return status;
    for (const KernelTime& time : call.times) {
      const ern_kernel_time told = {time.kernel, time.launches, time.us};
      request.on_kernel(request.user, &told);
    }
    return {};
  });
}

ern_status ern_get_memory(ern_engine* engine, ern_memory* memory) {
  return guarded([&]() -> Status {
    if (!engine) return null_argument("engine");
    const Engine& e = *engine->engine;
    ern_memory now = {};
    now.weight_bytes = e.plan().weights_bytes;
    now.arena_bytes = e.arena_bytes();
    now.kv_block_bytes = e.plan().kv_block_bytes;
    now.kv_bytes = now.kv_block_bytes * static_cast<uint64_t>(e.kv_blocks());
    now.weights = static_cast<int32_t>(e.weights_mode());
    now.kv_block_size = e.plan().kv_block_size;
    now.kv_blocks = e.kv_blocks();
    now.kv_free_blocks = static_cast<int32_t>(e.counters().free_blocks);
    now.kv_cached_blocks = static_cast<int32_t>(e.counters().cached_blocks);
    return write_struct(memory, now, "memory");
  });
}

ern_status ern_get_timings(ern_engine* engine, ern_timings* timings) {
  return guarded([&]() -> Status {
    if (!engine) return null_argument("engine");
    const Counters& c = engine->engine->counters();
    const ern_timings now = {
        0,           c.load_ns,   c.prefill_steps, c.prefill_tokens, c.prefill_ns, c.decode_steps, c.decode_tokens,
        c.decode_ns, c.sample_ns, c.preemptions,   c.cached_tokens,  c.running,    c.waiting};
    return write_struct(timings, now, "timings");
  });
}

ern_status ern_info(ern_engine* engine, char** json) {
  return guarded([&]() -> Status {
    if (!engine || !json) return null_argument("engine or json");
    *json = nullptr;
    const std::string text = info_json(*engine->engine);
    *json = hand_out(text.c_str(), text.size() + 1);
    return {};
  });
}

const char* ern_version(void) { return runtime_version; }
const char* ern_last_message(void) { return last_message; }

// The table's entries, under names that only this library sees: a reference to the public name could end in another
// model's library.
#ifndef __clang__
// What the compiler finds out about a function (that it doesn't throw), its alias need not say.
#pragma GCC diagnostic ignored "-Wmissing-attributes"
#endif
#define ERN_OWN(name) static __typeof__(ern_##name) own_##name __attribute__((alias("ern_" #name)))
ERN_OWN(engine_create);
ERN_OWN(engine_destroy);
ERN_OWN(tokenize);
ERN_OWN(detokenize);
ERN_OWN(free);
ERN_OWN(submit);
ERN_OWN(cancel);
ERN_OWN(ack);
ERN_OWN(logits);
ERN_OWN(get_memory);
ERN_OWN(get_timings);
ERN_OWN(info);
ERN_OWN(version);
ERN_OWN(last_message);
ERN_OWN(profile);
#undef ERN_OWN

const ern_api* ern_get_api(uint32_t version) {
  static constexpr ern_api api = {sizeof(ern_api), ERN_API_VERSION, own_engine_create, own_engine_destroy,
                                  own_tokenize,    own_detokenize,  own_free,          own_submit,
                                  own_cancel,      own_ack,         own_logits,        own_get_memory,
                                  own_get_timings, own_info,        own_version,       own_last_message,
                                  own_profile};
  return version == ERN_API_VERSION ? &api : nullptr;
}

}  // extern "C"
