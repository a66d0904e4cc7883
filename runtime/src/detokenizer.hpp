// Ids back to text, one at a time: never half a UTF-8 character, and the pieces of text put together are exactly Tokenizer::decode.
#pragma once

#include <cstdint>
#include <string>

namespace ern {

class Tokenizer;

// One per sequence; not for several threads at once. The tokenizer must outlive it.
class Detokenizer {
 public:
  explicit Detokenizer(const Tokenizer& tokenizer, bool keep_specials = false) : tokenizer_(&tokenizer), keep_specials_(keep_specials) {}

  // Appends the text that is certain after this id. Byte pieces are held back until their character is whole; a byte that can't become part of
  // one is U+FFFD. Any id that isn't a byte piece ends a character in the making, even one that shows nothing (a special, an id without a piece).
  void push(int32_t id, std::string& out);
  std::string push(int32_t id);

  // The end of the text: what is held back becomes one U+FFFD a byte. Afterwards the object is as new.
  void finish(std::string& out);
  std::string finish();

  // Bytes held back at present, 0..3. A caller that reports ids with text uses it to say which ids the text covers.
  size_t held() const { return held_; }

 private:
  void push_byte(unsigned char byte, std::string& out);

  const Tokenizer* tokenizer_;
  bool keep_specials_;
  uint8_t held_ = 0;
  unsigned char bytes_[4] = {};  // the first held_ are the start of a character that may still become whole
};

}  // namespace ern
