// Walks the fields of one protobuf message in place; knows no message type, copies nothing and allocates nothing.
// Wire format: protobuf.dev/programming-guides/encoding. Groups, which proto2 has given up, are refused.
#pragma once

#include <cstdint>
#include <string_view>

namespace ern::protobuf {

enum class Wire : uint8_t { varint = 0, fixed64 = 1, bytes = 2, group_start = 3, group_end = 4, fixed32 = 5 };

struct Field {
  uint32_t number = 0;
  Wire wire = Wire::varint;
  uint64_t integer = 0;    // varint, fixed64, fixed32
  std::string_view bytes;  // bytes
};

// Walks the fields of one message. After an error every call says false.
class Reader {
 public:
  explicit Reader(std::string_view data) : at_(data.data()), end_(data.data() + data.size()) {}

  bool next(Field& field) {
    if (at_ == end_ || error_ != nullptr) return false;
    uint64_t tag = 0;
    if (!varint(tag)) return false;
    if (tag >> 3 == 0 || tag >> 32 != 0) return fail("a field with an impossible number");
    field.number = static_cast<uint32_t>(tag >> 3);
    field.wire = static_cast<Wire>(tag & 7);
    switch (field.wire) {
      case Wire::varint: return varint(field.integer);
      case Wire::fixed64: return fixed(8, field.integer);
      case Wire::fixed32: return fixed(4, field.integer);
      case Wire::bytes: {
        uint64_t size = 0;
        if (!varint(size)) return false;
        if (size > static_cast<uint64_t>(end_ - at_)) return fail("a field that reaches past its end");
        field.bytes = {at_, static_cast<size_t>(size)};
        at_ += size;
        return true;
      }
      default: return fail("a wire type that this format doesn't have");
    }
  }
  const char* error() const { return error_; }

 private:
  bool fail(const char* what) {
    error_ = what;
    return false;
  }
  bool varint(uint64_t& value) {
    value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (at_ == end_) return fail("a number that is cut off");
      const auto byte = static_cast<unsigned char>(*at_++);
      if (shift == 63 && byte > 1) break;
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return true;
    }
    return fail("a number of more than 64 bits");
  }
  bool fixed(int size, uint64_t& value) {
    if (end_ - at_ < size) return fail("a number that is cut off");
    value = 0;
    for (int i = 0; i < size; i++) value |= static_cast<uint64_t>(static_cast<unsigned char>(*at_++)) << (8 * i);
    return true;
  }

  const char* at_;
  const char* end_;
  const char* error_ = nullptr;
};

}  // namespace ern::protobuf
