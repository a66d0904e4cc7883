#include "text_config.hpp"

#include <cmath>

#include "json.hpp"

namespace ern {
namespace {

constexpr int64_t max_vocab = 1 << 24;
constexpr size_t max_content = 4096;  // bytes of one added token

Status corrupt(const std::string& what) { return {Code::corrupt, "text.json: " + what}; }

// Not `quoted`: where a header brings <iomanip> along, std::quoted would be taken for strings.
std::string in_quotes(std::string_view text) { return '"' + std::string(text.substr(0, 64)) + '"'; }

// An id must lie in [0, vocab_size).
Result<int32_t> read_id(const json::Value& value, int32_t vocab_size, const char* where) {
  const auto id = value.integer();
  if (!id || *id < 0 || *id >= vocab_size) {
    return corrupt(std::string(where) + " holds something that is not an id from 0 to " + std::to_string(vocab_size - 1));
  }
  return static_cast<int32_t>(*id);
}

Status check_content(std::string_view content, const char* where) {
  if (content.empty()) return corrupt(std::string(where) + " holds an empty token");
  if (content.size() > max_content) return corrupt(std::string(where) + " holds a token of more than 4096 bytes");
  return {};
}

Status read_added(const json::Value& list, TextConfig& out) {
  if (!list.is(json::Kind::array)) return corrupt("\"added\" is not an array");
  for (auto item = list.first(); item; item = item->next()) {
    const auto id = item->find("id");
    const auto content = item->find("content");
    if (!id || !content || !content->string()) return corrupt("\"added\" holds something without an \"id\" and a string \"content\"");
    auto read = read_id(*id, out.vocab_size, "\"added\"");
    if (!read.ok()) return read.status();
    AddedToken token{read.value(), std::string(*content->string()), true};
    if (Status status = check_content(token.content, "\"added\""); !status.ok()) return status;
    if (const auto special = item->find("special")) {
      if (!special->boolean()) return corrupt("\"special\" of " + in_quotes(token.content) + " is neither true nor false");
      token.special = *special->boolean();
    }
    out.added.push_back(std::move(token));
  }
  return {};
}

Status read_specials(const json::Value& list, TextConfig& out) {
  if (!list.is(json::Kind::array)) return corrupt("\"specials\" is not an array");
  for (auto item = list.first(); item; item = item->next()) {
    if (const auto content = item->string()) {
      if (Status status = check_content(*content, "\"specials\""); !status.ok()) return status;
      out.specials.emplace_back(std::string(*content));
    } else {
      auto id = read_id(*item, out.vocab_size, "\"specials\"");
      if (!id.ok()) return id.status();
      out.specials.emplace_back(id.value());
    }
  }
  return {};
}

Status read_stops(const json::Value& list, TextConfig& out) {
  if (!list.is(json::Kind::array)) return corrupt("\"stop_ids\" is not an array");
  for (auto item = list.first(); item; item = item->next()) {
    auto id = read_id(*item, out.vocab_size, "\"stop_ids\"");
    if (!id.ok()) return id.status();
    out.stop_ids.push_back(id.value());
  }
  return {};
}

Status read_generation(const json::Value& object, GenerationDefaults& out) {
  if (!object.is(json::Kind::object)) return corrupt("\"generation\" is not an object");
  const struct {
    const char* name;
    std::optional<double>* into;
  } numbers[] = {{"temperature", &out.temperature},
                 {"top_p", &out.top_p},
                 {"min_p", &out.min_p},
                 {"repetition_penalty", &out.repetition_penalty},
                 {"frequency_penalty", &out.frequency_penalty},
                 {"presence_penalty", &out.presence_penalty}};
  for (const auto& field : numbers) {
    const auto value = object.find(field.name);
    if (!value || value->is(json::Kind::null)) continue;
    if (!value->number()) return corrupt("\"generation." + std::string(field.name) + "\" is not a number");
    *field.into = value->number();
  }
  if (const auto value = object.find("do_sample"); value && !value->is(json::Kind::null)) {
    if (!value->boolean()) return corrupt("\"generation.do_sample\" is neither true nor false");
    out.do_sample = value->boolean();
  }
  if (const auto value = object.find("top_k"); value && !value->is(json::Kind::null)) {
    const auto top_k = value->integer();
    if (!top_k || *top_k < -1 || *top_k > max_vocab) return corrupt("\"generation.top_k\" is not a whole number of a sensible size");
    out.top_k = static_cast<int32_t>(*top_k);
  }
  return {};
}

}  // namespace

Result<TextConfig> parse_text_config(std::string_view text) {
  auto document = json::Document::parse(text);
  if (!document.ok()) return corrupt(document.status().message());
  const json::Value root = document.value().root();
  if (!root.is(json::Kind::object)) return corrupt("it is not an object");
  const auto format = root.find("format");
  if (!format || !format->integer()) return corrupt("\"format\" is missing");
  if (*format->integer() != 1) {
    return Status(Code::unsupported, "text.json: format " + std::to_string(*format->integer()) + ", and this runtime reads format 1");
  }
  const auto vocab = root.find("vocab_size");
  const auto vocab_size = vocab ? vocab->integer() : std::nullopt;
  if (!vocab_size || *vocab_size < 1 || *vocab_size > max_vocab) return corrupt("\"vocab_size\" is missing or not from 1 to 16777216");

  TextConfig out;
  out.vocab_size = static_cast<int32_t>(*vocab_size);
  const struct {
    const char* name;
    Status (*read)(const json::Value&, TextConfig&);
  } parts[] = {{"added", read_added},
               {"specials", read_specials},
               {"stop_ids", read_stops},
               {"generation", [](const json::Value& v, TextConfig& o) { return read_generation(v, o.generation); }}};
  for (const auto& part : parts) {
    const auto value = root.find(part.name);
    if (!value) continue;
    if (Status status = part.read(*value, out); !status.ok()) return status;
  }
  return out;
}

}  // namespace ern
