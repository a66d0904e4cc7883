// libFuzzer harness: any bytes as tokenizer.model and text.json; what loads must encode and decode without breaking its promises.
// Input: a model, then a text.json, then the length of the text.json in two bytes, little-endian (0: a plain one is used).
// Seeds come from `tokenizer_test seeds <folder>`.
//
//   S=runtime/src
//   clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -I$S -o tokenizer_fuzz test/fuzz/tokenizer_fuzz.cpp
//     $S/{bpe,detokenizer,json,piece_table,prefix_matcher,sentencepiece,text_config,tokenizer}.cpp                        (one line with the one above)
//   ./tokenizer_fuzz -max_total_time=60 -max_len=20000 new/ test/fuzz/corpus/tokenizer
//
// Without clang: test/fuzz/replay.cpp runs the kept corpus.
#include <cstdlib>

#include "detokenizer.hpp"
#include "tokenizer.hpp"
#include "utf8.hpp"

using namespace ern;

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

void use(const Tokenizer& tokenizer, std::string_view text) {
  const auto ids = tokenizer.encode(text);
  require(ids.size() <= 3 * text.size() + 3);
  for (const int32_t id : ids) require(tokenizer.has_piece(id) && !tokenizer.is_template_token(id));
  const std::string decoded = tokenizer.decode(ids);
  require(utf8::is_valid(decoded));
  std::string streamed;
  Detokenizer detokenizer(tokenizer);
  for (const int32_t id : ids) {
    const std::string part = detokenizer.push(id);
    require(utf8::is_valid(part));
    streamed += part;
  }
  require(streamed + detokenizer.finish() == decoded);
  // The same text from a template: between its template tokens nothing changes.
  const size_t half = text.size() / 2;
  const Segment segments[] = {{text.substr(0, half), Origin::template_}, {text.substr(half), Origin::user}, {text, Origin::template_}};
  for (const int32_t id : tokenizer.encode(segments)) require(tokenizer.has_piece(id));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view input(reinterpret_cast<const char*>(data), size);
  std::string_view json = R"({"format":1,"vocab_size":65536})";
  if (size >= 2) {
    const size_t length = data[size - 2] | static_cast<size_t>(data[size - 1]) << 8;
    input.remove_suffix(2);
    if (length != 0 && length <= input.size()) {
      json = input.substr(input.size() - length);
      input.remove_suffix(length);
    }
  }
  const auto loaded = Tokenizer::load(std::as_bytes(std::span(input)), json);
  if (!loaded.ok()) {
    require(!loaded.status().message().empty());
    return 0;
  }
  const Tokenizer& tokenizer = *loaded.value();
  use(tokenizer, input.substr(0, 2000));
  use(tokenizer, json);
  use(tokenizer, "Hello, 你好 世界 12\n\t  \xE4\xBD\xFF▁ aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
  std::string all;
  for (int32_t id = 0; id < std::min(tokenizer.vocab_size(), 2000); id++) {
    require(tokenizer.has_piece(id) == !tokenizer.piece(id).empty());
    all += tokenizer.token_bytes(id);
    if (tokenizer.has_piece(id)) require(tokenizer.piece_to_id(tokenizer.piece(id)) >= 0);
  }
  use(tokenizer, std::string_view(all).substr(0, 20000));
  return 0;
}
