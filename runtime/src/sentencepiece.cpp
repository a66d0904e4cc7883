// Field numbers and defaults: sentencepiece_model.proto of google/sentencepiece.
#include "sentencepiece.hpp"

#include <array>
#include <bit>
#include <cmath>
#include <string>
#include <utility>

#include "protobuf.hpp"
#include "utf8.hpp"

namespace ern {
namespace {

constexpr size_t max_file = 32u << 20;      // real ones have 0.1 to 5 MB
constexpr size_t max_pieces = 1u << 20;
constexpr size_t max_piece_bytes = 7999;    // SentencePiece's own limit
constexpr size_t max_user_defined = 1u << 20;  // bytes of all user-defined pieces: their trie costs 50 bytes a byte
constexpr std::string_view space_symbol = "\xE2\x96\x81";  // U+2581

Status corrupt(const std::string& what) { return {Code::corrupt, "tokenizer.model: " + what}; }
Status unsupported(const std::string& what) { return {Code::unsupported, "tokenizer.model: " + what}; }

// What TrainerSpec (field 2) and NormalizerSpec (3, and 5 for decoding) say, with proto2's defaults for what they leave out.
struct Trainer {
  uint64_t model_type = 1;  // 1 unigram, 2 BPE, 3 word, 4 char
  bool byte_fallback = false;
  bool treat_whitespace_as_suffix = false;
};
struct Normalizer {
  std::string_view name;
  size_t charsmap = 0, rules = 0;  // bytes
  bool add_dummy_prefix = true, remove_extra_whitespaces = true, escape_whitespaces = true;
};

Status wrong_wire(const std::string& where, const protobuf::Field& field) {
  return corrupt("field " + std::to_string(field.number) + " of " + where + " has wire type " + std::to_string(static_cast<int>(field.wire)));
}

Status parse_trainer(std::string_view data, Trainer& out) {
  protobuf::Reader reader(data);
  protobuf::Field field;
  while (reader.next(field)) {
    const bool ours = field.number == 3 || field.number == 24 || field.number == 35;
    if (ours && field.wire != protobuf::Wire::varint) return wrong_wire("the trainer spec", field);
    if (field.number == 3) out.model_type = field.integer;
    if (field.number == 24) out.treat_whitespace_as_suffix = field.integer != 0;
    if (field.number == 35) out.byte_fallback = field.integer != 0;
  }
  return reader.error() != nullptr ? corrupt(std::string("the trainer spec has ") + reader.error()) : Status();
}

Status parse_normalizer(std::string_view data, Normalizer& out) {
  protobuf::Reader reader(data);
  protobuf::Field field;
  while (reader.next(field)) {
    const bool text = field.number == 1 || field.number == 2 || field.number == 6;
    const bool flag = field.number >= 3 && field.number <= 5;
    if ((text && field.wire != protobuf::Wire::bytes) || (flag && field.wire != protobuf::Wire::varint)) return wrong_wire("a normalizer spec", field);
    switch (field.number) {
      case 1: out.name = field.bytes; break;
      case 2: out.charsmap = field.bytes.size(); break;
      case 3: out.add_dummy_prefix = field.integer != 0; break;
      case 4: out.remove_extra_whitespaces = field.integer != 0; break;
      case 5: out.escape_whitespaces = field.integer != 0; break;
      case 6: out.rules = field.bytes.size(); break;
      default: break;
    }
  }
  return reader.error() != nullptr ? corrupt(std::string("a normalizer spec has ") + reader.error()) : Status();
}

// "<0x0A>" -> 10, or -1.
int byte_of_spelling(std::string_view piece) {
  if (piece.size() != 6 || piece.substr(0, 3) != "<0x" || piece[5] != '>') return -1;
  int value = 0;
  for (const char c : piece.substr(3, 2)) {
    if (c >= '0' && c <= '9') value = value * 16 + (c - '0');
    else if (c >= 'A' && c <= 'F') value = value * 16 + (c - 'A' + 10);
    else return -1;
  }
  return value;
}

// Files the pieces one by one and keeps count of what all of them together must obey.
class PieceCollector {
 public:
  explicit PieceCollector(SentencePieceModel& model) : model_(model) { byte_seen_.fill(false); }

