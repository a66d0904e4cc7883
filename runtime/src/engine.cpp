#include "engine.hpp"

#include <algorithm>
#include <limits>
#include <new>
#include <system_error>

#include "device_failure.hpp"
#include "plan_check.hpp"

namespace ern {
namespace {

// 0 and what is more than the plan allows become the plan's.
int32_t limited(int32_t chosen, int32_t plan) { return chosen > 0 ? std::min(chosen, plan) : plan; }

}  // namespace

Result<std::unique_ptr<Engine>> Engine::create(const std::string& folder, const Plan& plan,
                                               const EngineOptions& options) {
  try {
    const int64_t begin = now_ns();
    if (Status status = check_plan(plan); !status.ok()) return status;
    auto backend = Backend::open(plan);
    if (!backend.ok()) return backend.status();
    std::unique_ptr<Engine> engine(new Engine(plan, options));
    engine->backend_ = std::move(backend.value());
    if (Status status = engine->load(folder); !status.ok()) return status;
    engine->counters_.load_ns = static_cast<uint64_t>(now_ns() - begin);
    const BlockSignals block;
    engine->thread_ = std::thread([e = engine.get()] { e->run(); });
    return engine;
  } catch (const std::bad_alloc&) {
    return Status{Code::out_of_memory, "no memory for the engine"};
  } catch (const std::system_error& error) {
    return Status{Code::out_of_memory, std::string("can't start a thread: ") + error.what()};
  }
}

Status Engine::load(const std::string& folder) {
  EngineOptions& o = options_;
  const int usual = plan_.threads > 0 ? plan_.threads : backend_->usual_threads(available_cores());
  o.threads = std::min(o.threads > 0 ? o.threads : usual, max_team);
  o.max_batch = limited(o.max_batch, plan_.max_batch);
  o.prefill_chunk = limited(o.prefill_chunk, plan_.prefill_chunk);
  if (o.kv_tokens <= 0) o.kv_tokens = plan_.kv_tokens;
  const int64_t size = plan_.kv_block_size;
  // Slots are int32.
  if (o.kv_tokens > std::numeric_limits<int32_t>::max() - size) {
    return {Code::invalid_argument, "kv_tokens is " + std::to_string(o.kv_tokens) + ", expected less than 2^31"};
  }
  const auto blocks = static_cast<int32_t>((o.kv_tokens + size - 1) / size);
  o.kv_tokens = blocks * size;

  auto package = Package::open(folder, plan_);
  if (!package.ok()) return package.status();
  if (Status room = backend_->check_room(blocks); !room.ok()) return room;
  auto threads = ThreadPool::create(o.threads);
  if (!threads.ok()) return threads.status();
  threads_ = std::move(threads.value());

  Result<TextParts> text = Status{Code::out_of_memory, "no memory for the tokenizer"};
  std::jthread reader;  // joined whatever happens below
  {
    const BlockSignals block;
    reader = std::jthread([&] {
      try {
        text = package.value().load_text(plan_);
      } catch (const std::bad_alloc&) {
      }
    });
  }
  Status weights{Code::out_of_memory, "no memory for the weights"};
  try {
    weights = backend_->load_weights(package.value(), o.weights, o.verify, *threads_);
  } catch (const std::bad_alloc&) {
  }
  reader.join();
  if (!weights.ok()) return weights;
  if (!text.ok()) return text.status();
  text_ = std::move(text.value());

  auto pool = backend_->make_pool(blocks);
  if (!pool.ok()) return pool.status();
  pool_.emplace(std::move(pool.value()));
  auto executor = backend_->make_executor(*threads_);
  if (!executor.ok()) return executor.status();
  executor_ = std::move(executor.value());
  if (Status status = executor_->allow(allowed()); !status.ok()) return status;
  const SchedulerLimits limits{o.max_batch, o.prefill_chunk, executor_->most_rows(ProgramKind::prefill, o.max_batch)};
  scheduler_.emplace(*pool_, limits);
  generation_.emplace(
      Generation::Parts{*executor_, *pool_, *scheduler_, *threads_, counters_, queued_, plan_.vocab_size, allowed()});
  generation_->publish_counters();
  return {};
}

bool Engine::on_own_thread() const { return std::this_thread::get_id() == thread_.get_id(); }

Engine::~Engine() {
  if (thread_.joinable()) {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      changed_.notify_all();
    }
    thread_.join();
  }
  // Whoever waited in logits() was told; it must be out before the memory goes.
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return callers_ == 0; });
}

