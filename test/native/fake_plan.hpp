// A model without a model, for tests of the runtime: its three kernels keep token ids in the KV blocks, read the whole
// context back through the block table, and make logits of a hash over it. A token in the wrong slot, a stale block, a
// wrong table, position or context length changes everything that follows, so a continuation that equals
// `expected_next` step by step shows that all of that was right. It has buckets, a trace and synthetic weights like a
// real one.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "device/cpu/kernel.hpp"
#include "plan.hpp"
#include "random.hpp"
#include "synthetic.hpp"

namespace fake {

using namespace ern;

#ifndef FAKE_VOCAB
#define FAKE_VOCAB 97
#endif
inline constexpr int32_t vocab = FAKE_VOCAB, stride = FAKE_VOCAB + 15;  // rows of logits are padded
inline constexpr int32_t block_size = 16;
inline constexpr uint64_t layer_offset = 64,
                          block_bytes = 64 + block_size * 8;  // the "layer" doesn't begin at the start of the block
inline constexpr int32_t max_context = 400, max_batch = 8, prefill_chunk = 32;
inline constexpr uint64_t seed = 77;

struct Entry {
  int32_t token, position;
};

// What a row knows: all tokens up to it, each at its position.
inline uint64_t extend(uint64_t digest, Entry entry) {
  return mix64(digest ^ (static_cast<uint64_t>(static_cast<uint32_t>(entry.token) + 1) << 32 |
                         static_cast<uint32_t>(entry.position)));
}
inline float logit(uint64_t digest, int32_t v, const float* weights) {
  return weights[v] + 6 * static_cast<float>(random_unit(digest, static_cast<uint64_t>(v)));
}

// Puts each row's token at its slot.
inline void store(const Step& step, void* const* args, Team& team) {
  const auto* ids = static_cast<const int32_t*>(args[0]);
  const auto* positions = static_cast<const int32_t*>(args[1]);
  const auto* slots = static_cast<const int32_t*>(args[2]);
  const auto* kinds = static_cast<const int32_t*>(args[3]);
  auto* kv = static_cast<std::byte*>(args[4]);
  const Range rows = share(step.tokens, team);
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const int32_t* p = positions + 3 * row;
    const bool good = p[0] == p[1] && p[1] == p[2] && kinds[row] == 0;
    const Entry entry{ids[row], good ? p[0] : -1};
    std::memcpy(kv + static_cast<uint64_t>(slots[row] / block_size) * block_bytes +
                    static_cast<uint64_t>(slots[row] % block_size) * sizeof entry,
                &entry, sizeof entry);
  }
}

// The digest of each row, from the cache alone.
inline void digest(const Step& step, void* const* args, Team& team) {
  const auto* query_start = static_cast<const int32_t*>(args[0]);
  const auto* context = static_cast<const int32_t*>(args[1]);
  const auto* table = static_cast<const int32_t*>(args[2]);
  const auto* kv = static_cast<const std::byte*>(args[3]);
  auto* digests = static_cast<uint64_t*>(args[4]);
  const Range rows = share(step.tokens, team);
  int s = 0;
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    while (query_start[s + 1] <= row) ++s;
    const int32_t end = context[s] - (query_start[s + 1] - 1 - static_cast<int32_t>(row));
    uint64_t value = 0;
    for (int32_t i = 0; i < end; ++i) {
      Entry entry;
      const int32_t block = table[s * step.block_stride + i / block_size];
      std::memcpy(
          &entry,
          kv + static_cast<uint64_t>(block) * block_bytes + static_cast<uint64_t>(i % block_size) * sizeof entry,
          sizeof entry);
      value = extend(value, entry);
    }
    digests[row] = value;
  }
}

