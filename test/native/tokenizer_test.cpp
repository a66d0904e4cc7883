// The tokenizer on models made here, and on real ones named on the command line:
//   tokenizer_test synthetic
//   tokenizer_test vectors  <tokenizer.model> <text.json> <vectors.json> <key>    equal to what transformers gives
//   tokenizer_test specials <tokenizer.model> <text.json>                         user text never becomes a template token
//   tokenizer_test corrupt  <tokenizer.model>                                     truncated and bent in every way
//   tokenizer_test speed    <tokenizer.model> <text.json> <text file>             prints numbers, holds them to the bars
//   tokenizer_test seeds    <folder>                                              writes the fuzzer's seeds
#include "tokenizer.hpp"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <random>
#include <thread>

#include "check.hpp"
#include "json.hpp"
#include "tiny_model.hpp"
#include "utf8.hpp"

using namespace ern;
using Ids = std::vector<int32_t>;

namespace {

const std::string plain_json = R"({"format":1,"vocab_size":400})";

Result<std::unique_ptr<Tokenizer>> try_load(const std::string& model, const std::string& json = plain_json) {
  return Tokenizer::load(std::as_bytes(std::span(model)), json);
}

std::unique_ptr<Tokenizer> load(const std::string& model, const std::string& json = plain_json) {
  auto loaded = try_load(model, json);
  if (!loaded.ok()) {
    std::fprintf(stderr, "%s\n", loaded.status().message().c_str());
    std::exit(2);
  }
  return std::move(loaded.value());
}

Segment user(std::string_view text) { return {text, Origin::user}; }
Segment template_text(std::string_view text) { return {text, Origin::template_}; }

// The pieces of a text, for expectations that can be read: "ab|c".
std::string pieces_of(const Tokenizer& tokenizer, const Ids& ids) {
  std::string out;
  for (const int32_t id : ids) {
    if (!out.empty()) out += '|';
    out += tokenizer.piece(id);
  }
  return out;
}

// BPE as its definition reads: merge the best neighbours, leftmost first, until none merge. No unused pieces here.
Ids plain_encode(const tiny::Model& model, std::string_view text) {
  struct Symbol {
    std::string text;
    bool frozen;
  };
  std::string spaced;
  for (const char c : text) spaced += c == ' ' ? std::string("▁") : std::string(1, c);
  std::vector<Symbol> symbols;
  for (size_t i = 0; i < spaced.size();) {
    size_t size = 0;
    for (const auto& piece : model.pieces) {
      if (piece.type == tiny::user_defined && spaced.compare(i, piece.text.size(), piece.text) == 0) size = std::max(size, piece.text.size());
    }
    const bool frozen = size != 0;
    if (!frozen) size = utf8::length_from_lead(static_cast<unsigned char>(spaced[i]));
    symbols.push_back({spaced.substr(i, size), frozen});
    i += size;
  }
  const auto usable = [&](const std::string& piece) {
    const int32_t id = model.id(piece);
    if (id < 0) return -1;
    const int type = model.pieces[static_cast<size_t>(id)].type;
    return type == tiny::normal || type == tiny::user_defined ? id : -1;
  };
  for (;;) {
    size_t best = symbols.size();
    float best_score = 0;
    for (size_t i = 0; i + 1 < symbols.size(); i++) {
      if (symbols[i].frozen || symbols[i + 1].frozen) continue;
      const int32_t id = usable(symbols[i].text + symbols[i + 1].text);
      if (id < 0) continue;
      const float score = model.pieces[static_cast<size_t>(id)].score;
      if (best == symbols.size() || score > best_score) best = i, best_score = score;
    }
    if (best == symbols.size()) break;
    symbols[best].text += symbols[best + 1].text;
    symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(best) + 1);
  }
  Ids out;
  for (const auto& symbol : symbols) {
    const int32_t id = usable(symbol.text);
    if (id >= 0) out.push_back(id);
    else for (const char c : symbol.text) out.push_back(3 + static_cast<unsigned char>(c));
  }
  return out;
}

