// The reader of text.json, whose format is described in tokenizer.hpp. Checks each value by itself; what needs tokenizer.model beside it
// (does this id name that piece?) is checked by Tokenizer::load.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "status.hpp"

namespace ern {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = true;
};

// generation_config.json's sampling values as the compiler found them; what is missing is for the engine to choose.
struct GenerationDefaults {
  std::optional<bool> do_sample;
  std::optional<double> temperature, top_p, min_p, repetition_penalty, frequency_penalty, presence_penalty;
  std::optional<int32_t> top_k;
};

struct TextConfig {
  int32_t vocab_size = 0;
  std::vector<AddedToken> added;                            // as listed
  std::vector<std::variant<int32_t, std::string>> specials; // as listed: by id or by content
  std::vector<int32_t> stop_ids;                            // as listed
  GenerationDefaults generation;
};

Result<TextConfig> parse_text_config(std::string_view json);

}  // namespace ern