// Logits and argmax of `count` rows: row r from digest rows[r], or r itself.
inline void head(int32_t count, const int32_t* rows, void* const* args, Team& team) {
  const auto* digests = static_cast<const uint64_t*>(args[0]);
  const auto* weights = static_cast<const float*>(args[1]);
  auto* logits = static_cast<float*>(args[2]);
  auto* next_ids = static_cast<int32_t*>(args[3]);
  const Range columns = share(vocab, team);
  for (int32_t r = 0; r < count; ++r) {
    for (int64_t v = columns.begin; v < columns.end; ++v)
      logits[r * stride + v] = logit(digests[rows ? rows[r] : r], static_cast<int32_t>(v), weights);
  }
  team.barrier();
  for (int32_t r; (r = team.take()) < count;)
    next_ids[r] = static_cast<int32_t>(std::max_element(logits + r * stride, logits + r * stride + vocab) -
                                       (logits + r * stride));
}
inline void head_last(const Step& step, void* const* args, Team& team) {
  head(step.sequences, static_cast<const int32_t*>(args[4]), args, team);
}
inline void head_all(const Step& step, void* const* args, Team& team) { head(step.tokens, nullptr, args, team); }

// Something of each row in each type that a trace may have.
inline void traces(const Step& step, void* const* args, Team& team) {
  const auto* digests = static_cast<const uint64_t*>(args[0]);
  if (team.rank != 0) return;
  for (int32_t row = 0; row < step.tokens; ++row) {
    static_cast<float*>(args[1])[row * 4] = static_cast<float>(digests[row] % 1000);
    static_cast<float*>(args[1])[row * 4 + 1] = 0.5f;
    static_cast<uint16_t*>(args[2])[row] = to_bf16(static_cast<float>(digests[row] % 256));
    static_cast<int32_t*>(args[3])[row] = static_cast<int32_t>(digests[row] % 1000000);
  }
}

// ---- The plan. One layout of inputs and arena serves every program: room for the largest.
inline constexpr uint64_t most_rows = 32, table_width = (max_context + block_size - 1) / block_size;
inline constexpr Inputs inputs = {0,
                                  256,
                                  1024,
                                  1280,
                                  1536,
                                  1792,
                                  2048,
                                  2048 + most_rows * table_width * 4,
                                  2048 + most_rows * table_width * 4 + most_rows * 4};
inline constexpr uint64_t at_digests = 0, at_logits = 512, at_next = at_logits + most_rows * stride * 4,
                          at_f32 = at_next + 256, at_bf16 = at_f32 + 1024, at_i32 = at_bf16 + 256, arena = at_i32 + 256;

inline constexpr Arg store_args[] = {{Space::inputs, inputs.ids},
                                     {Space::inputs, inputs.positions},
                                     {Space::inputs, inputs.slots},
                                     {Space::inputs, inputs.kinds},
                                     {Space::kv, layer_offset}};
inline constexpr Arg digest_args[] = {{Space::inputs, inputs.query_start},
                                      {Space::inputs, inputs.context},
                                      {Space::inputs, inputs.block_table},
                                      {Space::kv, layer_offset},
                                      {Space::arena, at_digests}};
inline constexpr Arg head_args[] = {{Space::arena, at_digests},
                                    {Space::weights, 256},
                                    {Space::arena, at_logits},
                                    {Space::arena, at_next},
                                    {Space::inputs, inputs.last_rows}};
inline constexpr Arg trace_args[] = {
    {Space::arena, at_digests}, {Space::arena, at_f32}, {Space::arena, at_bf16}, {Space::arena, at_i32}};

inline constexpr Launch last_launches[] = {
    {"store", store, store_args, 5}, {"digest", digest, digest_args, 5}, {"head", head_last, head_args, 5}};
inline constexpr Launch all_launches[] = {{"store", store, store_args, 5},
                                          {"digest", digest, digest_args, 5},
                                          {"head", head_all, head_args, 4},
                                          {"traces", traces, trace_args, 4}};

