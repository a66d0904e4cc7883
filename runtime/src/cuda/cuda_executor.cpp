#include "cuda_executor.hpp"

#include <algorithm>
#include <cstring>
#include <new>
#include <string>
#include <tuple>
#include <type_traits>

#include "../device_failure.hpp"
#include "../kernel_times.hpp"
#include "../step_inputs.hpp"

namespace ern::cuda {
namespace {

// What a kernel finds of a step on the device: the step, then the inputs, then how to draw.
constexpr uint64_t step_bytes = 256;
struct DeviceStep {  // Step in device/cuda/kernel.cuh
  int32_t tokens, sequences, block_stride, reserved;
};
struct DrawRow {  // in device/cuda/draw.cuh
  float temperature, top_p, min_p;
  int32_t top_k;
  uint64_t seed, position;
};
static_assert(sizeof(DrawRow) == 32);

uint64_t draws_at(const Program& program) { return step_bytes + (program.inputs.bytes + 15) / 16 * 16; }

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
    sizes.inputs = std::max(sizes.inputs, draws_at(program) + static_cast<uint64_t>(program.max_sequences) * sizeof(DrawRow));
    sizes.rows = std::max(sizes.rows, program.max_tokens);
  }
  return sizes;
}

// Events that time what lies between them.
class Events {
 public:
  Events(const Gpu& gpu, size_t count) : gpu_(gpu), events_(count) {
    for (Event& event : events_) require(gpu_.driver().event_create(&event, 0));
  }
  ~Events() {
    for (const Event event : events_)
      if (event) gpu_.driver().event_destroy(event);
  }
  Event operator[](size_t i) const { return events_[i]; }
  double us(size_t from, size_t to) const {
    float ms = 0;
    require(gpu_.driver().event_elapsed(&ms, events_[from], events_[to]));
    return static_cast<double>(ms) * 1000;
  }

 private:
  void require(int error) const {
    if (error != success) throw DeviceFailure(gpu_.driver().failure(error, "timing a step"));
  }
  const Gpu& gpu_;
  std::vector<Event> events_;
};

const Output* find_output(const Program& program, Role role) {
  const std::span outputs(program.outputs, program.output_count);
  const auto found = std::ranges::find_if(outputs, [role](const Output& output) { return output.role == role; });
  return found == outputs.end() ? nullptr : &*found;
}

}  // namespace

uint64_t CudaExecutor::device_bytes(const Plan& plan) {
  const Sizes sizes = sizes_of(plan);
  return sizes.usual + most_under_way * (sizes.inputs + static_cast<uint64_t>(sizes.rows) * 4);
}

Result<std::unique_ptr<Executor>> CudaExecutor::create(const Plan& plan, const Gpu& gpu, const Kernels& kernels,
                                                       Pointer weights, Pointer kv) {
  std::unique_ptr<CudaExecutor> made(new CudaExecutor(plan, gpu, kernels));
  CudaExecutor& executor = *made;
  executor.weights_ = weights;
  executor.kv_ = kv;
  const Sizes sizes = sizes_of(plan);
  executor.usual_arena_ = sizes.usual;
  executor.large_bytes_ = sizes.large;
  auto arena = DeviceMemory::create(gpu, sizes.usual, "scratch of a step");
  if (!arena.ok()) return arena.status();
  for (Slot& slot : executor.slots_)
    if (Status status = executor.make_slot(slot, sizes.inputs, static_cast<uint64_t>(sizes.rows)); !status.ok()) return status;
  auto row = PinnedMemory::create(gpu, static_cast<uint64_t>(plan.vocab_size) * 4, "a row of logits");
  if (!row.ok()) return row.status();
  if (Status status = gpu.check(gpu.driver().stream_create(&executor.uploads_, stream_non_blocking), "making a stream"); !status.ok())
    return status;
  executor.arena_ = std::move(arena.value());
  executor.staged_row_ = std::move(row.value());
  if (Status status = executor.list_buckets(); !status.ok()) return status;
  // Rows that no step has written are read by some kernels and thrown away; they must not be NaN from before.
  const int error = gpu.driver().set_bytes(executor.arena_.data(), 0, std::max<uint64_t>(sizes.usual, 1), gpu.stream());
  if (Status status = gpu.check(error, "clearing memory"); !status.ok()) return status;
  return std::unique_ptr<Executor>(std::move(made));
}