void merges() {
  const tiny::Model model = tiny::rich(false);
  const auto tokenizer = load(model.bytes());
  const auto pieces = [&](std::string_view text) { return pieces_of(*tokenizer, tokenizer->encode(text)); };
  CHECK_EQUAL(pieces(""), "");
  CHECK_EQUAL(pieces("abcd"), "abc|d");         // "ab" is best, then "abc" is better than "cd"
  CHECK_EQUAL(pieces("dabc"), "d|abc");         // "ab" first; then "abc", "da" has lost its a
  CHECK_EQUAL(pieces("bcda"), "bc|da");
  CHECK_EQUAL(pieces("aaaaa"), "aaaa|a");
  CHECK_EQUAL(pieces(" ab ab"), " ab| ab");
  CHECK_EQUAL(pieces("     "), "    | ");
  CHECK_EQUAL(pieces("你好世界"), "你好|世界");
  CHECK_EQUAL(pieces("1 12 121"), "1| |12| |12|1");  // user-defined: the longest, from the left
  CHECK_EQUAL(pieces(">>>>>"), ">>>>|>");
  CHECK_EQUAL(pieces("a\nb"), "a|\n|b");
  CHECK_EQUAL(pieces("Q"), "<0x51>");
  CHECK_EQUAL(pieces("é"), "é");
  CHECK_EQUAL(pieces("ø"), "<0xC3>|<0xB8>");
  CHECK_EQUAL(pieces(std::string("\0", 1)), "<0x00>");
  CHECK_EQUAL(pieces("▁ab"), " ab");            // U+2581 in a text is a space, as in SentencePiece
  CHECK_EQUAL(pieces("<0x41>"), "<|<0x30>|x|<0x34>|1|>");
  // Each broken byte is U+FFFD
  CHECK_EQUAL(tokenizer->encode("a\xFF" "b"), tokenizer->encode("a\xEF\xBF\xBD" "b"));
  CHECK_EQUAL(tokenizer->encode("\xE4\xBD"), tokenizer->encode("\xEF\xBF\xBD\xEF\xBF\xBD"));
  CHECK_EQUAL(tokenizer->encode("\xED\xA0\x80 a"), tokenizer->encode("\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD a"));
  CHECK_EQUAL(tokenizer->encode("12345678\xC0\xAF"), tokenizer->encode("12345678\xEF\xBF\xBD\xEF\xBF\xBD"));

  const char* alphabet[] = {"a", "b", "c", "d", " ", "t", "h", "e", "你", "好", "世", "界", "1", "2", "\n", ">", "x", "y", "z", "é", "Q", "😀", "the", "ab"};
  const uint32_t seed = 424242;
  std::mt19937 random(seed);
  for (int round = 0; round < 4000; round++) {
    std::string text;
    const uint32_t letters = 1 + random() % 24, offset = random() % 24;
    for (size_t n = random() % (round % 10 == 0 ? 400 : 40); n > 0; n--) text += alphabet[(offset + random() % letters) % 24];
    CHECK_EQUAL(tokenizer->encode(text), plain_encode(model, text), text);
    CHECK_EQUAL(tokenizer->decode(tokenizer->encode(text)), text);
  }
  // The same scores everywhere: ties alone decide.
  tiny::Model ties = model;
  for (auto& piece : ties.pieces) piece.score = -1;
  const auto tied = load(ties.bytes());
  for (int round = 0; round < 2000; round++) {
    std::string text;
    for (size_t n = random() % 120; n > 0; n--) text += alphabet[random() % 12];
    CHECK_EQUAL(tied->encode(text), plain_encode(ties, text), text);
  }
}

// Expectations computed with SentencePiece 0.2.3 on the same file.
void unused() {
  const tiny::Model model = tiny::rich(true);
  const auto tokenizer = load(model.bytes());
  const auto pieces = [&](std::string_view text) { return pieces_of(*tokenizer, tokenizer->encode(text)); };
  CHECK_EQUAL(pieces("xyz"), "x|y|z");
  CHECK_EQUAL(pieces("xy"), "x|y");
  CHECK_EQUAL(pieces("yz"), "y|z");
  CHECK_EQUAL(pieces("a xyz1xy"), "a| |x|y|z|1|x|y");
  const tiny::Model chain = tiny::model({{"a", -9}, {"b", -9}, {"c", -9}, {"ab", -1}, {"bc", -2, tiny::unused}, {"abc", -3, tiny::unused},
                                         {"d", -9, tiny::unused}, {"cd", -4}});
  const auto chained = load(chain.bytes());
  CHECK_EQUAL(pieces_of(*chained, chained->encode("abc")), "ab|c");
  CHECK_EQUAL(pieces_of(*chained, chained->encode("abcbc")), "ab|c|b|c");
  CHECK_EQUAL(pieces_of(*chained, chained->encode("cd")), "cd");
  CHECK_EQUAL(pieces_of(*chained, chained->encode("d")), "<0x64>");
}

