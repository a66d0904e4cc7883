// Text that comes in pieces: the detokeniser never shows half a character and adds up to decode(); stop strings are found and never shown,
// however the text is cut.
#include <random>
#include <string>
#include <vector>

#include "check.hpp"
#include "detokenizer.hpp"
#include "stop_strings.hpp"
#include "tiny_model.hpp"
#include "tokenizer.hpp"
#include "utf8.hpp"

using namespace ern;

namespace {

std::unique_ptr<Tokenizer> load_rich(const tiny::Model& model) {
  const std::string bytes = model.bytes();
  const std::string json = R"({"format":1,"vocab_size":400,"specials":["<mask>"],
      "added":[{"id":390,"content":"<think>","special":false},{"id":391,"content":"<img>"}]})";
  auto loaded = Tokenizer::load(std::as_bytes(std::span(bytes)), json);
  if (!loaded.ok()) {
    std::fprintf(stderr, "%s\n", loaded.status().message().c_str());
    std::exit(2);
  }
  return std::move(loaded.value());
}

// The rule of decode in its plainest form: runs of byte pieces are cut into characters, a byte that begins none is U+FFFD.
std::string plain_decode(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool keep_specials) {
  std::string out, run;
  const auto end_run = [&] {
    for (size_t i = 0; i < run.size();) {
      const uint32_t length = utf8::valid_length(run.data() + i, run.size() - i);
      out += length == 0 ? utf8::replacement : std::string_view(run).substr(i, length);
      i += length == 0 ? 1 : length;
    }
    run.clear();
  };
  for (const int32_t id : ids) {
    if (const int byte = tokenizer.byte_of(id); byte >= 0) {
      run += static_cast<char>(byte);
      continue;
    }
    end_run();
    if (keep_specials || !tokenizer.is_special(id)) out += tokenizer.piece(id);
  }
  end_run();
  return out;
}

void detokenizer() {
  const tiny::Model model = tiny::rich();
  const auto tokenizer = load_rich(model);
  const auto byte = [&](int value) { return value + 3; };
  Detokenizer stream(*tokenizer);
  const auto push_all = [](Detokenizer& to, const std::vector<int32_t>& ids) {
    std::string out;
    for (const int32_t id : ids) to.push(id, out);
    return out;
  };
  // U+1F600 in four bytes
  CHECK_EQUAL(push_all(stream, {byte(0xF0), byte(0x9F), byte(0x98)}), "");
  CHECK_EQUAL(stream.held(), 3u);
  CHECK_EQUAL(stream.push(byte(0x80)), "😀");
  // a byte that doesn't fit gives up what came before it, one U+FFFD a byte, and may begin anew
  CHECK_EQUAL(push_all(stream, {byte(0xE4), byte(0xBD)}), "");
  CHECK_EQUAL(stream.push(byte(0xE4)), "\xEF\xBF\xBD\xEF\xBF\xBD");
  CHECK_EQUAL(stream.push(byte('A')), "\xEF\xBF\xBD" "A");
  CHECK_EQUAL(push_all(stream, {byte(0xE0), byte(0x80)}), "\xEF\xBF\xBD\xEF\xBF\xBD");  // overlong: known at the second byte
  CHECK_EQUAL(push_all(stream, {byte(0xED), byte(0xA0)}), "\xEF\xBF\xBD\xEF\xBF\xBD");  // a surrogate
  // so does any other piece, and the end
  CHECK_EQUAL(stream.push(byte(0xE4)), "");
  CHECK_EQUAL(stream.push(model.id("▁the")), "\xEF\xBF\xBD the");
  CHECK_EQUAL(push_all(stream, {byte(0xE4), byte(0xBD)}), "");
  CHECK_EQUAL(stream.finish(), "\xEF\xBF\xBD\xEF\xBF\xBD");
  CHECK_EQUAL(stream.held(), 0u);
  CHECK_EQUAL(stream.finish(), "");
  // specials, added tokens, ids without a piece
  CHECK_EQUAL(push_all(stream, {2, 391, model.id("<mask>")}), "");
  CHECK_EQUAL(stream.push(390), "<think>");
  CHECK_EQUAL(push_all(stream, {399, -1, 1 << 30}), "");
  Detokenizer keeping(*tokenizer, true);
  CHECK_EQUAL(push_all(keeping, {2, 391, model.id("<mask>"), 0}), "</s><img><mask><unk>");

  std::mt19937 random(20240607);
  for (int round = 0; round < 3000; round++) {
    std::vector<int32_t> ids(random() % 30);
    const uint32_t flavour = random() % 3;
    for (auto& id : ids) {
      if (flavour == 0) id = static_cast<int32_t>(random() % 405);
      else if (flavour == 1) id = byte(static_cast<int>(random() % 256));
      else id = byte("\xE4\xBD\xA0\xF0\x9F\x98\x80\xC3\xA9\xED\xA0\xF4\x90"[random() % 13] & 0xFF);
    }
    for (const bool keep : {false, true}) {
      std::string streamed;
      Detokenizer detokenizer(*tokenizer, keep);
      for (const int32_t id : ids) {
        const std::string text = detokenizer.push(id);
        CHECK(utf8::is_valid(text));
        streamed += text;
      }
      streamed += detokenizer.finish();
      CHECK(utf8::is_valid(streamed));
      CHECK_EQUAL(streamed, tokenizer->decode(ids, keep));
      CHECK_EQUAL(streamed, plain_decode(*tokenizer, ids, keep));
    }
  }
}