Status CudaExecutor::list_buckets() {
  const auto sizes = [](const Program& program) { return std::tuple(program.kind, program.max_tokens, program.max_sequences); };
  const auto same = [&](const Program& program) { return [&](const Bucket& bucket) { return sizes(*bucket.program) == sizes(program); }; };
  // Of two programs for the same steps the first one that runs here.
  for (const Program& program : std::span(plan_.programs, plan_.program_count))
    if (!lacking(program) && std::ranges::none_of(buckets_, same(program))) buckets_.push_back({&program, {}, {}});
  for (const Program& program : std::span(plan_.programs, plan_.program_count)) {
    const DeviceFunction* const function = lacking(program);
    if (!function || std::ranges::any_of(buckets_, same(program))) continue;
    return {Code::unsupported, std::string("kernel ") + function->name + " wants " + std::to_string(function->resident) +
                                   " blocks to run at once, and " + gpu_.name() + " has " + std::to_string(gpu_.multiprocessors()) +
                                   " multiprocessors; build the package without \"decode\": \"persistent\""};
  }
  // Smallest first: the first that fits is the one to take.
  std::ranges::stable_sort(buckets_, [](const Bucket& a, const Bucket& b) {
    return a.program->max_tokens != b.program->max_tokens ? a.program->max_tokens < b.program->max_tokens
                                                          : a.program->max_sequences < b.program->max_sequences;
  });
  return {};
}

const DeviceFunction* CudaExecutor::lacking(const Program& program) const {
  for (const Launch& launch : std::span(program.launches, program.launch_count))
    if (!kernels_.function(launch.device->function)) return &plan_.device->functions[launch.device->function];
  return nullptr;
}

Status CudaExecutor::make_slot(Slot& slot, uint64_t input_bytes, uint64_t rows) {
  const auto make = [this](auto& memory, uint64_t bytes, const char* what) {
    auto made = std::remove_reference_t<decltype(memory)>::create(gpu_, bytes, what);
    if (made.ok()) memory = std::move(made.value());
    return made.ok() ? Status() : made.status();
  };
  Status status = make(slot.staged, input_bytes, "inputs of a step");
  if (status.ok()) status = make(slot.inputs, input_bytes, "inputs of a step");
  if (status.ok()) status = make(slot.next_ids, rows * 4, "ids of a step");
  if (status.ok()) status = make(slot.ids, rows * 4, "ids of a step");
  for (Event* const event : {&slot.uploaded, &slot.done})
    if (status.ok()) status = gpu_.check(gpu_.driver().event_create(event, event_no_timing), "making an event");
  return status;
}

Status CudaExecutor::allow(std::span<const uint32_t> ids) {
  if (ids.empty()) return {};
  if (Status status = gpu_.enter(); !status.ok()) return status;
  const uint64_t bytes = (static_cast<uint64_t>(plan_.vocab_size) + 31) / 32 * 4;
  auto memory = DeviceMemory::create(gpu_, bytes, "the ids that may be drawn");
  if (!memory.ok()) return memory.status();
  allowed_ = std::move(memory.value());
  std::vector<uint32_t> words(bytes / 4);  // the vocabulary may have ids that the tokenizer has not
  std::ranges::copy(ids.first(std::min(ids.size(), words.size())), words.begin());
  const Driver& driver = gpu_.driver();
  int error = driver.copy_in(allowed_.data(), words.data(), bytes, gpu_.stream());
  if (error == success) error = driver.stream_synchronize(gpu_.stream());
  return gpu_.check(error, "copying the ids that may be drawn");
}

