// The text of one generation as it grows: ids to characters, and up to the first stop string. Both parts hold back what
// isn't certain yet.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "detokenizer.hpp"
#include "stop_strings.hpp"
#include "tokenizer.hpp"

namespace ern {

class TextStream {
 public:
  TextStream() = default;  // without a tokenizer: no text
  TextStream(const Tokenizer* tokenizer, bool keep_specials, StopMatcher stops) : stops_(std::move(stops)) {
    if (tokenizer) detokenizer_.emplace(*tokenizer, keep_specials);
  }

  // Appends the text that is certain now. True when a stop string is complete.
  bool push(int32_t id, std::string& out) {
    if (!detokenizer_) return false;
    piece_.clear();
    detokenizer_->push(id, piece_);
    return stops_.push(piece_, out);
  }

  // Appends what was held back. No more ids will come.
  void finish(std::string& out) {
    if (!detokenizer_ || stops_.stopped()) return;
    piece_.clear();
    detokenizer_->finish(piece_);
    if (!stops_.push(piece_, out)) stops_.finish(out);
  }

 private:
  std::optional<Detokenizer> detokenizer_;
  StopMatcher stops_;
  std::string piece_;
};

}  // namespace ern
