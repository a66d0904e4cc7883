#include "detokenizer.hpp"

#include <cstring>

#include "tokenizer.hpp"
#include "utf8.hpp"

namespace ern {
namespace {

enum class Shape { broken, partial, whole };

// Of bytes that are valid so far up to the last one.
Shape shape_of(const unsigned char* bytes, size_t count) {
  const uint32_t length = utf8::length_from_lead(bytes[0]);
  if (length == 0) return Shape::broken;
  if (count >= 2 && !utf8::second_fits(bytes[0], bytes[1])) return Shape::broken;
  for (size_t i = 2; i < count; i++) {
    if ((bytes[i] & 0xC0) != 0x80) return Shape::broken;
  }
  return count < length ? Shape::partial : Shape::whole;
}

}  // namespace

void Detokenizer::push_byte(unsigned char byte, std::string& out) {
  bytes_[held_++] = byte;
  // Takes characters off the front while they are whole. What begins none gives up one byte, and the rest is looked at anew, as
  // SentencePiece does.
  for (size_t begin = 0; held_ > 0;) {
    size_t count = 1;
    Shape shape = shape_of(bytes_ + begin, count);
    while (shape == Shape::partial && count < held_) shape = shape_of(bytes_ + begin, ++count);
    if (shape == Shape::partial) {
      std::memmove(bytes_, bytes_ + begin, held_);
      return;
    }
    if (shape == Shape::whole) {
      out.append(reinterpret_cast<const char*>(bytes_ + begin), count);
    } else {
      out += utf8::replacement;
      count = 1;
    }
    begin += count;
    held_ = static_cast<uint8_t>(held_ - count);
  }
}

void Detokenizer::push(int32_t id, std::string& out) {
  if (const int byte = tokenizer_->byte_of(id); byte >= 0) {
    push_byte(static_cast<unsigned char>(byte), out);
    return;
  }
  finish(out);
  if (!keep_specials_ && tokenizer_->is_special(id)) return;
  out += tokenizer_->piece(id);
}

std::string Detokenizer::push(int32_t id) {
  std::string out;
  push(id, out);
  return out;
}

void Detokenizer::finish(std::string& out) {
  for (; held_ > 0; held_--) out += utf8::replacement;
}

std::string Detokenizer::finish() {
  std::string out;
  finish(out);
  return out;
}

}  // namespace ern
