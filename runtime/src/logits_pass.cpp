#include "logits_pass.hpp"

#include <algorithm>
#include <cstring>

namespace ern {
namespace {

// What a chunk of logits may take when the caller leaves its size to us: enough rows for the fast kernels, little
// beside the weights.
constexpr int64_t usual_chunk_bytes = int64_t{64} << 20;

float from_bf16(uint16_t bits) {
  const uint32_t wide = uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

}  // namespace

LogitsPass::LogitsPass(const ern_logits_request& request)
    : request_(request), prompt_(static_cast<int64_t>(request.id_count)) {
  tokens_.reserve(request.id_count + static_cast<size_t>(request.greedy));
  tokens_.assign(request.ids, request.ids + request.id_count);
}

LogitsPass::Progress LogitsPass::advance(const Parts& parts) {
  bool gave_up;
  {
    const std::lock_guard lock(mutex_);
    if (ready_) return Progress::waits;
    gave_up = gave_up_;
  }
  if (gave_up) code_ = Code::cancelled, message_ = "the callback ended the pass";
  if (gave_up || (computed_ >= prompt_ && greedy_ >= request_.greedy)) return Progress::ended;
  if (blocks_.empty()) {
    const int64_t size = parts.pool.block_size();
    // False while other passes hold what it needs; sequences make way at once.
    if (!parts.scheduler.reserve(static_cast<int32_t>((prompt_ + request_.greedy + size - 1) / size), blocks_))
      return Progress::waits;
  }
  chunk_ = {};
  if (computed_ < prompt_) {
    const ProgramKind kind = request_.trace        ? ProgramKind::trace
                             : request_.chunk == 1 ? ProgramKind::decode
                                                   : ProgramKind::score;
    chunk_.start = computed_;
    run(parts, kind, tokens_.data() + computed_, rows_of_next_chunk(parts, kind));
  } else {
    chunk_.greedy = 1;
    chunk_.start = greedy_;
    if (greedy_ == 0) {
      // From the prompt's last row, which is there still.
      logits_.erase(logits_.begin(), logits_.end() - parts.vocab);
      next_ids_.assign(1, next_ids_.back());
    } else {
      tokens_.push_back(next_ids_.back());
      run(parts, ProgramKind::decode, tokens_.data() + computed_, 1);
    }
    ++greedy_;
  }
  chunk_.logits = {"logits",
                   logits_.data(),
                   nullptr,
                   next_ids_.size(),
                   static_cast<size_t>(parts.vocab),
                   static_cast<size_t>(parts.vocab)};
  chunk_.next_ids = next_ids_.data();
  const std::lock_guard lock(mutex_);
  ready_ = true;
  changed_.notify_all();
  return Progress::moved;
}

int32_t LogitsPass::rows_of_next_chunk(const Parts& parts, ProgramKind kind) const {
  if (kind == ProgramKind::decode) return 1;
  int64_t rows = std::min<int64_t>(prompt_ - computed_, parts.executor.most_rows(kind, 1));
  if (request_.chunk > 0) return static_cast<int32_t>(std::min<int64_t>(rows, request_.chunk));
  return static_cast<int32_t>(std::min(rows, std::max<int64_t>(1, usual_chunk_bytes / (int64_t{parts.vocab} * 4))));
}

// One step, and all that it gives copied out of the arena.
void LogitsPass::run(const Parts& parts, ProgramKind kind, const int32_t* tokens, int32_t rows) {
  const StepItem item{tokens, computed_, rows, blocks_};
  const StepResult result = parts.executor.run(kind, {&item, 1});
  large_ = large_ || kind != ProgramKind::decode;
  computed_ += rows;
  const auto vocab = static_cast<size_t>(parts.vocab);
  logits_.resize(static_cast<size_t>(rows) * vocab);
  next_ids_.resize(static_cast<size_t>(rows));
  const SamplingParams greedy;
  const TokenCounts counts;
  for (size_t row = 0; row < static_cast<size_t>(rows); ++row) {
    float* const logits = parts.executor.logits(static_cast<int32_t>(row));
    std::copy_n(logits, vocab, logits_.begin() + static_cast<ptrdiff_t>(row * vocab));
    next_ids_[row] = parts.sampler
                         .sample({.logits = logits,
                                  .next_id = result.next_ids ? result.next_ids[row] : -1,
                                  .allowed = parts.allowed,
                                  .suppressed = {},
                                  .params = greedy,
                                  .counts = counts,
                                  .position = 0})
                         .id;
  }
  // A row without a number has no choice; what follows it is as meaningless as it is.
  for (int32_t& id : next_ids_) id = std::max(id, 0);
  if (kind == ProgramKind::trace) copy_trace(parts.executor, result, rows);
}

void LogitsPass::copy_trace(Executor& executor, const StepResult& result, int32_t rows) {
  const std::span outputs(result.program->outputs, result.program->output_count);
  floats_.resize(outputs.size());
  ints_.resize(outputs.size());
  trace_.clear();
  for (size_t i = 0; i < outputs.size(); ++i) {
    const Output& output = outputs[i];
    if (output.role != Role::traced) continue;
    const auto count = static_cast<size_t>(rows) * output.columns;
    ern_tensor tensor = {output.name, nullptr, nullptr, static_cast<size_t>(rows), output.columns, output.columns};
    const auto gather = [&]<class Stored, class Given>(const Stored* stored, std::vector<Given>& given, auto convert) {
      given.resize(count);
      for (size_t e = 0; e < count; ++e)
        given[e] = convert(stored[e / output.columns * output.row_stride + e % output.columns]);
      return given.data();
    };
    const std::byte* const data = executor.traced(output);
    const auto same = [](auto value) { return value; };
    switch (output.dtype) {
      case Dtype::f32: tensor.f32 = gather(reinterpret_cast<const float*>(data), floats_[i], same); break;
      case Dtype::bf16: tensor.f32 = gather(reinterpret_cast<const uint16_t*>(data), floats_[i], from_bf16); break;
      case Dtype::i32: tensor.i32 = gather(reinterpret_cast<const int32_t*>(data), ints_[i], same); break;
    }
    trace_.push_back(tensor);
  }
  chunk_.trace = trace_.data();
  chunk_.trace_count = trace_.size();
}

void LogitsPass::release(const Parts& parts) {
  for (auto block = blocks_.rbegin(); block != blocks_.rend(); ++block) parts.pool.release(*block);
  blocks_.clear();
  if (large_) parts.executor.trim();
}

void LogitsPass::tell(Code code, const char* message) {
  const std::lock_guard lock(mutex_);
  if (code_ == Code::ok) code_ = code, message_ = message;
  ended_ = true;
  changed_.notify_all();
}

}  // namespace ern
