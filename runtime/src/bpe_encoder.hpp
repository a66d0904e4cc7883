// One call of Bpe::encode: cuts the text into runs and merges each. Included by bpe.cpp alone; what a run is, and why, stands in bpe.hpp.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <functional>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "bpe.hpp"
#include "utf8.hpp"

namespace ern {

// The lowest number first.
class MinHeap {
 public:
  bool empty() const { return items_.empty(); }
  void clear() { items_.clear(); }
  // Any number of these, then order().
  void append(uint64_t item) { items_.push_back(item); }
  void order() { std::make_heap(items_.begin(), items_.end(), std::greater<>()); }
  void push(uint64_t item) {
    items_.push_back(item);
    std::push_heap(items_.begin(), items_.end(), std::greater<>());
  }
  uint64_t pop() {
    std::pop_heap(items_.begin(), items_.end(), std::greater<>());
    const uint64_t top = items_.back();
    items_.pop_back();
    return top;
  }

 private:
  std::vector<uint64_t> items_;
};

// The state of one call of encode.
class Bpe::Encoder {
 public:
  Encoder(const Bpe& bpe, std::string_view text, std::vector<int32_t>& out) : bpe_(bpe), model_(*bpe.model_), text_(text), out_(out) {
    if (text.size() >= 256) seen_.resize(std::min<size_t>(std::bit_ceil(text.size() / 16), 8192));
  }

  void run() {
    // Unused pieces are taken apart the way they were last put together anywhere in the text, so then the whole text is one run.
    if (model_.has_unused) return run_whole();
    const bool user_defined = !bpe_.user_defined_.empty();
    uint32_t left = 0;
    for (size_t i = 0; i < text_.size();) {
      if (user_defined) {
        if (const auto match = bpe_.user_defined_.longest(text_.substr(i)); match.size != 0) {
          flush(i);
          out_.push_back(match.value);
          i += match.size;
          begin_ = i;
          continue;
        }
      }
      const uint32_t length = utf8::length_from_lead(static_cast<unsigned char>(text_[i]));
      const uint32_t point = utf8::code_point(text_.data() + i, length);
      if (i != begin_ && (!bpe_.may_join(left, point) || i - begin_ >= longest_run)) flush(i);
      left = point;
      i += length;
    }
    flush(text_.size());
  }

 private:
  // Up to this many symbols a run is merged by scanning: below it a scan of a few cache lines beats a heap.
  static constexpr size_t short_run = 40;
  // Longer runs are cut here (in bytes), so that positions fit 32 bits.
  static constexpr size_t longest_run = 1u << 30;
  // SentencePiece takes unused pieces apart to this depth, then leaves them.
  static constexpr int resegment_depth = 100;
  static constexpr uint32_t none = 0xFFFFFFFF;
  static constexpr int32_t unlooked = -2;  // a single character whose id nobody has asked for yet

  // A stretch of the text that is one piece, or one character. Linked in order; a merged-away symbol has size 0.
  struct Symbol {
    uint32_t at = 0;            // bytes from the run's start
    uint32_t previous = none, next = none;
    uint32_t rank = never;      // of the merge with the next symbol
    int32_t merged = -1;        // what that merge gives
    int32_t id = unlooked;
    uint16_t size = 0;          // bytes: no piece has more than 7999
    bool frozen = false;        // a user-defined piece: doesn't merge
  };
  struct Seen {
    uint64_t hash = 0;
    size_t at = 0, first = 0;   // of the text, of out_
    uint32_t size = 0, count = 0;
  };