// The meaning of stop strings on a whole text: the match that ends first, and of those the longest. {text before, index or -1}
std::pair<std::string, int> plain_stop(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); end++) {
    int best = -1;
    for (size_t i = 0; i < stops.size(); i++) {
      const bool here = stops[i].size() <= end && text.compare(end - stops[i].size(), stops[i].size(), stops[i]) == 0;
      if (here && (best < 0 || stops[i].size() > stops[static_cast<size_t>(best)].size())) best = static_cast<int>(i);
    }
    if (best >= 0) return {text.substr(0, end - stops[static_cast<size_t>(best)].size()), best};
  }
  return {text, -1};
}

StopMatcher matcher_for(const std::vector<std::string>& stops) {
  auto created = StopMatcher::create(stops);
  CHECK(created.ok());
  return created.ok() ? std::move(created.value()) : StopMatcher();
}

void stop_strings() {
  {
    StopMatcher matcher = matcher_for({"\nUser:", "</s>"});
    std::string out;
    CHECK(!matcher.push("Hello\nUs", out));
    CHECK_EQUAL(out, "Hello");
    CHECK_EQUAL(matcher.held(), 3u);
    CHECK(!matcher.push("ually <", out));
    CHECK_EQUAL(out, "Hello\nUsually ");
    CHECK(matcher.push("/s> and more", out));
    CHECK_EQUAL(out, "Hello\nUsually ");
    CHECK_EQUAL(matcher.matched(), 1);
    CHECK(matcher.push("anything", out) && out == "Hello\nUsually ");
    matcher.finish(out);
    CHECK_EQUAL(out, "Hello\nUsually ");
  }
  {
    StopMatcher matcher = matcher_for({"aab"});
    std::string out;
    CHECK(!matcher.push("aaaa", out));
    CHECK_EQUAL(out, "aa");
    matcher.finish(out);
    CHECK_EQUAL(out, "aaaa");
    CHECK(!matcher.stopped());
  }
  {
    StopMatcher matcher;
    std::string out;
    CHECK(!matcher.push("text", out) && out == "text" && matcher.empty());
  }
  CHECK(!StopMatcher::create(std::vector<std::string>{"a", ""}).ok());
  CHECK(!StopMatcher::create(std::vector<std::string>{"\xE4\xBD"}).ok());
  CHECK(!StopMatcher::create(std::vector<std::string>{std::string(70000, 'x')}).ok());
  CHECK(!StopMatcher::create(std::vector<std::string>(257, "x")).ok());

  std::mt19937 random(7);
  for (int round = 0; round < 20000; round++) {
    const auto word = [&](size_t longest) {
      std::string out;
      for (size_t n = 1 + random() % longest; n > 0; n--) out += std::vector<const char*>{"a", "b", "好", "a"}[random() % 4];
      return out;
    };
    std::vector<std::string> stops(1 + random() % 3);
    for (auto& stop : stops) stop = word(5);
    std::vector<std::string> parts(random() % 10);
    std::string text;
    for (auto& part : parts) text += part = word(4);
    const auto [before, index] = plain_stop(text, stops);
    StopMatcher matcher = matcher_for(stops);
    std::string out;
    for (const auto& part : parts) {
      std::string shown;
      matcher.push(part, shown);
      CHECK(utf8::is_valid(shown));
      out += shown;
    }
    matcher.finish(out);
    CHECK_EQUAL(out, before, text);
    CHECK_EQUAL(matcher.matched() < 0 ? -1 : static_cast<int>(stops[static_cast<size_t>(matcher.matched())].size()),
                index < 0 ? -1 : static_cast<int>(stops[static_cast<size_t>(index)].size()), text);
  }
}

}  // namespace

int main() {
  detokenizer();
  stop_strings();
  return check::result();
}