// Every id that has a piece; all, for a package without a tokenizer.
std::span<const uint32_t> Engine::allowed() const {
  return text_.tokenizer ? text_.tokenizer->piece_mask() : std::span<const uint32_t>();
}

int64_t Engine::most_tokens() const { return std::min<int64_t>(plan_.max_context, options_.kv_tokens); }

Status Engine::submit(std::unique_ptr<Sequence> sequence, uint64_t* number) {
  const std::lock_guard lock(mutex_);
  if (stopping_) return {Code::cancelled, "the engine is going"};
  if (!lost_.ok()) return lost_;
  if (queued_.load(std::memory_order_relaxed) >= options_.max_queue) {
    return {Code::busy, std::to_string(options_.max_queue) + " requests wait already; try again when some are done"};
  }
  sequence->number = last_number_ + 1;
  sequence->submitted_at = now_ns();
  inbox_.push_back(Message(Message::Kind::sequence));
  inbox_.back().sequence = std::move(sequence);
  queued_.fetch_add(1, std::memory_order_relaxed);
  *number = ++last_number_;
  changed_.notify_all();
  return {};
}

void Engine::send(Message message) {
  const std::lock_guard lock(mutex_);
  if (stopping_) return;  // everything ends anyway
  inbox_.push_back(std::move(message));
  changed_.notify_all();
}

void Engine::cancel(uint64_t number) { send(Message(Message::Kind::cancel, number)); }
void Engine::ack(uint64_t number, int64_t tokens) { send(Message(Message::Kind::ack, number, tokens)); }

Status Engine::logits(const ern_logits_request& request) {
  LogitsPass pass(request);
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return {Code::cancelled, "the engine is going"};
    if (!lost_.ok()) return lost_;
    inbox_.push_back(Message(Message::Kind::pass));
    inbox_.back().pass = &pass;
    ++callers_;
    changed_.notify_all();
  }
  // A flag, not a message: here nothing may fail, since the engine's thread holds on to the pass.
  Status status = pass.deliver([this] {
    const std::lock_guard lock(mutex_);
    nudged_ = true;
    changed_.notify_all();
  });
  const std::lock_guard lock(mutex_);
  --callers_;
  changed_.notify_all();
  return status;
}

Status Engine::profile(ProfileCall& call) {
  if (Status status = check_profile(call); !status.ok()) return status;
  std::unique_lock lock(mutex_);
  if (stopping_) return {Code::cancelled, "the engine is going"};
  if (!lost_.ok()) return lost_;
  inbox_.push_back(Message(Message::Kind::profile));
  inbox_.back().profile = &call;
  ++callers_;
  changed_.notify_all();
  changed_.wait(lock, [&call] { return call.ended; });
  --callers_;
  changed_.notify_all();
  return call.status;
}

Status Engine::check_profile(const ProfileCall& call) const {
  const auto refuse = [](const char* what, int64_t found, int64_t most) -> Status {
    return {Code::invalid_argument, std::string(what) + " is " + std::to_string(found) + ", expected 1 to " + std::to_string(most)};
  };
  if (call.batch < 1 || call.batch > options_.max_batch) return refuse("batch", call.batch, options_.max_batch);
  const int32_t rows = call.rows == 1 ? 1 : executor_->most_rows(ProgramKind::prefill, call.batch) / call.batch;
  if (call.rows < 1 || call.rows > rows) return refuse("rows", call.rows, rows);
  if (call.context < call.rows || call.context > most_tokens()) return refuse("context", call.context, most_tokens());
  return {};
}

// Over blocks of its own, which nobody finds afterwards.
void Engine::run_profiles() {
  while (!profiles_.empty()) {
    generation_->settle();
    ProfileCall& call = *profiles_.front();
    const int64_t size = pool_->block_size(), each = (call.context + size - 1) / size;
    std::vector<int32_t> blocks;
    if (each * call.batch > pool_->blocks() || !scheduler_->reserve(static_cast<int32_t>(each * call.batch), blocks)) {
      end_profile({Code::out_of_memory, "the cache has no room for " + std::to_string(call.batch) + " sequences of " +
                                            std::to_string(call.context) + " tokens"});
      continue;
    }
    try {
      std::vector<int32_t> tokens(static_cast<size_t>(call.rows));
      for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i % static_cast<size_t>(plan_.vocab_size));
      std::vector<StepItem> items;
      for (int32_t s = 0; s < call.batch; ++s)
        items.push_back({tokens.data(), call.context - call.rows, call.rows,
                         std::span(blocks).subspan(static_cast<size_t>(s * each), static_cast<size_t>(each))});
      call.times = executor_->profile(call.rows == 1 ? ProgramKind::decode : ProgramKind::prefill, items);
    } catch (...) {
      for (const int32_t block : blocks) pool_->release(block);
      throw;
    }
    for (const int32_t block : blocks) pool_->release(block);
    end_profile({});
  }
}

