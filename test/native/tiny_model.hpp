// Writes small tokenizer.model files, good and bad ones, for tests and as seeds for the fuzzer.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tiny {

enum Type { normal = 1, unknown, control, user_defined, unused, byte };

struct Piece {
  std::string text;
  float score = 0;
  int type = normal;
};

inline void varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}
inline std::string number_field(int number, uint64_t value) {
  std::string out;
  varint(out, static_cast<uint64_t>(number) << 3);
  varint(out, value);
  return out;
}
inline std::string bytes_field(int number, std::string_view bytes) {
  std::string out;
  varint(out, static_cast<uint64_t>(number) << 3 | 2);
  varint(out, bytes.size());
  return out.append(bytes);
}
inline std::string piece_message(const Piece& piece) {
  std::string out = bytes_field(1, piece.text);
  const auto bits = std::bit_cast<uint32_t>(piece.score);
  out += static_cast<char>(2 << 3 | 5);
  for (int i = 0; i < 4; i++) out += static_cast<char>(bits >> (8 * i));
  return out + number_field(3, static_cast<uint64_t>(piece.type));
}

struct Model {
  std::vector<Piece> pieces;
  std::string trainer = number_field(3, 2) + number_field(35, 1);                                        // BPE, byte_fallback
  std::string normalizer = bytes_field(1, "identity") + number_field(3, 0) + number_field(4, 0);         // no dummy prefix, spaces kept
  std::string tail;                                                                                      // further fields

  std::string bytes() const {
    std::string out;
    for (const Piece& piece : pieces) out += bytes_field(1, piece_message(piece));
    return out + bytes_field(2, trainer) + bytes_field(3, normalizer) + tail;
  }
  int32_t id(std::string_view text) const {
    for (size_t i = 0; i < pieces.size(); i++) {
      if (pieces[i].text == text) return static_cast<int32_t>(i);
    }
    return -1;
  }
};

// <unk> <s> </s>, the 256 bytes, then `more`.
inline Model model(const std::vector<Piece>& more) {
  Model out;
  out.pieces = {{"<unk>", 0, unknown}, {"<s>", 0, control}, {"</s>", 0, control}};
  for (int i = 0; i < 256; i++) {
    char text[8];
    std::snprintf(text, sizeof text, "<0x%02X>", i);
    out.pieces.push_back({text, 0, byte});
  }
  out.pieces.insert(out.pieces.end(), more.begin(), more.end());
  return out;
}

// A bit of everything: ties, user-defined pieces of which one begins another, unused pieces, Chinese, spaces.
inline Model rich(bool with_unused = true) {
  std::vector<Piece> more;
  float score = 0;
  for (const char* text : {"ab", "bc", "▁a", "▁▁", "▁▁▁▁", "abc", "cd", "▁the", "th",
                           "▁t", "he", "你好", "好世", "世界", "aa", "aaaa", "é", "▁ab"}) {
    more.push_back({text, -(score += 1)});
  }
  more.push_back({"da", -2});  // as good as "bc"
  more.push_back({"xy", -30, with_unused ? unused : normal});
  more.push_back({"xyz", -31, with_unused ? unused : normal});
  more.push_back({"yz", -29, with_unused ? unused : normal});
  for (const char* text : {"1", "2", "12", "\n", ">>", ">>>>"}) more.push_back({text, 0, user_defined});
  more.push_back({"<|begin|>", 0, control});
  more.push_back({"<mask>", 0});  // a special that the file calls normal
  for (const char* text : {"a", "b", "c", "d", "▁", "t", "h", "e", "你", "好", "世", "界", "x", "y", "z", "<", "|", ">"}) {
    more.push_back({text, -(score += 1)});
  }
  return model(more);
}

}  // namespace tiny