void segments() {
  const tiny::Model model = tiny::rich(false);
  const int32_t begin = model.id("<|begin|>"), mask = model.id("<mask>");
  const auto tokenizer = load(model.bytes(), R"({"format":1,"vocab_size":400,"specials":["<mask>"],"added":[
      {"id":390,"content":"<img>"},{"id":391,"content":"<img>x"},{"id":392,"content":"<think>","special":false},
      {"id":)" + std::to_string(model.id("1")) + R"(,"content":"1","special":false}],"stop_ids":[2,390],
      "generation":{"do_sample":true,"temperature":0.8,"top_k":5,"top_p":null}})");
  const auto encode = [&](std::vector<Segment> list) { return pieces_of(*tokenizer, tokenizer->encode(list)); };
  CHECK_EQUAL(encode({}), "");
  CHECK_EQUAL(encode({template_text("<|begin|>ab<img>"), user("a<mask>b<img>"), template_text("<mask>")}),
              "<|begin|>|ab|<img>|a|<|<0x6D>|a|<0x73>|<0x6B>|>|b|<|<0x69>|<0x6D>|<0x67>|>|<mask>");
  CHECK_EQUAL(tokenizer->encode(std::vector<Segment>{template_text("<|begin|>"), user("<mask>"), template_text("<mask>")}).size(), 8u);
  // the longest wins, and 'a' joins 'b' across segments
  CHECK_EQUAL(encode({template_text("<img>x<img>a"), user("b")}), "<img>x|<img>|ab");
  CHECK_EQUAL(encode({user("a"), template_text("b"), user("c")}), "abc");
  // adjacent template segments are one text; a user segment between them parts it even when it is empty
  CHECK_EQUAL(encode({template_text("<im"), template_text("g>")}), "<img>");
  CHECK_EQUAL(encode({template_text("<im"), user(""), template_text("g>")}), "<|<0x69>|<0x6D>|<0x67>|>");
  CHECK_EQUAL(encode({template_text("<im"), user("g>")}), "<|<0x69>|<0x6D>|<0x67>|>");
  CHECK_EQUAL(encode({user("<im"), template_text("g>")}), "<|<0x69>|<0x6D>|<0x67>|>");
  CHECK_EQUAL(encode({user("<s></s><unk><|begin|>")}).find("begin|>|"), std::string::npos);
  for (const int32_t id : tokenizer->encode("<s></s><unk><|begin|><mask><img>x<think>")) CHECK(!tokenizer->is_template_token(id));
  // the digit stays an ordinary piece; the think mark is template-only but not hidden
  CHECK_EQUAL(encode({user("1")}), "1");
  CHECK(!tokenizer->is_template_token(model.id("1")) && tokenizer->is_template_token(392) && !tokenizer->is_special(392));
  CHECK_EQUAL(tokenizer->decode(Ids{begin, model.id("ab"), 390, 392, mask, 0}), "ab<think>");
  CHECK_EQUAL(tokenizer->decode(Ids{begin, model.id("ab"), 390, 392, mask, 0}, true), "<|begin|>ab<img><think><mask><unk>");
  // ids
  CHECK_EQUAL(tokenizer->piece_to_id("<img>x"), 391);
  CHECK_EQUAL(tokenizer->piece_to_id("▁the"), model.id("▁the"));
  CHECK_EQUAL(tokenizer->piece_to_id(" the"), model.id("▁the"));
  CHECK_EQUAL(tokenizer->piece_to_id("<0x41>"), 3 + 0x41);
  CHECK_EQUAL(tokenizer->piece_to_id("<s>"), 1);
  CHECK_EQUAL(tokenizer->piece_to_id("nothing"), -1);
  CHECK_EQUAL(tokenizer->piece_to_id(""), -1);
  CHECK_EQUAL(tokenizer->token_bytes(3 + 0xE4), "\xE4");
  CHECK_EQUAL(tokenizer->token_bytes(391), "<img>x");
  CHECK(tokenizer->piece(399).empty() && tokenizer->piece(-1).empty() && tokenizer->piece(1 << 30).empty());
  CHECK(tokenizer->is_stop(2) && tokenizer->is_stop(390) && !tokenizer->is_stop(1) && !tokenizer->is_stop(-1) && !tokenizer->is_stop(400));
  CHECK_EQUAL(tokenizer->piece_mask().size(), 13u);
  const auto pieces = static_cast<int32_t>(model.pieces.size());
  for (int32_t id = 0; id < 400; id++) {
    const bool expected = id < pieces || (id >= 390 && id <= 392);
    CHECK_EQUAL(tokenizer->has_piece(id), expected);
    CHECK_EQUAL((tokenizer->piece_mask()[static_cast<size_t>(id) / 32] >> (id % 32) & 1) != 0, expected);
  }
  const GenerationDefaults& generation = tokenizer->generation();
  CHECK(generation.do_sample == true && generation.temperature == 0.8 && generation.top_k == 5 && !generation.top_p && !generation.min_p);
}