void Engine::end_profile(Status status) {
  const std::lock_guard lock(mutex_);
  profiles_.front()->status = std::move(status);
  profiles_.front()->ended = true;
  profiles_.erase(profiles_.begin());
  changed_.notify_all();
}

void Engine::end_profiles(Code code, const char* message) {
  while (!profiles_.empty()) end_profile({code, message});
}

// The engine's thread. Memory may run out anywhere below: then what is under way ends with that, and the engine goes
// on.
void Engine::run() {
  pthread_setname_np(pthread_self(), "ern-engine");
  std::vector<Message> messages;
  bool moved = false;
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      if (!moved) changed_.wait(lock, [this] { return stopping_ || nudged_ || !inbox_.empty(); });
      if (stopping_) break;
      nudged_ = false;
      messages.swap(inbox_);
    }
    for (Message& message : messages) handle(message);
    messages.clear();
    try {
      run_profiles();
      if (!passes_.empty()) generation_->settle();
      moved = advance_passes();
      moved = generation_->step(passes_.empty()) || moved;
    } catch (const std::bad_alloc&) {
      generation_->abandon(false);
      end_profiles(Code::out_of_memory, "memory ran out");
      end_passes(Code::out_of_memory, "memory ran out");
      generation_->end_all(ERN_FINISH_ERROR, "memory ran out");
      moved = false;
    } catch (const DeviceFailure& failure) {
      generation_->abandon(true);
      lose(failure.status());
      moved = false;
    }
    generation_->publish_counters();
  }
  // Nobody sends any more. What came last was never begun.
  for (Message& message : inbox_) handle(message);
  end_profiles(Code::cancelled, "the engine was destroyed");
  end_passes(Code::cancelled, "the engine was destroyed");
  generation_->end_all(ERN_FINISH_CANCELLED, "");
}

// Everybody hears why, those who come later too.
void Engine::lose(const Status& status) {
  std::vector<Message> messages;
  {
    const std::lock_guard lock(mutex_);
    lost_ = status;
    messages.swap(inbox_);
  }
  for (Message& message : messages) handle(message);
  end_profiles(status.code(), lost_.message().c_str());
  end_passes(status.code(), lost_.message().c_str());
  generation_->end_all(ERN_FINISH_ERROR, lost_.message().c_str());
}

void Engine::handle(Message& message) {
  switch (message.kind) {
    case Message::Kind::sequence: generation_->add(std::move(message.sequence)); break;
    case Message::Kind::pass:
      try {
        passes_.push_back(message.pass);
      } catch (const std::bad_alloc&) {
        end_pass(*message.pass, Code::out_of_memory, "memory ran out");
      }
      break;
    case Message::Kind::profile:
      try {
        profiles_.push_back(message.profile);
      } catch (const std::bad_alloc&) {
        const std::lock_guard lock(mutex_);
        message.profile->status = {Code::out_of_memory, "memory ran out"};
        message.profile->ended = true;
        changed_.notify_all();
      }
      break;
    case Message::Kind::cancel: generation_->cancel(message.number); break;
    case Message::Kind::ack: generation_->ack(message.number, message.tokens); break;
  }
}

LogitsPass::Parts Engine::pass_parts() {
  return {*executor_, *pool_, *scheduler_, generation_->sampler(), plan_.vocab_size, allowed()};
}

// One chunk of each pass whose caller has taken the last one.
bool Engine::advance_passes() {
  bool moved = false;
  for (size_t i = 0; i < passes_.size();) {
    LogitsPass& pass = *passes_[i];
    const auto progress = pass.advance(pass_parts());
    moved = moved || progress != LogitsPass::Progress::waits;
    if (progress != LogitsPass::Progress::ended) {
      ++i;
      continue;
    }
    passes_.erase(passes_.begin() + static_cast<ptrdiff_t>(i));
    end_pass(pass, Code::ok, "");
  }
  return moved;
}

void Engine::end_pass(LogitsPass& pass, Code code, const char* message) {
  pass.release(pass_parts());
  generation_->publish_counters();  // whoever hears of the end finds the blocks given back
  pass.tell(code, message);
}

void Engine::end_passes(Code code, const char* message) {
  for (LogitsPass* pass : passes_) end_pass(*pass, code, message);
  passes_.clear();
}

}  // namespace ern
