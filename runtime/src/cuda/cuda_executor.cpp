#include "cuda_executor.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "../device_failure.hpp"
#include "../step_inputs.hpp"

namespace ern::cuda {
namespace {

// The step lies before the inputs, so that both go up in one copy.
constexpr uint64_t step_bytes = 256;
struct DeviceStep {  // Step in device/cuda/kernel.cuh
  int32_t tokens, sequences, block_stride, reserved;
};

bool is_usual(ProgramKind kind) { return kind == ProgramKind::prefill || kind == ProgramKind::decode; }

unsigned blocks_of(const GridCount& count, const Step& sizes) {
  const int64_t rows = count.of == RowsOf::tokens ? sizes.tokens : sizes.sequences;
  if (count.of == RowsOf::none) return count.constant;
  return static_cast<unsigned>(count.constant * ((rows * count.times + count.per - 1) / count.per));
}

struct Sizes {
  uint64_t usual = 0, large = 0, inputs = 0;
  int32_t rows = 0;
};
Sizes sizes_of(const Plan& plan) {
  Sizes sizes;
  for (const Program& program : std::span(plan.programs, plan.program_count)) {
    uint64_t& arena = is_usual(program.kind) ? sizes.usual : sizes.large;
    arena = std::max(arena, program.arena_bytes);
    sizes.inputs = std::max(sizes.inputs, program.inputs.bytes);
    sizes.rows = std::max(sizes.rows, program.max_tokens);
  }
  return sizes;
}

const Output* find_output(const Program& program, Role role) {
  const std::span outputs(program.outputs, program.output_count);
  const auto found = std::ranges::find_if(outputs, [role](const Output& output) { return output.role == role; });
  return found == outputs.end() ? nullptr : &*found;
}

}  // namespace

uint64_t CudaExecutor::device_bytes(const Plan& plan) {
  const Sizes sizes = sizes_of(plan);
  return sizes.usual + step_bytes + sizes.inputs;
}

Result<std::unique_ptr<Executor>> CudaExecutor::create(const Plan& plan, const Gpu& gpu, const Kernels& kernels,
                                                       Pointer weights, Pointer kv) {
  std::unique_ptr<CudaExecutor> made(new CudaExecutor(plan, gpu, kernels));
  CudaExecutor& executor = *made;
  executor.weights_ = weights;
  executor.kv_ = kv;
  const Sizes sizes = sizes_of(plan);
  executor.usual_arena_ = sizes.usual;
  // Not the default until it was measured on a GPU: so far engines over the CPU and the stand-in driver went through it.
  const char* const ahead = std::getenv("ERN_CUDA_AHEAD");
  executor.runs_ahead_ = ahead && std::strcmp(ahead, "1") == 0;
  executor.large_bytes_ = sizes.large;
  auto arena = DeviceMemory::create(gpu, sizes.usual, "scratch of a step");
  if (!arena.ok()) return arena.status();
  auto inputs = DeviceMemory::create(gpu, step_bytes + sizes.inputs, "inputs of a step");
  if (!inputs.ok()) return inputs.status();
  for (Slot& slot : executor.slots_) {
    auto staged = PinnedMemory::create(gpu, step_bytes + sizes.inputs, "inputs of a step");
    if (!staged.ok()) return staged.status();
    slot.inputs = std::move(staged.value());
    auto ids = PinnedMemory::create(gpu, static_cast<uint64_t>(sizes.rows) * 4, "ids of a step");
    if (!ids.ok()) return ids.status();
    slot.ids = std::move(ids.value());
    if (Status status = gpu.check(gpu.driver().event_create(&slot.done, event_no_timing), "making an event"); !status.ok()) return status;
  }
  auto row = PinnedMemory::create(gpu, static_cast<uint64_t>(plan.vocab_size) * 4, "a row of logits");
  if (!row.ok()) return row.status();
  executor.arena_ = std::move(arena.value());
  executor.inputs_ = std::move(inputs.value());
  executor.staged_row_ = std::move(row.value());
  for (const Program& program : std::span(plan.programs, plan.program_count)) executor.buckets_.push_back({&program, {}});
  // Smallest first: the first that fits is the one to take.
  std::ranges::stable_sort(executor.buckets_, [](const Bucket& a, const Bucket& b) {
    return a.program->max_tokens != b.program->max_tokens ? a.program->max_tokens < b.program->max_tokens
                                                          : a.program->max_sequences < b.program->max_sequences;
  });
  // Rows that no step has written are read by some kernels and thrown away; they must not be NaN from before.
  const int error = gpu.driver().set_bytes(executor.arena_.data(), 0, std::max<uint64_t>(sizes.usual, 1), gpu.stream());
  if (Status status = gpu.check(error, "clearing memory"); !status.ok()) return status;
  return std::unique_ptr<Executor>(std::move(made));
}

CudaExecutor::~CudaExecutor() {
  if (!gpu_.enter().ok()) return;
  gpu_.driver().stream_synchronize(gpu_.stream());
  for (const Bucket& bucket : buckets_) {
    for (const auto& graphs : bucket.graphs)
      for (const GraphExec graph : graphs)
        if (graph) gpu_.driver().graph_exec_destroy(graph);
  }
  for (const Slot& slot : slots_)
    if (slot.done) gpu_.driver().event_destroy(slot.done);
}

void CudaExecutor::require(int error, const char* what) const {
  if (error != success) throw DeviceFailure(gpu_.driver().failure(error, what));
}

int32_t CudaExecutor::most_rows(ProgramKind kind, int32_t sequences) const {
  int32_t most = 0;
  for (const Bucket& bucket : buckets_) {
    if (bucket.program->kind == kind && bucket.program->max_sequences >= sequences)
      most = std::max(most, bucket.program->max_tokens);
  }
  return most;
}

CudaExecutor::Bucket& CudaExecutor::choose(ProgramKind kind, int32_t tokens, int32_t sequences) {
  const auto found = std::ranges::find_if(buckets_, [&](const Bucket& bucket) {
    return bucket.program->kind == kind && bucket.program->max_tokens >= tokens &&
           bucket.program->max_sequences >= sequences;
  });
  if (found->calls.empty()) resolve(*found);
  return *found;
}

Pointer CudaExecutor::arena_of(const Program& program) {
  if (is_usual(program.kind)) return arena_.data();
  if (large_arena_.data() == 0) {
    auto memory = DeviceMemory::create(gpu_, large_bytes_, "logits of all rows");
    // Not the device's end: what is under way ends, and the engine goes on.
    if (!memory.ok()) throw std::bad_alloc();
    large_arena_ = std::move(memory.value());
    require(gpu_.driver().set_bytes(large_arena_.data(), 0, large_bytes_, gpu_.stream()), "clearing memory");
  }
  return large_arena_.data();
}

void CudaExecutor::trim() {
  if (large_arena_.data() == 0) return;
  gpu_.driver().stream_synchronize(gpu_.stream());
  // Their calls hold addresses in it.
  for (Bucket& bucket : buckets_)
    if (!is_usual(bucket.program->kind)) bucket.calls.clear();
  if (last_ && !is_usual(last_->kind)) last_ = nullptr;
  large_arena_ = DeviceMemory();
}

void CudaExecutor::resolve(Bucket& bucket) {
  const Program& program = *bucket.program;
  const Pointer arena = arena_of(program);
  for (const Launch& launch : std::span(program.launches, program.launch_count))
    bucket.calls.push_back(make_call(program, launch, bucket.calls.empty(), arena));
}

std::unique_ptr<CudaExecutor::Call> CudaExecutor::make_call(const Program& program, const Launch& launch, bool first,
                                                            Pointer arena) {
  auto made = std::make_unique<Call>();
  Call& call = *made;
  const DeviceLaunch& device = *launch.device;
  const DeviceFunction& function = plan_.device->functions[device.function];
  call.name = launch.name;
  call.function = kernels_.function(device.function);
  call.grid = device.grid;
  call.config.block[0] = function.threads, call.config.block[1] = call.config.block[2] = 1;
  call.config.shared_bytes = function.shared_bytes;
  call.config.stream = gpu_.stream();
  call.config.attributes = call.attributes;
  // The first of a step waits for the copy of its inputs. Blocks that wait for one another start together or not at all.
  if (function.resident > 0) {
    LaunchAttribute& attribute = call.attributes[call.config.attribute_count++];
    attribute.id = launch_cooperative;
    attribute.value.cooperative = 1;
  } else if (!first && gpu_.programmatic()) {
    LaunchAttribute& attribute = call.attributes[call.config.attribute_count++];
    attribute.id = launch_programmatic;
    attribute.value.programmatic = 1;
  }
  if (function.cluster > 1) {
    LaunchAttribute& attribute = call.attributes[call.config.attribute_count++];
    attribute.id = launch_cluster;
    attribute.value.cluster[0] = function.cluster, attribute.value.cluster[1] = attribute.value.cluster[2] = 1;
  }
  const Pointer bases[] = {weights_, arena, inputs_.data() + step_bytes, kv_};  // by Space
  call.pointers.push_back(inputs_.data());
  for (const Arg& arg : std::span(launch.args, launch.arg_count))
    call.pointers.push_back(bases[static_cast<int>(arg.space)] + arg.offset);
  for (Pointer& pointer : call.pointers) call.parameters.push_back(&pointer);
  call.maps = std::make_unique<TensorMap[]>(device.map_count);
  for (uint32_t i = 0; i < device.map_count; ++i) {
    call.maps[i] = make_map(device.maps[i], call.pointers[1 + device.maps[i].argument], launch.name);
    call.parameters.push_back(&call.maps[i]);
  }
  const Step most{program.max_tokens, program.max_sequences, 0};
  for (int axis = 0; axis < 3; ++axis) call.config.grid[axis] = blocks_of(device.grid[axis], most);
  return made;
}

TensorMap CudaExecutor::make_map(const DeviceMap& map, Pointer at, const char* kernel) const {
  TensorMap made;
  const uint32_t steps[5] = {1, 1, 1, 1, 1};
  const int swizzle = map.swizzle == 128 ? swizzle_128 : map.swizzle == 64 ? swizzle_64 : map.swizzle == 32 ? swizzle_32 : swizzle_none;
  const int error = gpu_.driver().tensor_map_encode(&made, map.dtype == Dtype::bf16 ? map_bfloat16 : map_float32, map.rank,
                                                    reinterpret_cast<void*>(at), map.dims, map.strides, map.box, steps,
                                                    map_no_interleave, swizzle, map_promote_128, map_zeros_outside);
  require(error, kernel);
  return made;
}

void CudaExecutor::enqueue(Bucket& bucket, const Step& sizes, const Slot& slot, bool ids_of_last) {
  const Driver& driver = gpu_.driver();
  const Program& program = *bucket.program;
  const Pointer inputs = inputs_.data() + step_bytes;
  const Output* const ids = find_output(program, Role::next_ids);
  const int32_t rows = is_usual(program.kind) ? sizes.sequences : sizes.tokens;
  const auto id_bytes = static_cast<uint64_t>(rows) * 4;
  require(driver.copy_in(inputs_.data(), slot.inputs.data(), step_bytes + program.inputs.bytes, gpu_.stream()), "copying a step's inputs");
  if (ids_of_last) require(driver.copy(inputs + program.inputs.ids, arena_of(program) + ids->offset, id_bytes, gpu_.stream()), "copying ids");
  for (const auto& call : bucket.calls) {
    for (int axis = 0; axis < 3; ++axis) call->config.grid[axis] = blocks_of(call->grid[axis], sizes);
    require(driver.launch(&call->config, call->function, call->parameters.data(), nullptr), call->name);
  }
  if (ids) require(driver.copy_out(slot.ids.data(), arena_of(program) + ids->offset, id_bytes, gpu_.stream()), "copying ids");
}

// Grids for the most rows of the bucket: parameters are fixed from here on, and what a step has less, its kernels see.
GraphExec CudaExecutor::capture(Bucket& bucket, const Slot& slot, bool ids_of_last) {
  const Driver& driver = gpu_.driver();
  const Program& program = *bucket.program;
  require(driver.stream_begin_capture(gpu_.stream(), capture_thread_local), "beginning a graph");
  Graph graph = nullptr;
  try {
    enqueue(bucket, {program.max_tokens, program.max_sequences, 0}, slot, ids_of_last);
  } catch (...) {
    if (driver.stream_end_capture(gpu_.stream(), &graph) == success && graph) driver.graph_destroy(graph);
    throw;
  }
  require(driver.stream_end_capture(gpu_.stream(), &graph), "ending a graph");
  GraphExec made = nullptr;
  const int error = driver.graph_instantiate(&made, graph, 0);
  driver.graph_destroy(graph);
  require(error, "making a graph");
  require(driver.graph_upload(made, gpu_.stream()), "making a graph");
  return made;
}

void CudaExecutor::begin(ProgramKind kind, std::span<const StepItem> items, bool ids_of_last) {
  if (Status status = gpu_.enter(); !status.ok()) throw DeviceFailure(status);
  const Driver& driver = gpu_.driver();
  int32_t tokens = 0;
  for (const StepItem& item : items) tokens += item.rows;
  Bucket& bucket = choose(kind, tokens, static_cast<int32_t>(items.size()));
  const Program& program = *bucket.program;
  const uint32_t number = (first_ + count_) % most_under_way;
  Slot& slot = slots_[number];
  auto* const staged = static_cast<std::byte*>(slot.inputs.data());
  const Step step = fill_inputs(plan_, program, items, staged + step_bytes, ids_of_last);
  const DeviceStep sizes{step.tokens, step.sequences, step.block_stride, 0};
  std::memcpy(staged, &sizes, sizeof sizes);
  const int32_t rows = is_usual(kind) ? step.sequences : step.tokens;
  fetched_.assign(static_cast<size_t>(rows), 0);  // the last thing that memory may run out for
  if (kind == ProgramKind::decode) {
    GraphExec& graph = bucket.graphs[number][ids_of_last];
    if (!graph) graph = capture(bucket, slot, ids_of_last);
    require(driver.graph_launch(graph, gpu_.stream()), "launching a step");
  } else {
    enqueue(bucket, step, slot, ids_of_last);
  }
  require(driver.event_record(slot.done, gpu_.stream()), "launching a step");
  ++count_;
  last_ = &program;
  last_arena_ = arena_of(program);
  last_tokens_ = step.tokens;
  logits_ = find_output(program, Role::logits);
  const bool has_ids = find_output(program, Role::next_ids) != nullptr;
  slot.result = {&program, rows, has_ids ? static_cast<const int32_t*>(slot.ids.data()) : nullptr};
}

StepResult CudaExecutor::end() {
  const Slot& slot = slots_[first_];
  first_ = (first_ + 1) % most_under_way;
  --count_;
  require(gpu_.driver().event_synchronize(slot.done), "a step");
  return slot.result;
}

float* CudaExecutor::logits(int32_t row) {
  const auto vocab = static_cast<size_t>(plan_.vocab_size);
  const auto at = static_cast<size_t>(row);
  if (rows_.size() < fetched_.size() * vocab) rows_.resize(fetched_.size() * vocab);
  float* const result = rows_.data() + at * vocab;
  if (!fetched_[at]) {
    const Driver& driver = gpu_.driver();
    const Pointer from = last_arena_ + logits_->offset + at * logits_->row_stride * 4;
    require(driver.copy_out(staged_row_.data(), from, vocab * 4, gpu_.stream()), "copying logits");
    require(driver.stream_synchronize(gpu_.stream()), "copying logits");
    std::memcpy(result, staged_row_.data(), vocab * 4);
    fetched_[at] = 1;
  }
  return result;
}

const std::byte* CudaExecutor::traced(const Output& output) {
  const uint64_t element = output.dtype == Dtype::bf16 ? 2 : 4;
  const uint64_t bytes = static_cast<uint64_t>(last_tokens_) * output.row_stride * element;
  traced_.resize(bytes);
  require(gpu_.driver().copy_out(traced_.data(), last_arena_ + output.offset, bytes, gpu_.stream()), "copying a traced tensor");
  require(gpu_.driver().stream_synchronize(gpu_.stream()), "copying a traced tensor");
  return traced_.data();
}

}  // namespace ern::cuda
