#include "request.hpp"

#include <algorithm>
#include <cmath>
#include <string_view>

namespace ern {
namespace {

constexpr int32_t most_logprobs = 20;
constexpr float coldest = 1e-5f;  // temperatures below are greedy: dividing by them would only overflow

Status invalid(std::string message) { return {Code::invalid_argument, std::move(message)}; }

Status check_id(const char* what, size_t index, int32_t id, int32_t rows) {
  if (id >= 0 && id < rows) return {};
  return invalid(std::string(what) + "[" + std::to_string(index) + "] is " + std::to_string(id) +
                 ", expected an id from 0 to " + std::to_string(rows - 1));
}

Status check_number(const char* what, float value, float least, float most) {
  if (value >= least && value <= most) return {};  // false for NaN
  return invalid(std::string(what) + " is " + std::to_string(value) + ", expected " + std::to_string(least) + " to " +
                 std::to_string(most));
}

Result<SamplingParams> read_sampling(const ern_sampling* given, int32_t vocab) {
  SamplingParams params;
  if (!given) return params;
  const auto read = read_struct(given, "sampling");
  if (!read.ok()) return read.status();
  const ern_sampling& s = read.value();
  const struct {
    const char* name;
    float value, least, most;
  } numbers[] = {{"temperature", s.temperature, 0, 1000},
                 {"top_p", s.top_p, 0, 1},
                 {"min_p", s.min_p, 0, 1},
                 {"repetition_penalty", s.repetition_penalty, 0, 1000},
                 {"frequency_penalty", s.frequency_penalty, -1000, 1000},
                 {"presence_penalty", s.presence_penalty, -1000, 1000}};
  for (const auto& number : numbers) {
    if (Status status = check_number(number.name, number.value, number.least, number.most); !status.ok()) return status;
  }
  if (s.top_k < 0) return invalid("top_k is " + std::to_string(s.top_k) + ", expected 0 or more");
  if (s.logprobs < 0 || s.logprobs > most_logprobs + 1)
    return invalid("logprobs is " + std::to_string(s.logprobs) + ", expected 0 to " +
                   std::to_string(most_logprobs + 1));
  if (s.bias_count > 0 && (!s.bias_ids || !s.bias_values)) return invalid("bias: NULL");
  for (size_t i = 0; i < s.bias_count; ++i) {
    if (Status status = check_id("bias_ids", i, s.bias_ids[i], vocab); !status.ok()) return status;
    if (!std::isfinite(s.bias_values[i]))
      return invalid("bias_values[" + std::to_string(i) + "] is not a finite number");
    params.bias.emplace_back(s.bias_ids[i], s.bias_values[i]);
  }
  params.temperature = s.temperature < coldest ? 0 : s.temperature;
  params.top_p = s.top_p == 0 ? 1 : s.top_p;
  params.top_k = s.top_k;
  params.min_p = s.min_p;
  params.repetition = s.repetition_penalty == 0 ? 1 : s.repetition_penalty;
  params.frequency = s.frequency_penalty;
  params.presence = s.presence_penalty;
  params.seed = s.seed;
  params.logprobs = s.logprobs - 1;
  return params;
}

Result<StopMatcher> read_stops(const ern_request& request, const Engine& engine) {
  if (request.stop_count == 0) return StopMatcher();
  if (!request.stops) return invalid("stops: NULL");
  if (!engine.text().tokenizer)
    return Status{Code::unsupported, "stop strings need a tokenizer, and this package has none"};
  std::vector<std::string> stops;
  for (const char* stop : std::span(request.stops, request.stop_count)) {
    if (!stop) return invalid("stops: NULL");
    stops.emplace_back(stop);
  }
  return StopMatcher::create(stops);
}

}  // namespace

Result<std::vector<int32_t>> encode_parts(const ern_part* parts, size_t count, const Tokenizer* tokenizer,
                                          int32_t rows) {
  if (count > 0 && !parts) return invalid("parts: NULL");
  std::vector<int32_t> ids;
  std::vector<Segment> text;
  const auto flush = [&] {
    if (text.empty()) return;
    const std::vector<int32_t> encoded = tokenizer->encode(text);
    ids.insert(ids.end(), encoded.begin(), encoded.end());
    text.clear();
  };
  for (size_t i = 0; i < count; ++i) {
    const ern_part& part = parts[i];
    if (part.count > 0 && !part.data) return invalid("parts[" + std::to_string(i) + "].data is NULL");
    switch (part.kind) {
      case ERN_PART_TOKENS: {
        flush();
        const std::span given(static_cast<const int32_t*>(part.data), part.count);
        for (size_t at = 0; at < given.size(); ++at) {
          if (Status status = check_id("ids", at, given[at], rows); !status.ok()) return status;
        }
        ids.insert(ids.end(), given.begin(), given.end());
        break;
      }
      case ERN_PART_TEMPLATE:
      case ERN_PART_USER:
        if (!tokenizer) return Status{Code::unsupported, "text needs a tokenizer, and this package has none: pass ids"};
        text.push_back({{static_cast<const char*>(part.data), part.count},
                        part.kind == ERN_PART_USER ? Origin::user : Origin::template_});
        break;
      default: return invalid("parts[" + std::to_string(i) + "].kind is " + std::to_string(part.kind));
    }
  }
  flush();
  return ids;
}

Result<std::unique_ptr<Sequence>> make_sequence(const ern_request& request, const Engine& engine) {
  if (!request.on_event) return invalid("on_event is NULL");
  if (request.max_tokens < 0 || request.min_tokens < 0)
    return invalid("max_tokens and min_tokens must not be negative");
  auto sequence = std::make_unique<Sequence>();
  auto sampling = read_sampling(request.sampling, engine.plan().vocab_size);
  if (!sampling.ok()) return sampling.status();
  auto stops = read_stops(request, engine);
  if (!stops.ok()) return stops.status();
  auto ids =
      encode_parts(request.parts, request.part_count, engine.text().tokenizer.get(), engine.plan().embedding_rows);
  if (!ids.ok()) return ids.status();
  const auto prompt = static_cast<int64_t>(ids.value().size());
  if (prompt == 0) return invalid("the prompt is empty");
  const int64_t most = engine.most_tokens();
  if (prompt >= most) {
    return invalid("the prompt has " + std::to_string(prompt) + " tokens, expected fewer than " + std::to_string(most) +
                   ", which is what the " + (most == engine.plan().max_context ? "context" : "KV cache") + " holds");
  }
  sequence->tokens = std::move(ids.value());
  sequence->prompt = prompt;
  sequence->most = request.max_tokens > 0 && request.max_tokens < most - prompt ? prompt + request.max_tokens : most;
  sequence->min_tokens = request.min_tokens;
  sequence->sampling = std::move(sampling.value());
  if (sequence->sampling.penalised()) {
    for (const int32_t id : sequence->tokens) {
      if (id < engine.plan().vocab_size) sequence->counts.try_emplace(id, 0);
    }
  }
  sequence->stop_ids.assign(engine.text().stop_ids.begin(), engine.text().stop_ids.end());
  if (request.stop_id_count > 0 && !request.stop_ids) return invalid("stop_ids: NULL");
  for (size_t i = 0; i < request.stop_id_count; ++i) {
    if (Status status = check_id("stop_ids", i, request.stop_ids[i], engine.plan().vocab_size); !status.ok())
      return status;
    sequence->stop_ids.push_back(request.stop_ids[i]);
  }
  // Some would be suppressed as columns of the logits.
  std::erase_if(sequence->stop_ids, [&](int32_t id) { return id < 0 || id >= engine.plan().vocab_size; });
  sequence->text = TextStream(engine.text().tokenizer.get(), request.keep_specials != 0, std::move(stops.value()));
  sequence->on_event = request.on_event;
  sequence->user = request.user;
  sequence->most_unread = engine.options().max_unread;
  return sequence;
}

Status check_logits(const ern_logits_request& request, const Engine& engine) {
  if (!request.on_chunk) return invalid("on_chunk is NULL");
  if (request.id_count == 0 || !request.ids) return invalid("the prompt is empty");
  if (request.chunk < 0 || request.greedy < 0) return invalid("chunk and greedy must not be negative");
  const auto most = static_cast<uint64_t>(engine.most_tokens());
  if (request.id_count > most || static_cast<uint64_t>(request.greedy) > most - request.id_count) {
    return invalid(std::to_string(request.id_count) + " ids and " + std::to_string(request.greedy) +
                   " greedy ones, expected at most " + std::to_string(most) + " together");
  }
  for (size_t i = 0; i < request.id_count; ++i) {
    if (Status status = check_id("ids", i, request.ids[i], engine.plan().embedding_rows); !status.ok()) return status;
  }
  const auto has = [&](ProgramKind kind) {
    const std::span programs(engine.plan().programs, engine.plan().program_count);
    return std::ranges::any_of(programs, [&](const Program& program) { return program.kind == kind; });
  };
  if (request.trace != 0 && !has(ProgramKind::trace))
    return {Code::unsupported, "this package was built without a traced program"};
  if (request.trace == 0 && request.chunk != 1 && !has(ProgramKind::score))
    return {Code::unsupported, "this package was built without a program for the logits of all positions"};
  return {};
}

}  // namespace ern