  // Ends the run that began at begin_.
  void flush(size_t end) {
    const size_t size = end - begin_;
    if (size == 0) return;
    const std::string_view run = text_.substr(begin_, size);
    // A run that is one piece as a whole isn't necessarily merged into it (the order of merges may go another way), so it isn't just looked up:
    // only what was merged before is reused.
    Seen* seen = nullptr;
    if (!seen_.empty() && size > 1 && size <= 64) {
      const uint64_t hash = hash_bytes(run.data(), size);
      seen = &seen_[hash & (seen_.size() - 1)];
      if (seen->hash == hash && seen->size == size && text_.compare(seen->at, size, run) == 0) {
        const size_t old = out_.size();
        out_.resize(old + seen->count);
        std::copy_n(out_.begin() + static_cast<ptrdiff_t>(seen->first), seen->count, out_.begin() + static_cast<ptrdiff_t>(old));
        begin_ = end;
        return;
      }
      *seen = {hash, begin_, out_.size(), static_cast<uint32_t>(size), 0};
    }
    split(run);
    const size_t old = out_.size();
    if (symbols_.size() <= short_run) {
      merge_short();
    } else {
      merge_long();
    }
    if (seen != nullptr) seen->count = static_cast<uint32_t>(out_.size() - old);
    begin_ = end;
  }

  // Fills symbols_ with the characters of the run.
  void split(std::string_view run) {
    run_ = run.data();
    symbols_.clear();
    for (size_t i = 0; i < run.size();) {
      Symbol symbol;
      symbol.at = static_cast<uint32_t>(i);
      symbol.size = static_cast<uint16_t>(utf8::length_from_lead(static_cast<unsigned char>(run[i])));
      i += symbol.size;
      symbols_.push_back(symbol);
    }
  }

  // Sets what merging `left` with `right` would be.
  void consider(Symbol& left, const Symbol& right) {
    left.rank = never;
    if (left.frozen || right.frozen) return;
    const int32_t id = bpe_.table_->find({run_ + left.at, static_cast<size_t>(left.size) + right.size});
    if (id < 0) return;
    left.rank = bpe_.rank_[static_cast<size_t>(id)];
    left.merged = id;
    if (left.rank != never && model_.pieces[static_cast<size_t>(id)].type == PieceType::unused) cuts_[id] = left.size;
  }

  // Symbols side by side in an array; the best pair is found by looking at all.
  void merge_short() {
    size_t count = symbols_.size();
    for (size_t i = 0; i + 1 < count; i++) consider(symbols_[i], symbols_[i + 1]);
    while (count > 1) {
      size_t best = 0;
      for (size_t i = 1; i + 1 < count; i++) {
        if (symbols_[i].rank < symbols_[best].rank) best = i;
      }
      Symbol& left = symbols_[best];
      if (left.rank == never) break;
      left.size = static_cast<uint16_t>(left.size + symbols_[best + 1].size);
      left.id = left.merged;
      std::copy(symbols_.begin() + static_cast<ptrdiff_t>(best) + 2, symbols_.begin() + static_cast<ptrdiff_t>(count),
                symbols_.begin() + static_cast<ptrdiff_t>(best) + 1);
      count--;
      left.rank = never;
      if (best + 1 < count) consider(left, symbols_[best + 1]);
      if (best > 0) consider(symbols_[best - 1], left);
    }
    for (size_t i = 0; i < count; i++) emit(symbols_[i]);
  }

  // Linked symbols and a heap of (rank, position of the left symbol), both in one integer so that ties go left.
  // An entry is stale when its symbol is gone or its merge is by now another one.
  void merge_long() {
    const auto count = static_cast<uint32_t>(symbols_.size());
    heap_.clear();
    for (uint32_t i = 0; i < count; i++) {
      symbols_[i].previous = i == 0 ? none : i - 1;
      symbols_[i].next = i + 1 == count ? none : i + 1;
      if (i + 1 == count) break;
      consider(symbols_[i], symbols_[i + 1]);
      if (symbols_[i].rank != never) heap_.append(static_cast<uint64_t>(symbols_[i].rank) << 32 | i);
    }
    heap_.order();
    while (!heap_.empty()) {
      const uint64_t top = heap_.pop();
      const auto at = static_cast<uint32_t>(top);
      Symbol& left = symbols_[at];
      if (left.size == 0 || left.rank != top >> 32) continue;
      Symbol& right = symbols_[left.next];
      left.size = static_cast<uint16_t>(left.size + right.size);
      left.id = left.merged;
      left.next = right.next;
      left.rank = never;
      right.size = 0;
      if (left.next != none) symbols_[left.next].previous = at;
      if (left.previous != none) reconsider(left.previous);
      if (left.next != none) reconsider(at);
    }
    for (uint32_t i = 0; i != none; i = symbols_[i].next) emit(symbols_[i]);
  }