// A single-character special, and one that merges would reach: still not for user text.
void unreachable_specials() {
  const tiny::Model model = tiny::model({{"a", -1}, {"b", -2}, {"ab", -3}, {"abb", -4}, {"¤", -5}, {"§", 0, tiny::control}, {"#", 0, tiny::user_defined}});
  const auto tokenizer = load(model.bytes(), R"({"format":1,"vocab_size":400,"specials":["ab","¤","#"]})");
  CHECK_EQUAL(pieces_of(*tokenizer, tokenizer->encode("abb")), "a|b|b");
  CHECK_EQUAL(pieces_of(*tokenizer, tokenizer->encode("¤§#")), "<0xC2>|<0xA4>|<0xC2>|<0xA7>|<0x23>");
  CHECK_EQUAL(pieces_of(*tokenizer, tokenizer->encode(std::vector<Segment>{template_text("abb¤§#")})), "ab|b|¤|§|#");
}

void threads() {
  const auto tokenizer = load(tiny::rich(true).bytes());
  std::string text;
  for (int i = 0; i < 3000; i++) text += std::string(" the abcd") + "xyz12\n你好世界"[i % 15];
  const Ids expected = tokenizer->encode(text);
  std::vector<std::thread> team;
  std::vector<char> same(4, 0);
  for (size_t i = 0; i < 4; i++) {
    team.emplace_back([&, i] {
      same[i] = 1;
      for (int round = 0; round < 5; round++) same[i] = same[i] && tokenizer->encode(text) == expected && !tokenizer->decode(expected).empty();
    });
  }
  for (auto& thread : team) thread.join();
  for (const char each : same) CHECK(each);
}

void expect_refused(const std::string& model, const std::string& json, Code code, std::string_view part) {
  auto loaded = try_load(model, json);
  CHECK(!loaded.ok());
  if (loaded.ok()) {
    std::fprintf(stderr, "  expected: %s\n", std::string(part).c_str());
    return;
  }
  CHECK_EQUAL(static_cast<int>(loaded.status().code()), static_cast<int>(code), loaded.status().message());
  const bool says = loaded.status().message().find(part) != std::string::npos;
  CHECK(says);
  if (!says) std::fprintf(stderr, "  expected \"%s\" in \"%s\"\n", std::string(part).c_str(), loaded.status().message().c_str());
}

void bad_models() {
  using namespace tiny;
  const Model good = rich();
  const auto with = [&](auto change) {
    Model model = good;
    change(model);
    return model.bytes();
  };
  const auto corrupt = [](const std::string& model, std::string_view part) { expect_refused(model, plain_json, Code::corrupt, part); };
  const auto unsupported = [](const std::string& model, std::string_view part) { expect_refused(model, plain_json, Code::unsupported, part); };
  CHECK(try_load(good.bytes()).ok());
  CHECK(try_load(with([](Model& m) { m.tail = bytes_field(4, "self test") + bytes_field(200, "extension") + number_field(201, 7); })).ok());
  corrupt("", "empty");
  corrupt("not a protobuf, but a line of text", "protobuf");
  corrupt(std::string(100, '\0'), "protobuf");
  corrupt("{\"model\":{}}", "");
  corrupt(bytes_field(2, good.trainer) + bytes_field(3, good.normalizer), "no pieces");
  corrupt(with([](Model& m) { m.tail = bytes_field(2, m.trainer); }), "two trainer specs");
  corrupt(with([](Model& m) { m.tail = bytes_field(3, m.normalizer); }), "two normalizer specs");
  corrupt(with([](Model& m) { m.tail = number_field(1, 3); }), "wire type");
  corrupt(with([](Model& m) { m.tail = "\x0b"; }), "wire type");
  corrupt(with([](Model& m) { m.tail = std::string(11, '\xFF'); }), "64 bits");
  corrupt(with([](Model& m) { m.tail = "\x0a\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01"; }), "past its end");
  corrupt(with([](Model& m) { m.tail = bytes_field(1, number_field(1, 5)); }), "wire type");
  corrupt(with([](Model& m) { m.pieces.push_back({"", 0, normal}); }), "empty");
  corrupt(with([](Model& m) { m.pieces.push_back({"\xFF", 0, normal}); }), "UTF-8");
  corrupt(with([](Model& m) { m.pieces.push_back({std::string("a\0b", 3), 0, normal}); }), "NUL");
  corrupt(with([](Model& m) { m.pieces.push_back({"new", NAN, normal}); }), "score");
  corrupt(with([](Model& m) { m.pieces.push_back({"new", INFINITY, normal}); }), "score");
  corrupt(with([](Model& m) { m.pieces.push_back({"new", 0, 7}); }), "type 7");
  corrupt(with([](Model& m) { m.pieces.push_back({"new", 0, 0}); }), "type 0");
  corrupt(with([](Model& m) { m.pieces.push_back({"ab", 0, normal}); }), "the same");
  corrupt(with([](Model& m) { m.pieces.push_back({"<0x4g>", 0, tiny::byte}); }), "byte");
  corrupt(with([](Model& m) { m.pieces.push_back({"<unk2>", 0, unknown}); }), "second unknown");
  corrupt(with([](Model& m) { m.pieces.erase(m.pieces.begin() + 3 + 0x41); }), "byte 65");
  unsupported(with([](Model& m) { m.pieces.push_back({"a b", 0, normal}); }), "plain space");
  unsupported(with([](Model& m) { m.pieces.push_back({std::string(8000, 'x'), 0, normal}); }), "8000 bytes");
  unsupported(with([](Model& m) { m.trainer = number_field(35, 1); }), "unigram");
  unsupported(with([](Model& m) { m.trainer = number_field(3, 4) + number_field(35, 1); }), "char");
  unsupported(with([](Model& m) { m.trainer = number_field(3, 99) + number_field(35, 1); }), "99");
  unsupported(with([](Model& m) { m.trainer = number_field(3, 2); }), "byte_fallback");
  unsupported(with([](Model& m) { m.trainer += number_field(24, 1); }), "suffix");
  unsupported(with([](Model& m) { m.normalizer = ""; }), "add_dummy_prefix");
  unsupported(with([](Model& m) { m.normalizer = number_field(3, 0); }), "remove_extra_whitespaces");
  unsupported(with([](Model& m) { m.normalizer += number_field(3, 1); }), "add_dummy_prefix");
  unsupported(with([](Model& m) { m.normalizer += number_field(5, 0); }), "escape_whitespaces");
  unsupported(with([](Model& m) { m.normalizer += bytes_field(2, "map"); }), "identity");
  unsupported(with([](Model& m) { m.normalizer += bytes_field(6, "rule"); }), "identity");
  unsupported(with([](Model& m) { m.tail = bytes_field(5, bytes_field(2, "map")); }), "denormalizer");
  corrupt(with([](Model& m) { m.trainer += "\x18"; }), "cut off");
  corrupt(with([](Model& m) { m.normalizer += "\x12\x50"; }), "past its end");
  // Pieces whose hashes collide can't be had cheaply; a huge number of pieces can.
  Model many = good;
  for (int i = 0; i < 1 << 20; i++) many.pieces.push_back({std::to_string(i) + "q", 0, normal});
  unsupported(many.bytes(), "more than 1048576 pieces");
  // Every truncation is refused.
  const std::string bytes = good.bytes();
  for (size_t size = 0; size < bytes.size(); size++) CHECK(!try_load(bytes.substr(0, size)).ok());
}

void bad_text_json() {
  const std::string model = tiny::rich().bytes();
  const auto corrupt = [&](const std::string& rest, std::string_view part) {
    expect_refused(model, R"({"format":1,"vocab_size":400)" + rest + "}", Code::corrupt, part);
  };
  CHECK(try_load(model, R"({"format":1,"vocab_size":400,"other":[1,{}],"added":[],"specials":[],"stop_ids":[],"generation":{"x":1}})").ok());
  expect_refused(model, "", Code::corrupt, "JSON");
  expect_refused(model, "[]", Code::corrupt, "not an object");
  expect_refused(model, "{}", Code::corrupt, "format");
  expect_refused(model, R"({"format":2,"vocab_size":400})", Code::unsupported, "format 2");
  expect_refused(model, R"({"format":1})", Code::corrupt, "vocab_size");
  expect_refused(model, R"({"format":1,"vocab_size":4e2})", Code::corrupt, "vocab_size");
  expect_refused(model, R"({"format":1,"vocab_size":99999999})", Code::corrupt, "vocab_size");
  expect_refused(model, R"({"format":1,"vocab_size":100})", Code::corrupt, "pieces");
  corrupt(R"(,"added":{})", "not an array");
  corrupt(R"(,"added":[3])", "without");
  corrupt(R"(,"added":[{"id":390}])", "without");
  corrupt(R"(,"added":[{"id":400,"content":"<x>"}])", "0 to 399");
  corrupt(R"(,"added":[{"id":-1,"content":"<x>"}])", "0 to 399");
  corrupt(R"(,"added":[{"id":1.5,"content":"<x>"}])", "0 to 399");
  corrupt(R"(,"added":[{"id":390,"content":""}])", "empty");
  corrupt(R"(,"added":[{"id":390,"content":"<x>","special":1}])", "neither");
  corrupt(R"(,"added":[{"id":390,"content":"<x>"},{"id":390,"content":"<y>"}])", "twice");
  corrupt(R"(,"added":[{"id":390,"content":"<x>"},{"id":391,"content":"<x>"}])", "both");
  corrupt(R"(,"added":[{"id":390,"content":"<s>"}])", "both");
  corrupt(R"(,"added":[{"id":1,"content":"<x>"}])", "but in tokenizer.model");
  corrupt(R"(,"added":[{"id":20,"content":"<0x11>"}])", "byte piece");
  corrupt(R"(,"specials":[400])", "0 to 399");
  corrupt(R"(,"specials":[399])", "no piece");
  corrupt(R"(,"specials":["nope"])", "neither");
  corrupt(R"(,"specials":[20])", "byte piece");
  corrupt(R"(,"stop_ids":["</s>"])", "0 to 399");
  corrupt(R"(,"stop_ids":2)", "not an array");
  corrupt(R"(,"generation":[])", "not an object");
  corrupt(R"(,"generation":{"top_p":"0.8"})", "top_p");
  corrupt(R"(,"generation":{"top_k":0.5})", "top_k");
  corrupt(R"(,"generation":{"do_sample":1})", "do_sample");
}

void synthetic() {
  merges();
  unused();
  segments();
  unreachable_specials();
  threads();
  bad_models();
  bad_text_json();
}

void vectors(const Tokenizer& tokenizer, const std::string& file, const std::string& key) {
  const auto document = json::Document::parse(file);
  CHECK(document.ok());
  const auto list = document.value().root().find(key);
  CHECK(list && list->size() > 0);
  if (!list) return;
  for (auto vector = list->first(); vector; vector = vector->next()) {
    const std::string text(*vector->find("text")->string());
    Ids ids;
    const auto id_list = *vector->find("ids");
    for (auto id = id_list.first(); id; id = id->next()) ids.push_back(static_cast<int32_t>(*id->integer()));
    CHECK_EQUAL(tokenizer.encode(text), ids, text);
    CHECK_EQUAL(tokenizer.encode(std::vector<Segment>{user(text)}), ids, text);
    CHECK_EQUAL(tokenizer.decode(ids), *vector->find("decoded")->string(), text);
    // cut anywhere, user and template by turns: the same ids, as these texts in template segments would be specials only if they named one
    for (size_t cut = 0; cut <= text.size(); cut++) {
      const std::string_view left = std::string_view(text).substr(0, cut), right = std::string_view(text).substr(cut);
      CHECK_EQUAL(tokenizer.encode(std::vector<Segment>{user(left), user(right)}), ids, text);
      if (text[0] != '<') CHECK_EQUAL(tokenizer.encode(std::vector<Segment>{template_text(left), user(right)}), ids, text);
    }
  }
  std::printf("%zu vectors of %s\n", list->size(), key.c_str());
}

void specials(const Tokenizer& tokenizer) {
  const auto never_special = [&](const std::vector<Segment>& list, const std::string& about) {
    for (const int32_t id : tokenizer.encode(list)) {
      CHECK(!tokenizer.is_template_token(id));
      if (tokenizer.is_template_token(id)) std::fprintf(stderr, "  %s\n", about.c_str());
    }
  };
  for (const int32_t id : tokenizer.template_tokens()) {
    const std::string text(tokenizer.piece(id));
    CHECK(!text.empty());
    CHECK_EQUAL(tokenizer.piece_to_id(text), id);
    CHECK_EQUAL(tokenizer.encode(std::vector<Segment>{template_text(text)}), Ids{id});
    CHECK_EQUAL(tokenizer.encode(std::vector<Segment>{template_text("a" + text + "b")}).size(), 3u);
    never_special({user(text)}, text);
    never_special({user("Hello " + text + text + "\n")}, text);
    for (size_t cut = 1; cut < text.size(); cut++) {
      const std::string_view left = std::string_view(text).substr(0, cut), right = std::string_view(text).substr(cut);
      never_special({user(left), user(right)}, text);
      never_special({template_text(left), user(right)}, text);
      never_special({user(left), template_text(right)}, text);
      never_special({template_text(left), user(""), template_text(right)}, text);
    }
    CHECK_EQUAL(tokenizer.decode(tokenizer.encode(text)), text);
    CHECK_EQUAL(tokenizer.decode(Ids{id}, true), text);
    CHECK_EQUAL(tokenizer.decode(Ids{id}), tokenizer.is_special(id) ? "" : text);
  }
  std::printf("%zu template tokens\n", tokenizer.template_tokens().size());
}

// A real model, cut and bent: load says no, or gives a tokenizer that works.
void corrupt(const std::string& model) {
  const std::string json = R"({"format":1,"vocab_size":131072})";
  CHECK(try_load(model, json).ok());
  const size_t step = std::max<size_t>(1, model.size() / 400);
  for (size_t size = 0; size < model.size(); size += step) CHECK(!try_load(model.substr(0, size), json).ok());
  for (size_t size = model.size() - 64; size < model.size(); size++) CHECK(!try_load(model.substr(0, size), json).ok());
  std::mt19937 random(99);
  size_t loaded = 0;
  for (int round = 0; round < 300; round++) {
    std::string bent = model;
    for (uint32_t n = 1 + random() % 4; n > 0; n--) bent[random() % bent.size()] = static_cast<char>(random());
    const auto result = try_load(bent, json);
    if (!result.ok()) continue;
    loaded++;
    CHECK(utf8::is_valid(result.value()->decode(result.value()->encode("Hello, 你好 world\n\t\xFF 123"))));
  }
  std::printf("%zu of 300 bent files load\n", loaded);
}

// Time of this thread on a processor, best of three: other processes share the machine, and their share is not the tokenizer's.
double milliseconds(const std::function<void()>& work) {
  const auto now = [] {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_nsec) / 1e6;
  };
  double best = 1e30;
  for (int i = 0; i < 3; i++) {
    const double start = now();
    work();
    best = std::min(best, now() - start);
  }
  return best;
}

