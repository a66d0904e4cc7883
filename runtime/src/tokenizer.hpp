// Text to ids and back, for SentencePiece BPE vocabularies with byte fallback, the kind that every ERNIE 4.5 release has.
// Here: the public face, which the engine, the addon and the tests use. Elsewhere: reading the protobuf (sentencepiece.hpp), the merges
// (bpe.hpp), text.json (text_config.hpp), ids back to text one at a time (detokenizer.hpp), stop strings (stop_strings.hpp).
//
// ## text.json, format 1
// Written by the compiler beside tokenizer.model; what the model file doesn't say and the runtime needs. UTF-8 JSON, one object:
//
//   "format"      1, required
//   "vocab_size"  rows of the embedding and of the logits, required; at least the pieces of tokenizer.model, and more than every id below
//   "added"       [{ "id": 100295, "content": "<|IMAGE_PLACEHOLDER|>", "special": true }, ...]: the tokens of added_tokens.json or of
//                 tokenizer_config.json's added_tokens_decoder. `special` is true when left out. An id inside tokenizer.model must name
//                 the piece with this very content. A user-defined piece of the model (the digits) with "special": false stays what it is.
//   "specials"    [0, 2, "<|begin_of_sentence|>", ...]: pieces of tokenizer.model, by id or by content, that are special although the file
//                 calls them normal (as the 0.3B's file does). Control pieces and <unk> are special whether they are listed or not.
//   "stop_ids"    [2, 100272]: ids that end a generation
//   "generation"  { "do_sample": true, "temperature": 0.8, "top_p": 0.8, "top_k": 0, "min_p": 0, "repetition_penalty": 1,
//                   "frequency_penalty": 0, "presence_penalty": 0 }: sampling defaults; every key may be left out
//   other keys    are not ours and are skipped (the JavaScript side keeps its chat template there)
//
// ## Template tokens and specials
// A *template token* is one that text becomes only inside a template segment: every added token, every special. User text never becomes one:
// they are matched by the splitter in template text alone, and BPE doesn't know them, not even where the model file lists them as normal.
// A *special* is a template token that decode() leaves out unless asked; a token added with "special": false (say `<think>`) is decoded always.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bpe.hpp"
#include "piece_table.hpp"
#include "prefix_matcher.hpp"
#include "sentencepiece.hpp"
#include "status.hpp"
#include "text_config.hpp"

namespace ern {

// Who wrote a stretch of a prompt, which decides one thing only: whether template tokens may be recognised in it.
enum class Origin : uint8_t { user = 0, template_ = 1 };

struct Segment {
  std::string_view text;
  Origin origin = Origin::user;
};

// Immutable after load: any number of threads may use one.
class Tokenizer {
 public:
  // `model` is the whole of tokenizer.model, `text_json` the whole of text.json; both are copied as far as they are needed.
  // Fails with `corrupt` (not what it should be), or `unsupported` (well-formed, but not a kind that we encode exactly).
  static Result<std::unique_ptr<Tokenizer>> load(std::span<const std::byte> model, std::string_view text_json);

  // The ids of a prompt. Template tokens match inside template segments, longest first; they don't reach across a user segment, not even an
  // empty one, but adjacent template segments count as one text. What lies between template tokens is joined across segments and encoded as
  // one string, as if it had been rendered first: "User: " + "The" gives other ids than the two apart.
  // Adds no begin or end token. A byte that isn't part of valid UTF-8 becomes U+FFFD, one for each such byte, as SentencePiece does.
  std::vector<int32_t> encode(std::span<const Segment> segments) const;
  // One user segment.
  std::vector<int32_t> encode(std::string_view user_text) const;

  // Ids to UTF-8; always valid UTF-8: each byte of a broken sequence of byte pieces becomes U+FFFD. Ids without a piece give nothing.
  std::string decode(std::span<const int32_t> ids, bool keep_specials = false) const;

  // How the id reads: the piece with its spaces as spaces (the file has U+2581), <0x0A> for a byte piece, the content of an added token;
  // empty if the id has no piece.
  std::string_view piece(int32_t id) const;
  // The bytes that the id adds to a text: piece(), but the one raw byte for a byte piece. What a grammar matches against.
  std::string_view token_bytes(int32_t id) const;
  // -1 if there is none. Added tokens first, then pieces of every kind; U+2581 may stand for a space.
  int32_t piece_to_id(std::string_view piece) const;

  // Rows of the logits. Ids run from 0 to here, and not each has a piece.
  int32_t vocab_size() const { return vocab_size_; }
  bool has_piece(int32_t id) const { return test(has_piece_, id); }
  bool is_special(int32_t id) const { return test(special_, id); }
  // True for ids that user text cannot become and template text can.
  bool is_template_token(int32_t id) const { return test(template_, id); }
  // The byte that a byte piece stands for, or -1.
  int byte_of(int32_t id) const;
  bool is_stop(int32_t id) const { return test(stop_, id); }

  // ceil(vocab_size / 32) words, bit id % 32 of word id / 32 set where the id has a piece: the sampler's base mask.
  std::span<const uint32_t> piece_mask() const { return has_piece_; }
  std::span<const int32_t> stop_ids() const { return stop_ids_; }
  // Every template token, in order of id: what a test walks, and what the bindings list.
  std::span<const int32_t> template_tokens() const { return template_tokens_; }
  const GenerationDefaults& generation() const { return generation_; }

 private:
  Tokenizer() = default;
  Tokenizer(const Tokenizer&) = delete;  // bpe_ points at its neighbours
  Tokenizer& operator=(const Tokenizer&) = delete;

  Status apply(const TextConfig& config);
  Status add_template_token(int32_t id, std::string_view content, bool special);
  const AddedToken* outside(int32_t id) const;
  void encode_text(std::string_view text, std::vector<int32_t>& out) const;
  bool test(const std::vector<uint32_t>& mask, int32_t id) const {
    return id >= 0 && id < vocab_size_ && ((mask[static_cast<uint32_t>(id) / 32] >> (id % 32)) & 1) != 0;
  }

  SentencePieceModel model_;
  PieceTable table_;
  Bpe bpe_;
  PrefixMatcher template_matcher_;         // value = id
  std::vector<int32_t> template_tokens_;
  std::vector<AddedToken> outside_;        // the added tokens that tokenizer.model doesn't hold, in order of id
  size_t template_bytes_ = 0;              // of all template tokens
  int32_t vocab_size_ = 0;
  std::vector<int32_t> stop_ids_;
  GenerationDefaults generation_;
  std::vector<uint32_t> has_piece_, special_, template_, stop_;  // bit masks over vocab_size_
};

}  // namespace ern