  Status add(std::string_view message) {
    const size_t id = model_.pieces.size();
    if (id == max_pieces) return unsupported("more than " + std::to_string(max_pieces) + " pieces");
    std::string_view spelling;
    float score = 0;
    uint64_t type = 1;
    protobuf::Reader reader(message);
    protobuf::Field field;
    while (reader.next(field)) {
      const bool fits = field.number == 1   ? field.wire == protobuf::Wire::bytes
                        : field.number == 2 ? field.wire == protobuf::Wire::fixed32
                        : field.number == 3 ? field.wire == protobuf::Wire::varint
                                            : true;
      if (!fits) return wrong_wire(name(id), field);
      if (field.number == 1) spelling = field.bytes;
      if (field.number == 2) score = std::bit_cast<float>(static_cast<uint32_t>(field.integer));
      if (field.number == 3) type = field.integer;
    }
    if (reader.error() != nullptr) return corrupt(name(id) + " has " + reader.error());
    if (spelling.empty()) return corrupt(name(id) + " is empty");
    if (spelling.size() > max_piece_bytes) {
      return unsupported(name(id) + " has " + std::to_string(spelling.size()) + " bytes, more than " + std::to_string(max_piece_bytes));
    }
    if (!utf8::is_valid(spelling) || spelling.find('\0') != std::string_view::npos) return corrupt(name(id) + " is not UTF-8 without NUL");
    if (!std::isfinite(score)) return corrupt(name(id) + " has a score that is not a finite number");
    if (type < 1 || type > 6) return corrupt(name(id) + " has the unknown type " + std::to_string(type));
    return keep(id, spelling, score, static_cast<PieceType>(type));
  }

  Status finish() const {
    for (size_t byte = 0; byte < 256; byte++) {
      if (!byte_seen_[byte]) return corrupt("no piece for byte " + std::to_string(byte) + " although byte_fallback is set");
    }
    return {};
  }
  bool any_byte() const { return any_byte_; }

 private:
  static std::string name(size_t id) { return "piece " + std::to_string(id); }

  Status keep(size_t id, std::string_view spelling, float score, PieceType type) {
    Piece piece;
    piece.at = static_cast<uint32_t>(model_.text.size());
    piece.type = type;
    piece.score = score;
    switch (type) {
      case PieceType::byte: {
        const int byte = byte_of_spelling(spelling);
        if (byte < 0) return corrupt(name(id) + " is of type byte but not spelt <0x00> to <0xFF>");
        piece.byte = static_cast<uint8_t>(byte);
        model_.byte_ids[byte] = static_cast<int32_t>(id);
        byte_seen_[static_cast<size_t>(byte)] = any_byte_ = true;
        model_.text += spelling;
        break;
      }
      case PieceType::unknown:
        if (unknown_seen_) return corrupt(name(id) + " is a second unknown piece");
        unknown_seen_ = true;
        [[fallthrough]];
      case PieceType::control: model_.text += spelling; break;
      case PieceType::user_defined:
        user_defined_ += spelling.size();
        if (user_defined_ > max_user_defined) return unsupported("over 1 MiB of user-defined pieces");
        [[fallthrough]];
      default:
        if (spelling.find(' ') != std::string_view::npos) {
          // Such a piece can't come out of a text, where spaces are U+2581 by then; and here it would look the same as one that can.
          return unsupported(name(id) + " holds a plain space; inside pieces a space is U+2581");
        }
        model_.has_unused |= type == PieceType::unused;
        append_with_spaces(spelling);
    }
    piece.size = static_cast<uint16_t>(model_.text.size() - piece.at);
    model_.pieces.push_back(piece);
    return {};
  }