CudaExecutor::~CudaExecutor() {
  if (!gpu_.enter().ok()) return;
  gpu_.driver().stream_synchronize(gpu_.stream());
  for (const Bucket& bucket : buckets_) {
    for (const auto& graphs : bucket.graphs)
      for (const GraphExec graph : graphs)
        if (graph) gpu_.driver().graph_exec_destroy(graph);
  }
  for (const Slot& slot : slots_) {
    for (const Event event : {slot.uploaded, slot.done})
      if (event) gpu_.driver().event_destroy(event);
  }
  if (uploads_) gpu_.driver().stream_destroy(uploads_);
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
  for (Bucket& bucket : buckets_) {
    if (is_usual(bucket.program->kind)) continue;
    for (Calls& calls : bucket.calls) calls.clear();
  }
  if (last_ && !is_usual(last_->kind)) last_ = nullptr;
  large_arena_ = DeviceMemory();
}

// `last`: the slot of the step that the ids come from, or nullptr where they are among the inputs.
CudaExecutor::Calls CudaExecutor::make_calls(const Program& program, const Slot& slot, const Slot* last) {
  const Pointer arena = arena_of(program), inputs = slot.inputs.data() + step_bytes;
  const Pointer bases[] = {weights_, arena, inputs, kv_};  // by Space
  Calls calls;
  for (const Launch& launch : std::span(program.launches, program.launch_count)) {
    const DeviceLaunch& device = *launch.device;
    calls.push_back(make_call(plan_.device->functions[device.function], device.function, launch.name, calls.empty()));
    Call& call = *calls.back();
    std::ranges::copy(device.grid, call.grid);
    call.pointers.push_back(slot.inputs.data());
    for (const Arg& arg : std::span(launch.args, launch.arg_count)) {
      const bool is_ids = arg.space == Space::inputs && arg.offset == program.inputs.ids;
      call.pointers.push_back(is_ids && last ? last->next_ids.data() : bases[static_cast<int>(arg.space)] + arg.offset);
    }
    call.pointers.resize(call.pointers.size() + plan_.device->functions[device.function].hidden);
    for (Pointer& pointer : call.pointers) call.parameters.push_back(&pointer);
    call.maps = std::make_unique<TensorMap[]>(device.map_count);
    for (uint32_t i = 0; i < device.map_count; ++i) {
      call.maps[i] = make_map(device.maps[i], call.pointers[1 + device.maps[i].argument], launch.name);
      call.parameters.push_back(&call.maps[i]);
    }
  }
  if (is_usual(program.kind) && find_output(program, Role::next_ids)) calls.push_back(make_draw(program, slot, arena));
  const Step most{program.max_tokens, program.max_sequences, 0};
  for (const auto& call : calls)
    for (int axis = 0; axis < 3; ++axis) call->config.grid[axis] = blocks_of(call->grid[axis], most);
  return calls;
}

std::unique_ptr<CudaExecutor::Call> CudaExecutor::make_call(const DeviceFunction& function, uint32_t index, const char* name,
                                                            bool first) const {
  auto made = std::make_unique<Call>();
  Call& call = *made;
  call.name = name;
  call.function = kernels_.function(index);
  call.config.block[0] = function.threads, call.config.block[1] = call.config.block[2] = 1;
  call.config.shared_bytes = function.shared_bytes;
  call.config.stream = gpu_.stream();
  call.config.attributes = call.attributes;
  // The first of a step waits for the copy of its inputs, and for the step before it. Blocks that wait for one another start together or not at all.
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
  return made;
}