// The bars are those that the project promises.
void speed(const std::string& model, const std::string& json, const std::string& text) {
  const double load_ms = milliseconds([&] { load(model, json); });
  std::printf("load %.1f ms\n", load_ms);
  CHECK(load_ms < 150);
  const auto tokenizer = load(model, json);
  const double encode_ms = milliseconds([&] { tokenizer->encode(text); });
  const Ids ids = tokenizer->encode(text);
  CHECK_EQUAL(tokenizer->decode(ids) == text, true);
  const double decode_ms = milliseconds([&] { tokenizer->decode(ids); });
  const double megabytes = static_cast<double>(text.size()) / 1e6;
  std::printf("encode %.1f MB/s, decode %.1f MB/s of %.2f MB\n", megabytes / encode_ms * 1e3, megabytes / decode_ms * 1e3, megabytes);
  CHECK(megabytes / encode_ms * 1e3 >= 3);
  for (const char* unit : {"a", " ", "中", "\n", "ab", "😀", "-", "\xFF", "1"}) {
    std::string same;
    while (same.size() < 1000000) same += unit;
    const double ms = milliseconds([&] { tokenizer->encode(same); });
    std::printf("1 MB of %s: %.0f ms\n", unit[0] == '\n' ? "newlines" : unit[0] == ' ' ? "spaces" : unit[0] == '\xFF' ? "broken bytes" : unit, ms);
    CHECK(ms < 1000);
  }
  // Long runs without one character repeated: what a heap is for.
  std::mt19937 random(5);
  std::string letters;
  while (letters.size() < 1000000) letters += static_cast<char>('a' + random() % 4);
  const double ms = milliseconds([&] { tokenizer->encode(letters); });
  std::printf("1 MB of random letters: %.0f ms\n", ms);
  CHECK(ms < 5000);  // nothing is promised here; a quadratic way takes minutes
}

