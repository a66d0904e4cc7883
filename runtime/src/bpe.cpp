#include "bpe.hpp"

#include <algorithm>
#include <bit>

#include "bpe_encoder.hpp"
#include "utf8.hpp"

namespace ern {
namespace {

// Order of merging from a score: maps floats to integers so that a higher score is a lower number.
uint32_t rank_of(float score) {
  const auto bits = std::bit_cast<uint32_t>(score == 0.0f ? 0.0f : score);  // -0 is 0
  const uint32_t ascending = bits ^ ((bits >> 31) != 0 ? 0xFFFFFFFFu : 0x80000000u);
  return ~ascending;
}

}  // namespace

void Bpe::build(const SentencePieceModel& model, const PieceTable& table, const std::vector<bool>& excluded) {
  model_ = &model;
  table_ = &table;
  rank_.assign(model.pieces.size(), never);
  other_joins_.assign(std::bit_ceil(std::max<size_t>(model.text.size() / 16, 16)), 0);
  other_shift_ = 32 - (std::countr_zero(other_joins_.size()) + 6);
  for (size_t id = 0; id < model.pieces.size(); id++) {
    const Piece& piece = model.pieces[id];
    const bool from_text = piece.type == PieceType::normal || piece.type == PieceType::unused || piece.type == PieceType::user_defined;
    if (!from_text || excluded[id]) continue;
    rank_[id] = rank_of(piece.score);
    const std::string_view text = model.spelling(id);
    if (piece.type == PieceType::user_defined) user_defined_.add(text, static_cast<int32_t>(id));
    uint32_t left = 0;
    for (size_t i = 0; i < text.size();) {
      const uint32_t length = utf8::length_from_lead(static_cast<unsigned char>(text[i]));
      const uint32_t point = utf8::code_point(text.data() + i, length);
      if (i != 0) allow_join(left, point);
      left = point;
      i += length;
    }
  }
}

uint32_t Bpe::hashed_bit(uint32_t left, uint32_t right) const {
  return (left * 0x9E3779B1u ^ (right * 0x85EBCA77u + (left >> 3))) * 0xC2B2AE3Du >> other_shift_;
}

void Bpe::allow_join(uint32_t left, uint32_t right) {
  if ((left | right) < 128) {
    ascii_joins_[left][right / 64] |= uint64_t{1} << (right % 64);
  } else {
    const uint32_t bit = hashed_bit(left, right);
    other_joins_[bit / 64] |= uint64_t{1} << (bit % 64);
  }
}

bool Bpe::may_join(uint32_t left, uint32_t right) const {
  if ((left | right) < 128) return (ascii_joins_[left][right / 64] >> (right % 64) & 1) != 0;
  const uint32_t bit = hashed_bit(left, right);
  return (other_joins_[bit / 64] >> (bit % 64) & 1) != 0;
}

void Bpe::encode(std::string_view text, std::vector<int32_t>& out) const { Encoder(*this, text, out).run(); }

}  // namespace ern