// Behind every step that finds ids: device/cuda/draw.cuh.
std::unique_ptr<CudaExecutor::Call> CudaExecutor::make_draw(const Program& program, const Slot& slot, Pointer arena) const {
  const uint32_t index = plan_.device->draw;
  const DeviceFunction& function = plan_.device->functions[index];
  auto call = make_call(function, index, function.name, false);
  const Output &logits = *find_output(program, Role::logits), &argmax = *find_output(program, Role::next_ids);
  // What the host allocated has one address on both sides.
  const auto host = reinterpret_cast<Pointer>(slot.ids.data());
  call->pointers = {slot.inputs.data(), arena + logits.offset, arena + argmax.offset, slot.inputs.data() + draws_at(program), allowed_.data(),
                    slot.next_ids.data(), host, logits.row_stride};
  for (Pointer& pointer : call->pointers) call->parameters.push_back(&pointer);
  call->grid[0] = {function.cluster, 1, 1, RowsOf::none};
  call->grid[1] = {1, 1, 1, RowsOf::sequences};
  call->grid[2] = {1, 1, 1, RowsOf::none};
  return call;
}

TensorMap CudaExecutor::make_map(const DeviceMap& map, Pointer at, const char* kernel) const {
  TensorMap made;
  const uint32_t steps[5] = {1, 1, 1, 1, 1};
  const int swizzle = map.swizzle == 128 ? swizzle_128 : map.swizzle == 64 ? swizzle_64 : map.swizzle == 32 ? swizzle_32 : swizzle_none;
  const int error = gpu_.driver().tensor_map_encode(&made, map.dtype == Dtype::bf16 ? map_bfloat16 : map_float32, map.rank,
                                                    reinterpret_cast<void*>(at), map.dims, map.strides, map.box, steps,
                                                    map_no_interleave, swizzle, map_promote_256, map_zeros_outside);
  require(error, kernel);
  return made;
}

// Writes what goes up, and returns how many bytes it is.
uint64_t CudaExecutor::stage(const Slot& slot, const Program& program, std::span<const StepItem> items, bool ids_of_last, Step& sizes) const {
  auto* const staged = static_cast<std::byte*>(slot.staged.data());
  sizes = fill_inputs(plan_, program, items, staged + step_bytes, ids_of_last);
  const DeviceStep step{sizes.tokens, sizes.sequences, sizes.block_stride, 0};
  std::memcpy(staged, &step, sizeof step);
  auto* const rows = reinterpret_cast<DrawRow*>(staged + draws_at(program));
  for (size_t i = 0; i < items.size(); ++i) {
    const auto& [temperature, top_p, min_p, top_k, seed] = items[i].draw;
    rows[i] = {temperature, top_p, min_p, top_k, seed, static_cast<uint64_t>(items[i].first + items[i].rows)};
  }
  return draws_at(program) + items.size() * sizeof(DrawRow);
}

// Beside the step under way, if there is one: its end needn't be waited for.
void CudaExecutor::upload(const Slot& slot, uint64_t bytes) {
  const Driver& driver = gpu_.driver();
  const Stream stream = count_ > 0 ? uploads_ : gpu_.stream();
  require(driver.copy_in(slot.inputs.data(), slot.staged.data(), bytes, stream), "copying a step's inputs");
  if (stream == gpu_.stream()) return;
  require(driver.event_record(slot.uploaded, stream), "copying a step's inputs");
  require(driver.stream_wait(gpu_.stream(), slot.uploaded, 0), "copying a step's inputs");
}

void CudaExecutor::enqueue(const Calls& calls, const Step& sizes) const {
  for (const auto& call : calls) {
    for (int axis = 0; axis < 3; ++axis) call->config.grid[axis] = blocks_of(call->grid[axis], sizes);
    require(gpu_.driver().launch(&call->config, call->function, call->parameters.data(), nullptr), call->name);
  }
}

