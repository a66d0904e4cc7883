// libFuzzer harness: any bytes as JSON, and as text.json.
//
//   S=runtime/src; clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -I$S test/fuzz/json_fuzz.cpp $S/{json,text_config}.cpp -o json_fuzz
//   ./json_fuzz -max_total_time=60 new/ test/fuzz/corpus/json
//
// Without clang: test/fuzz/replay.cpp runs the kept corpus.
#include <cstdlib>

#include "json.hpp"
#include "text_config.hpp"
#include "utf8.hpp"

namespace json = ern::json;

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

// Visits every value, and finds every member by its name.
size_t walk(const json::Value& value) {
  size_t values = 1, children = 0;
  if (const auto text = value.string()) require(ern::utf8::is_valid(*text));
  if (value.integer()) require(value.number().has_value());
  for (auto child = value.first(); child; child = child->next()) {
    children++;
    require(ern::utf8::is_valid(child->name()));
    if (value.is(json::Kind::object) && children < 50) require(value.find(child->name())->kind() == child->kind());
    values += walk(*child);
  }
  require(children == value.size());
  return values;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto document = json::Document::parse(text);
  if (document.ok()) {
    require(ern::utf8::is_valid(text));
    require(walk(document.value().root()) <= size);
  } else {
    require(!document.status().message().empty());
    json::Limits tight;
    tight.depth = 3;
    tight.values = 10;
    require(!json::Document::parse(text, tight).ok());
  }
  const auto config = ern::parse_text_config(text);
  if (config.ok()) {
    require(document.ok() && config.value().vocab_size > 0);
    for (const auto& token : config.value().added) require(token.id >= 0 && token.id < config.value().vocab_size && !token.content.empty());
  }
  return 0;
}
