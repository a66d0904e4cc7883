// The JSON reader: what it takes, what it refuses and how it says so, and its limits.
#include "json.hpp"

#include <vector>

#include "check.hpp"

using namespace ern::json;

namespace {

std::string error_of(std::string_view text, const Limits& limits = {}) {
  const auto document = Document::parse(text, limits);
  return document.ok() ? "" : document.status().message();
}

void takes() {
  const auto parsed = Document::parse(R"( {"a": [1, -2.5e3, true, false, null, "x\u00e9\ud83d\ude00\n\/"], "b": {"": 9007199254740993, "o": {}}, "c": []} )");
  CHECK(parsed.ok());
  if (!parsed.ok()) return;
  const Value root = parsed.value().root();
  CHECK_EQUAL(root.size(), 3u);
  const Value a = *root.find("a");
  CHECK_EQUAL(a.size(), 6u);
  std::vector<Value> items;
  for (auto v = a.first(); v; v = v->next()) items.push_back(*v);
  CHECK_EQUAL(items.size(), 6u);
  CHECK_EQUAL(*items[0].integer(), 1);
  CHECK_EQUAL(*items[0].number(), 1.0);
  CHECK(!items[1].integer());
  CHECK_EQUAL(*items[1].number(), -2500.0);
  CHECK(*items[2].boolean() && !*items[3].boolean());
  CHECK(items[4].is(Kind::null) && !items[4].number() && !items[4].string());
  CHECK_EQUAL(*items[5].string(), "xé😀\n/");
  CHECK_EQUAL(*root.find("b")->find("")->integer(), 9007199254740993);
  CHECK(!root.find("b")->find("o")->first());
  CHECK(!root.find("d") && !a.find("a"));
  CHECK_EQUAL(root.first()->next()->name(), "b");
  CHECK(root.find("c")->is(Kind::array) && root.find("c")->size() == 0);
  for (const char* good : {"0", "-0", "1e5", "0.5", "1E-5", "\"\"", "null", "[[]]", " \t\r\n1", "9223372036854775808", "\"\\u0000\"", "1.7976931348623157e308"}) {
    CHECK_EQUAL(error_of(good), "");
  }
  CHECK(!Document::parse("9223372036854775808").value().root().integer());
  CHECK_EQUAL(*Document::parse("-9223372036854775808").value().root().integer(), INT64_MIN);
}

void refuses() {
  for (const char* bad :
       {"", " ", "{", "[", "[1", "[1,", "[1,]", "[,1]", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{a:1}", "{'a':1}", "01", "-", "+1", ".5", "1.", "1e", "1e+",
        "0x10", "NaN", "Infinity", "tru", "nul", "True", "1 2", "[] []", "\"", "\"a", "\"\\", "\"\\x\"", "\"\\u12\"", "\"\\u12g4\"", "\"\\ud800\"",
        "\"\\ud800\\u0041\"", "\"\\udc00\"", "\"\t\"", "\"\n\"", "\"\x80\"", "\"\xC0\x80\"", "\"\xED\xA0\x80\"", "\"\xF5\x80\x80\x80\"", "\"\xE4\xBD\"",
        "1e400", "-1e400", "1e-400", "\xEF\xBB\xBF{}", "// c\n1", "[1 2]", "{\"a\" 1}", "{\"a\":1 \"b\":2}", "{\"a\":1,\"a\":2}",
        "{\"x\":{\"a\":1,\"b\":2,\"\\u0061\":3}}", "]", "}", ","}) {
    CHECK(!error_of(bad).empty());
    if (error_of(bad).empty()) std::fprintf(stderr, "  took %s\n", bad);
  }
  const std::string nul("1\0", 2);
  CHECK(!error_of(nul).empty());
  CHECK_EQUAL(error_of("{\n  \"a\": tru\n}"), "JSON line 2 column 8: expected a value, found t");
  CHECK_EQUAL(error_of("[1\x01"), "JSON line 1 column 3: expected ',' or ']', found 0x01");
  CHECK_EQUAL(error_of("[1"), "JSON line 1 column 3: expected ',' or ']', found the end");
  CHECK_EQUAL(error_of("{\"a\":1,\"a\":2}"), "JSON line 1 column 14: an object has the name \"a\" twice");
}

void limits() {
  const auto nested = [](size_t n) { return std::string(n, '[') + std::string(n, ']'); };
  CHECK_EQUAL(error_of(nested(64)), "");
  CHECK_EQUAL(error_of(nested(65)), "JSON line 1 column 65: nested deeper than 64");
  CHECK(!error_of(std::string(1000000, '[')).empty());
  Limits small;
  small.bytes = 10;
  CHECK_EQUAL(error_of("[1,2,3,4,5]", small), "JSON of 11 bytes, more than 10");
  small = {};
  small.values = 3;
  CHECK_EQUAL(error_of("[1,2]", small), "");
  CHECK_EQUAL(error_of("[1,2,3]", small), "JSON line 1 column 7: more than 3 values");
  // Many names: found twice without comparing each with each.
  std::string many = "{";
  for (int i = 0; i < 200000; i++) many += "\"k" + std::to_string(i) + "\":0,";
  CHECK_EQUAL(error_of(many + "\"k\":0}"), "");
  CHECK(!error_of(many + "\"k77\":0}").empty());
  // Every prefix of a document is refused.
  const std::string text = R"({"a":[1,2,{"b":"c\u00e9"}],"d":-1.5e3,"e":null})";
  CHECK_EQUAL(error_of(text), "");
  for (size_t n = 0; n < text.size(); n++) CHECK(!error_of(text.substr(0, n)).empty());
}

}  // namespace

int main() {
  takes();
  refuses();
  limits();
  return check::result();
}