  void reconsider(uint32_t at) {
    Symbol& left = symbols_[at];
    consider(left, symbols_[left.next]);
    if (left.rank != never) heap_.push(static_cast<uint64_t>(left.rank) << 32 | at);
  }

  // The whole text as one run, user-defined pieces in it as frozen symbols. Only for models with unused pieces.
  void run_whole() {
    for (begin_ = 0; begin_ < text_.size();) {
      run_ = text_.data() + begin_;
      symbols_.clear();
      for (size_t i = 0; begin_ < text_.size() && i < longest_run;) {
        Symbol symbol;
        symbol.at = static_cast<uint32_t>(i);
        if (const auto match = bpe_.user_defined_.longest(text_.substr(begin_)); match.size != 0) {
          symbol.size = static_cast<uint16_t>(match.size);
          symbol.id = match.value;
          symbol.frozen = true;
        } else {
          symbol.size = static_cast<uint16_t>(utf8::length_from_lead(static_cast<unsigned char>(text_[begin_])));
        }
        i += symbol.size;
        begin_ += symbol.size;
        symbols_.push_back(symbol);
      }
      merge_long();
    }
  }

  void emit(const Symbol& symbol) {
    const std::string_view text(run_ + symbol.at, symbol.size);
    int32_t id = symbol.id == unlooked ? bpe_.table_->find(text) : symbol.id;
    if (id >= 0 && bpe_.rank_[static_cast<size_t>(id)] == never) id = -1;
    if (id >= 0 && model_.pieces[static_cast<size_t>(id)].type == PieceType::unused) return take_apart(text, id, 0);
    emit(text, id);
  }

  void emit(std::string_view text, int32_t id) {
    if (id >= 0) {
      out_.push_back(id);
      return;
    }
    for (const char c : text) {
      if (c != ' ') {
        emit_byte(c);
        continue;
      }
      // A vocabulary without a piece for a space has SentencePiece spell its stand-in.
      for (const char part : std::string_view("\xE2\x96\x81")) emit_byte(part);
    }
  }

  void emit_byte(char c) { out_.push_back(model_.byte_ids[static_cast<unsigned char>(c)]); }

  // An unused piece only helps others to come about; what is left of it at the end goes back to its two halves.
  // (As SentencePiece 0.2.3 does it; one that was never put together, a single character, becomes bytes.)
  void take_apart(std::string_view text, int32_t id, int depth) {
    if (depth > resegment_depth) return emit(text, id);
    if (id < 0 || bpe_.rank_[static_cast<size_t>(id)] == never) return emit(text, -1);
    if (model_.pieces[static_cast<size_t>(id)].type != PieceType::unused) return emit(text, id);
    const auto cut = cuts_.find(id);
    if (cut == cuts_.end()) return emit(text, -1);
    const std::string_view left = text.substr(0, cut->second), right = text.substr(cut->second);
    take_apart(left, bpe_.table_->find(left), depth + 1);
    take_apart(right, bpe_.table_->find(right), depth + 1);
  }

  const Bpe& bpe_;
  const SentencePieceModel& model_;
  const std::string_view text_;
  std::vector<int32_t>& out_;
  size_t begin_ = 0;                                // of the current run, in text_
  const char* run_ = nullptr;                       // what Symbol::at counts from
  std::vector<Symbol> symbols_;
  MinHeap heap_;
  std::vector<Seen> seen_;                          // direct-mapped; empty for short texts
  std::unordered_map<int32_t, uint32_t> cuts_;      // unused piece -> bytes of its left half when it was last put together
};

}  // namespace ern