void write(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

// The fuzzer's input: a model, then a text.json, then the length of the text.json in two bytes (see tokenizer_fuzz.cpp).
void seeds(const std::string& folder) {
  const auto seed = [&](const char* name, const tiny::Model& model, const std::string& json) {
    std::string bytes = model.bytes() + json;
    bytes += static_cast<char>(json.size() & 0xFF);
    bytes += static_cast<char>(json.size() >> 8);
    write(folder + "/" + name, bytes);
  };
  seed("plain", tiny::model({{"a", -1}, {"b", -2}, {"ab", -3}}), "");
  seed("rich", tiny::rich(false), R"({"format":1,"vocab_size":400,"specials":["<mask>",1],"stop_ids":[2],
      "added":[{"id":390,"content":"<img>"},{"id":391,"content":"<think>","special":false}]})");
  seed("unused", tiny::rich(true), R"({"format":1,"vocab_size":400,"generation":{"do_sample":true,"temperature":0.8,"top_k":5,"top_p":null}})");
  tiny::Model odd = tiny::rich(true);
  odd.normalizer += tiny::bytes_field(2, "map");
  seed("normalizer", odd, "");
  write(folder + "/not-protobuf", "{\"model\":{\"type\":\"BPE\"}}\0\0");
}

}  // namespace

int main(int count, char** arguments) {
  const std::string mode = count > 1 ? arguments[1] : "";
  const auto file = [&](int i) { return check::read_file(i < count ? arguments[i] : ""); };
  if (mode == "synthetic") synthetic();
  else if (mode == "vectors" && count == 6) vectors(*load(file(2), file(3)), file(4), arguments[5]);
  else if (mode == "specials") specials(*load(file(2), file(3)));
  else if (mode == "corrupt") corrupt(file(2));
  else if (mode == "speed") speed(file(2), file(3), file(4));
  else if (mode == "seeds" && count == 3) seeds(arguments[2]);
  else {
    std::fprintf(stderr, "unknown case; see the head of tokenizer_test.cpp\n");
    return 2;
  }
  return check::result();
}