// Grids for the most rows of the bucket: parameters are fixed from here on, and what a step has less, its kernels see.
GraphExec CudaExecutor::capture(const Program& program, const Slot& slot, const Slot* last) {
  const Driver& driver = gpu_.driver();
  const Calls calls = make_calls(program, slot, last);
  require(driver.stream_begin_capture(gpu_.stream(), capture_thread_local), "beginning a graph");
  Graph graph = nullptr;
  try {
    enqueue(calls, {program.max_tokens, program.max_sequences, 0});
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
  const Output* const ids = find_output(program, Role::next_ids);
  Step step = {};
  const uint64_t bytes = stage(slot, program, items, ids_of_last, step);
  const int32_t rows = is_usual(kind) ? step.sequences : step.tokens;
  fetched_.assign(static_cast<size_t>(rows), 0);
  if (kind == ProgramKind::decode) {
    GraphExec& graph = bucket.graphs[number][ids_of_last];
    if (!graph) graph = capture(program, slot, ids_of_last ? &slots_[(number + most_under_way - 1) % most_under_way] : nullptr);
    upload(slot, bytes);
    require(driver.graph_launch(graph, gpu_.stream()), "launching a step");
  } else {
    Calls& calls = bucket.calls[number];
    if (calls.empty()) calls = make_calls(program, slot, nullptr);
    upload(slot, bytes);
    enqueue(calls, step);
    if (ids && !is_usual(kind))
      require(driver.copy_out(slot.ids.data(), arena_of(program) + ids->offset, static_cast<uint64_t>(rows) * 4, gpu_.stream()), "copying ids");
  }
  require(driver.event_record(slot.done, gpu_.stream()), "launching a step");
  ++count_;
  last_ = &program;
  last_arena_ = arena_of(program);
  last_tokens_ = step.tokens;
  logits_ = find_output(program, Role::logits);
  slot.result = {&program, rows, ids ? static_cast<const int32_t*>(slot.ids.data()) : nullptr};
}

std::vector<KernelTime> CudaExecutor::profile(ProgramKind kind, std::span<const StepItem> items) {
  if (Status status = gpu_.enter(); !status.ok()) throw DeviceFailure(status);
  const Driver& driver = gpu_.driver();
  // As usual: what it takes from launch to end, with all that overlaps.
  std::vector<double> steps;
  const Events whole(gpu_, 2);
  for (int run = -warming_steps; run < profiled_steps; ++run) {
    require(driver.event_record(whole[0], gpu_.stream()), "timing a step");
    begin(kind, items, false);
    require(driver.event_record(whole[1], gpu_.stream()), "timing a step");
    end();
    require(driver.event_synchronize(whole[1]), "timing a step");
    if (run >= 0) steps.push_back(whole.us(0, 1));
  }
  // Launch by launch, with an event between each two, so that none starts before the one before it has ended.
  const Program& program = *last_;
  const Slot& slot = slots_[(first_ + most_under_way - 1) % most_under_way];  // its inputs are on the device
  const Calls calls = make_calls(program, slot, nullptr);
  KernelTimes times(program);
  if (calls.size() > program.launch_count) times.add_launch(calls.back()->name);
  const Events marks(gpu_, calls.size() + 1);
  Step sizes{0, static_cast<int32_t>(items.size()), 0};
  for (const StepItem& item : items) sizes.tokens += item.rows;
  for (int run = -warming_steps; run < profiled_steps; ++run) {
    require(driver.event_record(marks[0], gpu_.stream()), "timing a step");
    for (size_t i = 0; i < calls.size(); ++i) {
      for (int axis = 0; axis < 3; ++axis) calls[i]->config.grid[axis] = blocks_of(calls[i]->grid[axis], sizes);
      require(driver.launch(&calls[i]->config, calls[i]->function, calls[i]->parameters.data(), nullptr), calls[i]->name);
      require(driver.event_record(marks[i + 1], gpu_.stream()), "timing a step");
    }
    require(driver.event_synchronize(marks[calls.size()]), "timing a step");
    for (size_t i = 0; run >= 0 && i < calls.size(); ++i) times.note(i, marks.us(i, i + 1));
  }
  return times.rows(std::move(steps));
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