  void append_with_spaces(std::string_view spelling) {
    size_t from = 0;
    for (size_t at = spelling.find(space_symbol); at != std::string_view::npos; at = spelling.find(space_symbol, from)) {
      model_.text.append(spelling, from, at - from);
      model_.text += ' ';
      from = at + space_symbol.size();
    }
    model_.text.append(spelling, from);
  }

  SentencePieceModel& model_;
  std::array<bool, 256> byte_seen_;
  bool any_byte_ = false, unknown_seen_ = false;
  size_t user_defined_ = 0;
};

// Everything that would make a text come out otherwise than bpe.hpp does it.
Status check_supported(const Trainer& trainer, const Normalizer& normalizer, const Normalizer& denormalizer) {
  if (trainer.model_type != 2) {
    constexpr const char* names[] = {"0", "unigram", "BPE", "word", "char"};
    const std::string found = trainer.model_type < 5 ? names[trainer.model_type] : std::to_string(trainer.model_type);
    return unsupported("the model type is " + found + ", and only BPE is supported");
  }
  if (!trainer.byte_fallback) return unsupported("byte_fallback is off, and only vocabularies with byte pieces are supported");
  if (trainer.treat_whitespace_as_suffix) return unsupported("treat_whitespace_as_suffix is not supported");
  if (normalizer.charsmap != 0 || normalizer.rules != 0) {
    return unsupported("the normalizer rewrites characters, and only the identity is supported");
  }
  if (normalizer.add_dummy_prefix) return unsupported("add_dummy_prefix is set, and no ERNIE tokenizer has it");
  if (normalizer.remove_extra_whitespaces) return unsupported("remove_extra_whitespaces is set, and no ERNIE tokenizer has it");
  if (!normalizer.escape_whitespaces) return unsupported("escape_whitespaces is off, and no ERNIE tokenizer has that");
  if (denormalizer.charsmap != 0 || denormalizer.rules != 0) return unsupported("the denormalizer rewrites characters");
  return {};
}

}  // namespace

Result<SentencePieceModel> parse_sentencepiece(std::span<const std::byte> file) {
  if (file.empty()) return corrupt("the file is empty");
  if (file.size() > max_file) return unsupported("the file has " + std::to_string(file.size()) + " bytes, more than 32 MiB");
  SentencePieceModel model;
  model.text.reserve(file.size() / 2);
  model.pieces.reserve(file.size() / 16);
  PieceCollector pieces(model);
  Trainer trainer;
  Normalizer normalizer, denormalizer;
  bool trainer_seen = false, normalizer_seen = false, denormalizer_seen = false;

  protobuf::Reader reader({reinterpret_cast<const char*>(file.data()), file.size()});
  protobuf::Field field;
  while (reader.next(field)) {
    if (field.number > 5) continue;  // extensions
    if (field.wire != protobuf::Wire::bytes) return wrong_wire("the file", field);
    Status status;
    switch (field.number) {
      case 1: status = pieces.add(field.bytes); break;
      case 2:
        if (std::exchange(trainer_seen, true)) return corrupt("two trainer specs");
        status = parse_trainer(field.bytes, trainer);
        break;
      case 3:
        if (std::exchange(normalizer_seen, true)) return corrupt("two normalizer specs");
        status = parse_normalizer(field.bytes, normalizer);
        break;
      case 5:
        if (std::exchange(denormalizer_seen, true)) return corrupt("two denormalizer specs");
        status = parse_normalizer(field.bytes, denormalizer);
        break;
      default: break;  // 4: SentencePiece's self-test
    }
    if (!status.ok()) return status;
  }
  if (reader.error() != nullptr) return corrupt(std::string("truncated, or not a protobuf: found ") + reader.error());
  if (model.pieces.empty()) return corrupt("it holds no pieces");
  if (!trainer_seen || !normalizer_seen) return corrupt("the trainer or normalizer spec is missing: truncated?");
  if (Status status = check_supported(trainer, normalizer, denormalizer); !status.ok()) return status;
  if (Status status = pieces.finish(); !status.ok()) return status;
  return model;
}

}  // namespace ern
