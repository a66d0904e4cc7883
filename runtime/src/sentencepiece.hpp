// The reader of SentencePiece's tokenizer.model: a protobuf (proto2) message ModelProto, of which we read the pieces and those settings that
// change what a text becomes. It refuses what the rest of the tokenizer doesn't do exactly. It knows nothing of merging or of text.json.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "status.hpp"

namespace ern {

enum class PieceType : uint8_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

struct Piece {
  uint32_t at = 0;  // into SentencePieceModel::text
  uint16_t size = 0;
  PieceType type = PieceType::normal;
  uint8_t byte = 0;  // what a byte piece stands for
  float score = 0;   // finite; higher merges first
};

struct SentencePieceModel {
  // The text of all pieces, one after the other: valid UTF-8 without NUL. The file writes a space inside a piece as U+2581; here it is a space
  // again, so that texts need not be rewritten before they are encoded (SentencePiece can't tell the two apart in a text either).
  std::string text;
  std::vector<Piece> pieces;   // index = id; no two of the same spelling in the file
  int32_t byte_ids[256] = {};  // the piece of each byte
  bool has_unused = false;

  std::string_view spelling(size_t id) const { return {text.data() + pieces[id].at, pieces[id].size}; }
};

// `corrupt`: truncated, not protobuf, contradicts itself.
// `unsupported`: not BPE, no byte fallback, a normaliser other than identity, a dummy prefix, ...
Result<SentencePieceModel> parse_sentencepiece(std::span<const std::byte> file);

}  // namespace ern
