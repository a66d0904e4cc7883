// UTF-8, one character at a time. Valid means what RFC 3629 says: shortest form, no surrogates, at most U+10FFFF.
// This is also what SentencePiece takes for valid, byte for byte, so broken input is cut up in the same places.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace ern::utf8 {

inline constexpr std::string_view replacement = "\xEF\xBF\xBD";  // U+FFFD

// How many bytes a character with this first byte has; 0 if none starts so.
inline uint32_t length_from_lead(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead < 0xC2) return 0;  // continuation bytes; C0 and C1 could only begin overlong forms
  if (lead < 0xE0) return 2;
  if (lead < 0xF0) return 3;
  return lead < 0xF5 ? 4 : 0;
}

// May `byte` be second after `lead`? The one place where overlong forms, surrogates and values over U+10FFFF show.
inline bool second_fits(unsigned char lead, unsigned char byte) {
  if ((byte & 0xC0) != 0x80) return false;
  switch (lead) {
    case 0xE0: return byte >= 0xA0;
    case 0xED: return byte < 0xA0;
    case 0xF0: return byte >= 0x90;
    case 0xF4: return byte < 0x90;
    default: return true;
  }
}

// Length in bytes of the valid character at `p`, or 0: then `*p` is a broken byte. `available` >= 1.
inline uint32_t valid_length(const char* p, size_t available) {
  const auto* b = reinterpret_cast<const unsigned char*>(p);
  const uint32_t length = length_from_lead(b[0]);
  if (length <= 1) return length;
  if (length > available || !second_fits(b[0], b[1])) return 0;
  for (uint32_t i = 2; i < length; i++) {
    if ((b[i] & 0xC0) != 0x80) return 0;
  }
  return length;
}

// The code point of a valid character of this length.
inline uint32_t code_point(const char* p, uint32_t length) {
  const auto* b = reinterpret_cast<const unsigned char*>(p);
  switch (length) {
    case 1: return b[0];
    case 2: return (b[0] & 0x1Fu) << 6 | (b[1] & 0x3Fu);
    case 3: return (b[0] & 0x0Fu) << 12 | (b[1] & 0x3Fu) << 6 | (b[2] & 0x3Fu);
    default: return (b[0] & 0x07u) << 18 | (b[1] & 0x3Fu) << 12 | (b[2] & 0x3Fu) << 6 | (b[3] & 0x3Fu);
  }
}

inline void append(std::string& out, uint32_t point) {
  if (point < 0x80) {
    out += static_cast<char>(point);
  } else if (point < 0x800) {
    out += static_cast<char>(0xC0 | point >> 6);
    out += static_cast<char>(0x80 | (point & 0x3F));
  } else if (point < 0x10000) {
    out += static_cast<char>(0xE0 | point >> 12);
    out += static_cast<char>(0x80 | (point >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (point & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | point >> 18);
    out += static_cast<char>(0x80 | (point >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (point >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (point & 0x3F));
  }
}

// Offset of the first broken byte, or npos.
inline size_t find_invalid(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const uint32_t length = valid_length(text.data() + i, text.size() - i);
    if (length == 0) return i;
    i += length;
  }
  return std::string_view::npos;
}

inline bool is_valid(std::string_view text) { return find_invalid(text) == std::string_view::npos; }

}  // namespace ern::utf8
