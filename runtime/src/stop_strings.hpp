// Watches a stream of text for stop strings. What could be the beginning of one is held back, so a reader never sees part of a stop string.
// The result doesn't depend on how the text is cut into pushes: the match that ends first wins, and of those the longest.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "status.hpp"

namespace ern {

// One per sequence; not for several threads at once.
class StopMatcher {
 public:
  StopMatcher() = default;  // no stop strings: everything passes through
  // Fails with invalid_argument on a stop string that is empty, not UTF-8 or over 64 KiB, and on more than 256 of them.
  static Result<StopMatcher> create(std::span<const std::string> stops);

  // Appends to `out` the text that is now certain to lie before any stop string. Returns true when a stop string is complete: then `out`
  // ends right before it, matched() names it, and what followed it in `text` is dropped. After a match, pushes give nothing.
  bool push(std::string_view text, std::string& out);

  // No more text will come: appends what is held back (it was no stop string after all).
  void finish(std::string& out);

  bool stopped() const { return matched_ >= 0; }
  // Index into the stop strings of `create`, or -1.
  int matched() const { return matched_; }
  // Bytes held back at present.
  size_t held() const { return held_.size(); }
  bool empty() const { return stops_.empty(); }

 private:
  // A Knuth-Morris-Pratt automaton each: there are few, and the states need no shared table.
  struct Stop {
    std::string text;
    std::vector<uint32_t> fail;  // fail[i]: length of the longest proper border of text[0, i)
    uint32_t state = 0;          // bytes matched so far
  };
  std::vector<Stop> stops_;
  std::string held_;
  int matched_ = -1;
};

}  // namespace ern
