// A small strict JSON reader for the files of a package: text.json and manifest.json. RFC 8259 with nothing added: UTF-8 is checked, duplicate keys,
// lone surrogates, numbers outside a double and anything after the value are refused, and depth, size and number of values are bounded
// before memory is spent. It reads whole documents into one flat array; it doesn't write, and it doesn't stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "status.hpp"

namespace ern::json {

enum class Kind : uint8_t { null, boolean, number, string, array, object };

struct Limits {
  size_t bytes = 16u << 20;
  uint32_t depth = 64;
  uint32_t values = 1u << 20;  // member names count
};

class Document;

// A view of one value; valid while its Document lives and stays where it is.
class Value {
 public:
  Kind kind() const;
  bool is(Kind k) const { return kind() == k; }

  std::optional<bool> boolean() const;
  std::optional<double> number() const;
  // Only for a number that is written as an integer (no point, no exponent) and fits.
  std::optional<int64_t> integer() const;
  // Unescaped UTF-8; may hold NUL, so never hand it to a C function unchecked.
  std::optional<std::string_view> string() const;

  // Elements or members; 0 for anything else.
  size_t size() const;
  // Children in the order of the file: `for (auto v = a.first(); v; v = v->next())`. For members the value; its name is name().
  std::optional<Value> first() const;
  std::optional<Value> next() const;
  std::string_view name() const;
  // The member with this name, if this is an object that has it. Walks the members.
  std::optional<Value> find(std::string_view name) const;

 private:
  friend class Document;
  Value(const Document* document, uint32_t index) : document_(document), index_(index) {}
  const Document* document_;
  uint32_t index_;
};

class Document {
 public:
  // The message of a failure says what was found, what was expected, and the line and column.
  static Result<Document> parse(std::string_view text, const Limits& limits = {});
  Value root() const { return Value(this, 0); }

 private:
  friend class Value;
  friend class Parser;
  struct Node {
    Kind kind = Kind::null;
    bool flag = false;      // boolean: its value; number: it is an integer that fits
    bool named = false;     // a member of an object
    uint32_t next = 0;      // the following sibling, 0 for none
    uint32_t size = 0;      // string: bytes; array, object: children (the first child, if any, is the node after this one)
    uint32_t name_at = 0, name_size = 0;
    union {
      double number;
      int64_t integer;
      uint64_t at;          // string: offset into strings_
    };
    Node() : at(0) {}
  };
  std::vector<Node> nodes_;
  std::string strings_;     // every unescaped string and name, one after the other
};

}  // namespace ern::json
