#include "json.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>

#include "utf8.hpp"

namespace ern::json {

Kind Value::kind() const { return document_->nodes_[index_].kind; }

std::optional<bool> Value::boolean() const {
  const auto& node = document_->nodes_[index_];
  if (node.kind != Kind::boolean) return std::nullopt;
  return node.flag;
}

std::optional<double> Value::number() const {
  const auto& node = document_->nodes_[index_];
  if (node.kind != Kind::number) return std::nullopt;
  return node.flag ? static_cast<double>(node.integer) : node.number;
}

std::optional<int64_t> Value::integer() const {
  const auto& node = document_->nodes_[index_];
  if (node.kind != Kind::number || !node.flag) return std::nullopt;
  return node.integer;
}

std::optional<std::string_view> Value::string() const {
  const auto& node = document_->nodes_[index_];
  if (node.kind != Kind::string) return std::nullopt;
  return std::string_view(document_->strings_).substr(node.at, node.size);
}

size_t Value::size() const {
  const auto& node = document_->nodes_[index_];
  return node.kind == Kind::array || node.kind == Kind::object ? node.size : 0;
}

std::optional<Value> Value::first() const {
  if (size() == 0) return std::nullopt;
  return Value(document_, index_ + 1);
}

std::optional<Value> Value::next() const {
  const auto& node = document_->nodes_[index_];
  if (node.next == 0) return std::nullopt;
  return Value(document_, node.next);
}

std::string_view Value::name() const {
  const auto& node = document_->nodes_[index_];
  return std::string_view(document_->strings_).substr(node.name_at, node.name_size);
}

std::optional<Value> Value::find(std::string_view name) const {
  if (kind() != Kind::object) return std::nullopt;
  for (auto member = first(); member; member = member->next()) {
    if (member->name() == name) return member;
  }
  return std::nullopt;
}

// One pass over the text, one level of recursion a level of nesting, bounded by Limits::depth.
class Parser {
 public:
  Parser(std::string_view text, const Limits& limits, Document& document) : text_(text), limits_(limits), document_(document) {}

  Status run() {
    if (text_.size() > limits_.bytes || text_.size() > UINT32_MAX) {
      return {Code::corrupt, "JSON of " + std::to_string(text_.size()) + " bytes, more than " + std::to_string(limits_.bytes)};
    }
    skip_space();
    bool good = value({}, limits_.depth);
    if (good) {
      skip_space();
      if (at_ != text_.size()) good = fail("the end");
    }
    if (good) return {};
    const std::string_view before = text_.substr(0, at_);
    const auto line = 1 + std::count(before.begin(), before.end(), '\n');
    const size_t newline = before.rfind('\n');
    const size_t column = at_ - (newline == std::string_view::npos ? 0 : newline + 1) + 1;
    return {Code::corrupt, "JSON line " + std::to_string(line) + " column " + std::to_string(column) + ": " + message_};
  }

 private:
  struct Name {
    uint32_t at = 0, size = 0;
  };

  // Both leave at_ at the guilty place.
  bool refuse(std::string what) {
    message_ = std::move(what);
    return false;
  }
  bool fail(const char* expected) {
    if (at_ >= text_.size()) return refuse(std::string("expected ") + expected + ", found the end");
    const auto c = static_cast<unsigned char>(text_[at_]);
    char found[8] = {static_cast<char>(c), 0};
    if (c < 0x20 || c >= 0x7F) {
      constexpr char digits[] = "0123456789abcdef";
      const char hex[] = {'0', 'x', digits[c >> 4], digits[c & 15], 0};
      std::memcpy(found, hex, sizeof hex);
    }
    return refuse(std::string("expected ") + expected + ", found " + found);
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool digit() const { return peek() >= '0' && peek() <= '9'; }
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t')) at_++;
  }

  // The new node's index.
  bool add(Name name, Kind kind, uint32_t& index) {
    if (document_.nodes_.size() >= limits_.values) return refuse("more than " + std::to_string(limits_.values) + " values");
    index = static_cast<uint32_t>(document_.nodes_.size());
    Document::Node node;
    node.kind = kind;
    node.name_at = name.at;
    node.name_size = name.size;
    document_.nodes_.push_back(node);
    return true;
  }

  bool value(Name name, uint32_t depth_left) {
    uint32_t index = 0;
    switch (peek()) {
      case '{': return container(name, depth_left, Kind::object);
      case '[': return container(name, depth_left, Kind::array);
      case '"': {
        if (!add(name, Kind::string, index)) return false;
        Name where;
        if (!string(where)) return false;
        document_.nodes_[index].at = where.at;
        document_.nodes_[index].size = where.size;
        return true;
      }
      case 't': return word("true") && add(name, Kind::boolean, index) && (document_.nodes_[index].flag = true);
      case 'f': return word("false") && add(name, Kind::boolean, index);
      case 'n': return word("null") && add(name, Kind::null, index);
      default: return number(name);
    }
  }

  bool word(std::string_view expected) {
    if (text_.substr(at_, expected.size()) != expected) return fail("a value");
    at_ += expected.size();
    return true;
  }