inline constexpr Output outputs[] = {
    {Role::logits, Dtype::f32, nullptr, at_logits, vocab, stride}, {Role::next_ids, Dtype::i32, nullptr, at_next, 1, 1},
    {Role::traced, Dtype::f32, "hidden", at_f32, 2, 4},            {Role::traced, Dtype::bf16, "narrow", at_bf16, 1, 1},
    {Role::traced, Dtype::i32, "indices", at_i32, 1, 1}};

constexpr Program program(const char* name, ProgramKind kind, int32_t tokens, int32_t sequences) {
  const bool all = kind == ProgramKind::score || kind == ProgramKind::trace;
  return {name,
          kind,
          tokens,
          sequences,
          all ? all_launches : last_launches,
          kind == ProgramKind::trace ? 4u : 3u,
          arena,
          inputs,
          outputs,
          kind == ProgramKind::trace ? 5u : 2u};
}
// In no order: the runtime sorts them.
inline constexpr Program programs[] = {
    program("prefill32", ProgramKind::prefill, 32, 8), program("prefill8", ProgramKind::prefill, 8, 8),
    program("decode8", ProgramKind::decode, 8, 8),     program("decode1", ProgramKind::decode, 1, 1),
    program("decode3", ProgramKind::decode, 3, 3),     program("score16", ProgramKind::score, 16, 1),
    program("trace1", ProgramKind::trace, 1, 1),       program("trace16", ProgramKind::trace, 16, 2)};
inline constexpr SyntheticWeight weights[] = {{0, 3, Dtype::bf16, Fill::constant, 1},
                                              {256, vocab, Dtype::f32, Fill::uniform, 1}};

constexpr Plan make_plan() {
  Plan plan = {};
  plan.abi = plan_abi;
  plan.arch = ArchLevel::x86_64_v3;
  plan.build_id = "fake-1";
  plan.info_json = R"({"model":{"layers":1},"target":"cpu"})";
  plan.vocab_size = plan.embedding_rows = vocab;
  plan.max_context = max_context;
  plan.max_batch = max_batch;
  plan.prefill_chunk = prefill_chunk;
  plan.threads = 2;
  plan.kv_block_size = block_size;
  plan.kv_block_bytes = block_bytes;
  plan.kv_tokens = 2048;
  plan.weights_bytes = 256 + vocab * 4;
  plan.synthetic_seed = seed;
  plan.synthetic = weights;
  plan.synthetic_count = 2;
  plan.programs = programs;
  plan.program_count = sizeof programs / sizeof programs[0];
  return plan;
}

// ---- What must come out, computed from the tokens alone.
inline std::vector<float> weight_values() {
  std::vector<float> values(vocab);
  Filler<float>(seed, 1, weights[1], normal_quantiles()).fill(values.data(), 0, vocab);
  return values;
}
inline uint64_t digest_of(const std::vector<int32_t>& tokens, size_t count) {
  uint64_t value = 0;
  for (size_t i = 0; i < count; ++i) value = extend(value, {tokens[i], static_cast<int32_t>(i)});
  return value;
}
inline std::vector<float> expected_logits(const std::vector<int32_t>& tokens, size_t count) {
  static const std::vector<float> values = weight_values();
  std::vector<float> row(vocab);
  const uint64_t value = digest_of(tokens, count);
  for (int32_t v = 0; v < vocab; ++v) row[static_cast<size_t>(v)] = logit(value, v, values.data());
  return row;
}
inline int32_t expected_next(const std::vector<int32_t>& tokens) {
  const std::vector<float> row = expected_logits(tokens, tokens.size());
  return static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin());
}
inline std::vector<int32_t> expected_continuation(std::vector<int32_t> tokens, size_t count) {
  const size_t prompt = tokens.size();
  while (tokens.size() < prompt + count) tokens.push_back(expected_next(tokens));
  return {tokens.begin() + static_cast<ptrdiff_t>(prompt), tokens.end()};
}

}  // namespace fake
