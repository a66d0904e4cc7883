#include "tokenizer.hpp"

#include <algorithm>
#include <cstring>

#include "detokenizer.hpp"
#include "utf8.hpp"

namespace ern {
namespace {

constexpr std::string_view space_symbol = "\xE2\x96\x81";  // U+2581, which SentencePiece takes for a space wherever it stands
constexpr size_t max_template_bytes = 1u << 20;            // of all template tokens together: their trie costs 50 bytes a byte

Status corrupt(const std::string& what) { return {Code::corrupt, "text.json: " + what}; }

// Not `quoted`: where a header brings <iomanip> along, std::quoted would be taken for strings.
std::string in_quotes(std::string_view text) { return '"' + std::string(text.substr(0, 64)) + '"'; }

void set(std::vector<uint32_t>& mask, int32_t id) { mask[static_cast<uint32_t>(id) / 32] |= 1u << (id % 32); }

bool is_ascii8(const char* p) {
  uint64_t word;
  std::memcpy(&word, p, 8);
  return (word & 0x8080808080808080u) == 0;
}

// Offset of the first character that BPE must not see: a broken byte or U+2581. The size if there is none.
size_t find_rewritable(std::string_view text, size_t from) {
  for (size_t i = from; i < text.size();) {
    if (text.size() - i >= 8 && is_ascii8(text.data() + i)) {
      i += 8;
      continue;
    }
    const uint32_t length = utf8::valid_length(text.data() + i, text.size() - i);
    if (length == 0 || (length == 3 && text.compare(i, 3, space_symbol) == 0)) return i;
    i += length;
  }
  return text.size();
}

// Valid UTF-8 with a space for each U+2581 and U+FFFD for each broken byte.
std::string rewrite(std::string_view text, size_t at) {
  std::string out;
  out.reserve(text.size() + 64);
  size_t from = 0;
  for (; at < text.size(); at = find_rewritable(text, from)) {
    out.append(text, from, at - from);
    if (utf8::valid_length(text.data() + at, text.size() - at) == 0) {
      out += utf8::replacement;
      from = at + 1;
    } else {
      out += ' ';
      from = at + space_symbol.size();
    }
  }
  out.append(text, from);
  return out;
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> Tokenizer::load(std::span<const std::byte> model, std::string_view text_json) {
  std::unique_ptr<Tokenizer> tokenizer(new Tokenizer());
  auto config = parse_text_config(text_json);
  if (!config.ok()) return config.status();
  auto parsed = parse_sentencepiece(model);
  if (!parsed.ok()) return parsed.status();
  tokenizer->model_ = std::move(parsed.value());
  if (Status status = tokenizer->table_.build(tokenizer->model_); !status.ok()) return status;
  if (Status status = tokenizer->apply(config.value()); !status.ok()) return status;
  std::vector<bool> excluded(tokenizer->model_.pieces.size());
  for (const int32_t id : tokenizer->template_tokens_) {
    if (static_cast<size_t>(id) < excluded.size()) excluded[static_cast<size_t>(id)] = true;
  }
  tokenizer->bpe_.build(tokenizer->model_, tokenizer->table_, excluded);
  return tokenizer;
}

// Brings text.json and the pieces together: who is special, who has a piece.
Status Tokenizer::apply(const TextConfig& config) {
  const auto pieces = static_cast<int32_t>(model_.pieces.size());
  vocab_size_ = config.vocab_size;
  stop_ids_ = config.stop_ids;
  generation_ = config.generation;
  if (pieces > vocab_size_) {
    return corrupt("\"vocab_size\" is " + std::to_string(vocab_size_) + ", and tokenizer.model has " + std::to_string(pieces) + " pieces");
  }
  for (auto* mask : {&has_piece_, &special_, &template_, &stop_}) mask->assign((static_cast<size_t>(vocab_size_) + 31) / 32, 0);
  for (const int32_t id : stop_ids_) set(stop_, id);
  for (int32_t id = 0; id < pieces; id++) {
    set(has_piece_, id);
    const Piece& piece = model_.pieces[static_cast<size_t>(id)];
    if (piece.type != PieceType::control && piece.type != PieceType::unknown) continue;
    if (Status status = add_template_token(id, model_.spelling(static_cast<size_t>(id)), true); !status.ok()) return status;
  }
  for (const AddedToken& token : config.added) {
    if (token.id < pieces) {
      const auto index = static_cast<size_t>(token.id);
      if (model_.spelling(index) != token.content) {
        return corrupt("id " + std::to_string(token.id) + " is " + in_quotes(token.content) + ", but in tokenizer.model it is " +
                       in_quotes(model_.spelling(index)));
      }
      if (model_.pieces[index].type == PieceType::user_defined && !token.special) continue;
    } else {
      if (has_piece(token.id)) return corrupt("\"added\" has the id " + std::to_string(token.id) + " twice");
      set(has_piece_, token.id);
      outside_.push_back(token);
    }
    if (Status status = add_template_token(token.id, token.content, token.special); !status.ok()) return status;
  }
  std::sort(outside_.begin(), outside_.end(), [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });

  for (const auto& special : config.specials) {
    int32_t id = -1;
    if (const auto* by_id = std::get_if<int32_t>(&special)) {
      id = *by_id;
      if (!has_piece(id)) return corrupt("\"specials\" has the id " + std::to_string(id) + ", which has no piece");
    } else {
      const auto& content = std::get<std::string>(special);
      id = piece_to_id(content);
      if (id < 0) return corrupt("\"specials\" has " + in_quotes(content) + ", which is neither a piece of tokenizer.model nor added");
    }
    if (Status status = add_template_token(id, piece(id), true); !status.ok()) return status;
  }
  std::sort(template_tokens_.begin(), template_tokens_.end());
  return {};
}

// Naming the same token again is fine, and may make it special.
Status Tokenizer::add_template_token(int32_t id, std::string_view content, bool special) {
  if (static_cast<size_t>(id) < model_.pieces.size() && model_.pieces[static_cast<size_t>(id)].type == PieceType::byte) {
    return corrupt("the byte piece " + std::to_string(id) + " can't be a special or an added token");
  }
  if (special) set(special_, id);
  if (is_template_token(id)) return {};
  if (const auto match = template_matcher_.longest(content); match.size == content.size()) {
    return corrupt("ids " + std::to_string(match.value) + " and " + std::to_string(id) + " are both " + in_quotes(content));
  }
  template_bytes_ += content.size();
  if (template_bytes_ > max_template_bytes) return corrupt("over 1 MiB of special and added tokens");
  set(template_, id);
  template_tokens_.push_back(id);
  template_matcher_.add(content, id);
  return {};
}

std::vector<int32_t> Tokenizer::encode(std::string_view user_text) const {
  std::vector<int32_t> out;
  encode_text(user_text, out);
  return out;
}

std::vector<int32_t> Tokenizer::encode(std::span<const Segment> segments) const {
  std::vector<int32_t> out;
  std::string pending;  // text since the last template token
  for (size_t i = 0; i < segments.size();) {
    if (segments[i].origin == Origin::user) {
      pending += segments[i++].text;
      continue;
    }
    std::string stretch;
    for (; i < segments.size() && segments[i].origin == Origin::template_; i++) stretch += segments[i].text;
    size_t from = 0;
    for (size_t at = 0; at < stretch.size();) {
      const auto match = template_matcher_.longest(std::string_view(stretch).substr(at));
      if (match.size == 0) {
        at++;
        continue;
      }
      pending.append(stretch, from, at - from);
      encode_text(pending, out);
      pending.clear();
      out.push_back(match.value);
      from = at += match.size;
    }
    pending.append(stretch, from);
  }
  encode_text(pending, out);
  return out;
}

void Tokenizer::encode_text(std::string_view text, std::vector<int32_t>& out) const {
  if (text.empty()) return;
  out.reserve(out.size() + text.size() / 4 + 16);
  const size_t rewritable = find_rewritable(text, 0);
  if (rewritable == text.size()) {
    bpe_.encode(text, out);
  } else {
    bpe_.encode(rewrite(text, rewritable), out);
  }
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool keep_specials) const {
  std::string out;
  Detokenizer detokenizer(*this, keep_specials);
  for (const int32_t id : ids) detokenizer.push(id, out);
  detokenizer.finish(out);
  return out;
}

const AddedToken* Tokenizer::outside(int32_t id) const {
  const auto at = std::lower_bound(outside_.begin(), outside_.end(), id, [](const AddedToken& token, int32_t wanted) { return token.id < wanted; });
  return at != outside_.end() && at->id == id ? &*at : nullptr;
}

std::string_view Tokenizer::piece(int32_t id) const {
  if (id < 0) return {};
  if (static_cast<size_t>(id) < model_.pieces.size()) return model_.spelling(static_cast<size_t>(id));
  const AddedToken* added = outside(id);
  return added != nullptr ? std::string_view(added->content) : std::string_view();
}

std::string_view Tokenizer::token_bytes(int32_t id) const {
  if (byte_of(id) < 0) return piece(id);
  return {reinterpret_cast<const char*>(&model_.pieces[static_cast<size_t>(id)].byte), 1};
}

int Tokenizer::byte_of(int32_t id) const {
  if (id < 0 || static_cast<size_t>(id) >= model_.pieces.size()) return -1;
  const Piece& piece = model_.pieces[static_cast<size_t>(id)];
  return piece.type == PieceType::byte ? piece.byte : -1;
}

int32_t Tokenizer::piece_to_id(std::string_view piece) const {
  if (piece.empty()) return -1;
  if (const auto match = template_matcher_.longest(piece); match.size == piece.size()) return match.value;
  const int32_t id = table_.find(piece);
  const size_t rewritable = find_rewritable(piece, 0);
  return id >= 0 || rewritable == piece.size() ? id : table_.find(rewrite(piece, rewritable));
}

}  // namespace ern