  bool container(Name name, uint32_t depth_left, Kind kind) {
    if (depth_left == 0) return refuse("nested deeper than " + std::to_string(limits_.depth));
    uint32_t index = 0;
    if (!add(name, kind, index)) return false;
    const char close = kind == Kind::object ? '}' : ']';
    at_++;
    skip_space();
    uint32_t count = 0;
    uint32_t previous = 0;
    while (peek() != close) {
      if (count != 0) {
        if (peek() != ',') return fail(kind == Kind::object ? "',' or '}'" : "',' or ']'");
        at_++;
        skip_space();
      }
      Name member;
      if (kind == Kind::object) {
        if (peek() != '"') return fail("a name in quotes");
        if (!string(member)) return false;
        skip_space();
        if (peek() != ':') return fail("':'");
        at_++;
        skip_space();
      }
      const auto child = static_cast<uint32_t>(document_.nodes_.size());
      if (!value(member, depth_left - 1)) return false;
      if (previous != 0) document_.nodes_[previous].next = child;
      previous = child;
      count++;
      skip_space();
    }
    at_++;
    document_.nodes_[index].size = count;
    return kind == Kind::array || names_differ(index);
  }

  bool names_differ(uint32_t index) {
    if (document_.nodes_[index].size < 2) return true;
    std::vector<std::string_view> names;
    names.reserve(document_.nodes_[index].size);
    for (uint32_t child = index + 1; child != 0; child = document_.nodes_[child].next) {
      const auto& node = document_.nodes_[child];
      names.push_back(std::string_view(document_.strings_).substr(node.name_at, node.name_size));
    }
    std::sort(names.begin(), names.end());
    const auto twice = std::adjacent_find(names.begin(), names.end());
    if (twice == names.end()) return true;
    return refuse("an object has the name \"" + std::string(twice->substr(0, 64)) + "\" twice");
  }

  // Unescapes into strings_; at_ is on the opening quote.
  bool string(Name& where) {
    std::string& out = document_.strings_;
    where.at = static_cast<uint32_t>(out.size());
    at_++;
    for (;;) {
      if (at_ >= text_.size()) return fail("'\"'");
      const auto c = static_cast<unsigned char>(text_[at_]);
      if (c == '"') break;
      if (c == '\\') {
        if (!escape(out)) return false;
      } else if (c < 0x20) {
        return fail("an escape instead of a control character");
      } else {
        const uint32_t length = utf8::valid_length(text_.data() + at_, text_.size() - at_);
        if (length == 0) return fail("UTF-8");
        out.append(text_, at_, length);
        at_ += length;
      }
    }
    at_++;
    where.size = static_cast<uint32_t>(out.size()) - where.at;
    return true;
  }

  bool escape(std::string& out) {
    at_++;
    switch (peek()) {
      case '"': out += '"'; break;
      case '\\': out += '\\'; break;
      case '/': out += '/'; break;
      case 'b': out += '\b'; break;
      case 'f': out += '\f'; break;
      case 'n': out += '\n'; break;
      case 'r': out += '\r'; break;
      case 't': out += '\t'; break;
      case 'u': {
        at_++;
        uint32_t point = 0;
        if (!hex4(point)) return false;
        if (point >= 0xDC00 && point < 0xE000) return refuse("a lone surrogate");
        if (point >= 0xD800 && point < 0xDC00) {
          uint32_t low = 0;
          if (text_.substr(at_, 2) != "\\u") return refuse("a lone surrogate");
          at_ += 2;
          if (!hex4(low)) return false;
          if (low < 0xDC00 || low >= 0xE000) return refuse("a lone surrogate");
          point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00);
        }
        utf8::append(out, point);
        return true;
      }
      default: return fail("an escape");
    }
    at_++;
    return true;
  }

  bool hex4(uint32_t& point) {
    point = 0;
    for (int i = 0; i < 4; i++, at_++) {
      const char c = peek();
      if (c >= '0' && c <= '9') point = point * 16 + static_cast<uint32_t>(c - '0');
      else if (c >= 'a' && c <= 'f') point = point * 16 + static_cast<uint32_t>(c - 'a' + 10);
      else if (c >= 'A' && c <= 'F') point = point * 16 + static_cast<uint32_t>(c - 'A' + 10);
      else return fail("four hexadecimal digits");
    }
    return true;
  }

  bool number(Name name) {
    const size_t begin = at_;
    if (peek() == '-') at_++;
    if (!digit()) return at_ == begin ? fail("a value") : fail("a digit");
    if (peek() == '0') {
      at_++;
      if (digit()) return refuse("a number that begins with 0");
    }
    while (digit()) at_++;
    bool whole = true;
    if (peek() == '.') {
      whole = false;
      at_++;
      if (!digit()) return fail("a digit");
      while (digit()) at_++;
    }
    if (peek() == 'e' || peek() == 'E') {
      whole = false;
      at_++;
      if (peek() == '+' || peek() == '-') at_++;
      if (!digit()) return fail("a digit");
      while (digit()) at_++;
    }
    uint32_t index = 0;
    if (!add(name, Kind::number, index)) return false;
    Document::Node& node = document_.nodes_[index];
    const char* first = text_.data() + begin;
    const char* last = text_.data() + at_;
    if (whole) {
      int64_t integer = 0;
      if (std::from_chars(first, last, integer).ec == std::errc()) {
        node.flag = true;
        node.integer = integer;
        return true;
      }
    }
    double number = 0;
    const auto result = std::from_chars(first, last, number);
    if (result.ec != std::errc() || !std::isfinite(number)) return refuse("a number that no double can hold");
    node.number = number;
    return true;
  }

  std::string_view text_;
  const Limits& limits_;
  Document& document_;
  size_t at_ = 0;
  std::string message_;
};

Result<Document> Document::parse(std::string_view text, const Limits& limits) {
  Document document;
  Status status = Parser(text, limits, document).run();
  if (!status.ok()) return status;
  return document;
}

}  // namespace ern::json
