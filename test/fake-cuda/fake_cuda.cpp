// A libcuda.so.1 for tests: the entry points that the runtime uses, over the host's memory. It computes nothing but what
// emulate() says; it holds every call to the rules of the driver: limits of a launch, lifetimes, memory that is there.
#include "fake_cuda.hpp"

#include <cstdlib>
#include <cstring>
#include <utility>

#include <elf.h>

using namespace fake;

#define ENTER(name)                                               \
  State& s = state();                                             \
  const std::lock_guard lock(s.mutex);                            \
  if (const int error = s.enter(#name); error != success) return error;
// The same for calls that want a context current in their thread.
#define ENTER_CONTEXT(name)                                       \
  ENTER(name)                                                     \
  if (!has_context) return s.wrong(std::string(#name) + ": no context is current in this thread"), 201;

namespace {

thread_local bool has_context = false;

constexpr int shared_limit = 227 * 1024, usual_shared = 48 * 1024;

FakeStream* as_stream(Stream stream) { return reinterpret_cast<FakeStream*>(stream); }

int live(State& s, Stream stream, const char* call) {
  if (s.streams.contains(as_stream(stream))) return success;
  s.wrong(std::string(call) + ": a stream that is not there");
  return 400;
}

int enqueue(State& s, Stream stream, const char* call, std::function<void()> work) {
  if (const int error = live(s, stream, call); error != success) return error;
  FakeStream& to = *as_stream(stream);
  (to.capturing ? to.captured : to.queue).push_back(std::move(work));
  return success;
}

void drain(FakeStream& stream) {
  FakeStream* const outer = std::exchange(state().running, &stream);
  for (const auto& work : std::exchange(stream.queue, {})) work();
  state().running = outer;
}

int copy(Stream stream, const char* call, Pointer device, size_t bytes, const std::function<void(char*)>& work) {
  State& s = state();
  if (!s.memory(device, bytes, call)) return error_invalid_value;
  return enqueue(s, stream, call, [=] {
    if (char* const at = state().memory(device, bytes, call)) work(at);
  });
}

}  // namespace

extern "C" {

int cuInit(unsigned) {
  ENTER(cuInit)
  return s.capabilities.empty() ? error_no_device : success;
}
int cuDriverGetVersion(int* version) {
  ENTER(cuDriverGetVersion)
  *version = s.version;
  return success;
}
int cuGetErrorName(int error, const char** name) {
  *name = error == error_out_of_memory ? "CUDA_ERROR_OUT_OF_MEMORY" : error == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR_FAKE";
  return success;
}
int cuGetErrorString(int, const char** text) {
  *text = "as the test wanted";
  return success;
}
int cuDeviceGetCount(int* count) {
  ENTER(cuDeviceGetCount)
  *count = static_cast<int>(s.capabilities.size());
  return success;
}
int cuDeviceGet(Device* device, int ordinal) {
  ENTER(cuDeviceGet)
  *device = ordinal;
  return success;
}
int cuDeviceGetName(char* name, int length, Device) {
  ENTER(cuDeviceGetName)
  std::strncpy(name, "Fake GPU", static_cast<size_t>(length));
  return success;
}
int cuDeviceGetAttribute(int* value, int attribute, Device device) {
  ENTER(cuDeviceGetAttribute)
  const auto& [major, minor] = s.capabilities[static_cast<size_t>(device)];
  *value = attribute == attribute_major ? major : attribute == attribute_minor ? minor : attribute == attribute_shared_bytes ? shared_limit : s.multiprocessors;
  return success;
}
int cuDevicePrimaryCtxRetain(Context* context, Device device) {
  ENTER(cuDevicePrimaryCtxRetain)
  ++s.contexts;
  s.current = device;
  *context = reinterpret_cast<Context>(&s);
  return success;
}
int cuDevicePrimaryCtxRelease_v2(Device) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  if (--s.contexts < 0) s.wrong("cuDevicePrimaryCtxRelease: more often than retained");
  return success;
}
int cuCtxSetCurrent(Context context) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  has_context = context != nullptr;
  ++s.calls["cuCtxSetCurrent"];
  return success;
}
int cuMemGetInfo_v2(size_t* free, size_t* total) {
  ENTER_CONTEXT(cuMemGetInfo_v2)
  *free = s.total - s.taken - s.used;
  *total = s.total;
  return success;
}
int cuMemAlloc_v2(Pointer* at, size_t bytes) {
  ENTER_CONTEXT(cuMemAlloc_v2)
  if (bytes == 0) return error_invalid_value;
  if (bytes > s.total - s.taken - s.used) return error_out_of_memory;
  char* const memory = static_cast<char*>(std::aligned_alloc(512, (bytes + 511) / 512 * 512));
  if (!memory) return error_out_of_memory;
  std::memset(memory, 0xA5, bytes);  // nothing is zero by itself
  *at = reinterpret_cast<Pointer>(memory);
  s.device[*at] = bytes;
  s.used += bytes;
  return success;
}
int cuMemFree_v2(Pointer at) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  ++s.calls["cuMemFree_v2"];
  const auto found = s.device.find(at);
  if (found == s.device.end()) return s.wrong("cuMemFree: memory that is not allocated"), error_invalid_value;
  for (FakeStream* const stream : s.streams) drain(*stream);  // the driver waits too
  s.used -= found->second;
  s.device.erase(found);
  std::free(reinterpret_cast<void*>(at));
  return s.sticky;
}
int cuMemHostAlloc(void** at, size_t bytes, unsigned) {
  ENTER_CONTEXT(cuMemHostAlloc)
  *at = std::malloc(bytes);
  if (!*at) return error_out_of_memory;
  s.pinned[*at] = bytes;
  return success;
}
int cuMemFreeHost(void* at) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  if (s.pinned.erase(at) == 0) return s.wrong("cuMemFreeHost: memory that is not allocated"), error_invalid_value;
  for (FakeStream* const stream : s.streams) drain(*stream);
  std::free(at);
  return s.sticky;
}
int cuMemcpyHtoDAsync_v2(Pointer to, const void* from, size_t bytes, Stream stream) {
  ENTER_CONTEXT(cuMemcpyHtoDAsync_v2)
  return copy(stream, "cuMemcpyHtoDAsync", to, bytes, [=](char* at) { std::memcpy(at, from, bytes); });
}
int cuMemcpyDtoHAsync_v2(void* to, Pointer from, size_t bytes, Stream stream) {
  ENTER_CONTEXT(cuMemcpyDtoHAsync_v2)
  return copy(stream, "cuMemcpyDtoHAsync", from, bytes, [=](char* at) { std::memcpy(to, at, bytes); });
}
int cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, Stream stream) {
  ENTER_CONTEXT(cuMemcpyDtoDAsync_v2)
  if (!s.memory(from, bytes, "cuMemcpyDtoDAsync")) return error_invalid_value;
  return copy(stream, "cuMemcpyDtoDAsync", to, bytes, [=](char* at) { std::memcpy(at, reinterpret_cast<char*>(from), bytes); });
}
int cuMemsetD8Async(Pointer to, unsigned char value, size_t bytes, Stream stream) {
  ENTER_CONTEXT(cuMemsetD8Async)
  return copy(stream, "cuMemsetD8Async", to, bytes, [=](char* at) { std::memset(at, value, bytes); });
}

int cuModuleLoadData(Module* module, const void* image) {
  ENTER_CONTEXT(cuModuleLoadData)
  const auto* const header = static_cast<const Elf64_Ehdr*>(image);
  if (std::memcmp(header->e_ident, ELFMAG, SELFMAG) != 0) return error_invalid_image;
  auto* const made = new FakeModule;
  made->image.assign(static_cast<const char*>(image), header->e_shoff + size_t{header->e_shnum} * header->e_shentsize);
  s.modules.insert(made);
  *module = reinterpret_cast<Module>(made);
  return success;
}
int cuModuleUnload(Module module) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  auto* const found = reinterpret_cast<FakeModule*>(module);
  if (s.modules.erase(found) == 0) return s.wrong("cuModuleUnload: a module that is not there"), 400;
  delete found;
  return s.sticky;
}
int cuModuleGetFunction(Function* function, Module module, const char* name) {
  ENTER_CONTEXT(cuModuleGetFunction)
  auto* const found = reinterpret_cast<FakeModule*>(module);
  // As a symbol of the code, with its zeros around it.
  if (found->image.find(std::string(1, '\0') + name + '\0') == std::string::npos) return error_not_found;
  FakeFunction& made = found->functions[name];
  made.name = name;
  *function = reinterpret_cast<Function>(&made);
  return success;
}
int cuFuncGetAttribute(int* value, int attribute, Function) {
  ENTER_CONTEXT(cuFuncGetAttribute)
  *value = attribute == function_max_threads ? 1024 : 0;
  return success;
}
int cuFuncSetAttribute(Function function, int attribute, int value) {
  ENTER_CONTEXT(cuFuncSetAttribute)
  if (attribute == function_dynamic_shared) {
    if (value > shared_limit) return error_invalid_value;
    reinterpret_cast<FakeFunction*>(function)->dynamic_shared = value;
  }
  return success;
}
int cuLaunchKernelEx(const LaunchConfig* config, Function function, void** parameters, void**) {
  ENTER_CONTEXT(cuLaunchKernelEx)
  const auto& kernel = *reinterpret_cast<FakeFunction*>(function);
  const auto refuse = [&](const char* why) { return s.wrong(kernel.name + ": " + why), error_invalid_value; };
  const uint64_t threads = uint64_t{config->block[0]} * config->block[1] * config->block[2];
  if (threads == 0 || threads > 1024) return refuse("too many threads, or none");
  if (config->grid[0] == 0 || config->grid[1] == 0 || config->grid[2] == 0) return refuse("a grid without blocks");
  if (config->grid[1] > 65535 || config->grid[2] > 65535) return refuse("a grid that is too large");
  if (static_cast<int>(config->shared_bytes) > std::max(usual_shared, kernel.dynamic_shared)) return refuse("shared memory that it did not ask for");
  for (unsigned i = 0; i < config->attribute_count; ++i) {
    const LaunchAttribute& attribute = config->attributes[i];
    if (attribute.id == launch_cluster) {
      const unsigned size = attribute.value.cluster[0];
      if (size == 0 || size > 8 || config->grid[0] % size != 0) return refuse("a grid that is no multiple of its clusters");
      if (s.capabilities[static_cast<size_t>(s.current)].first < 9) return refuse("clusters on a GPU that has none");
    } else if (attribute.id == launch_programmatic) {
      if (s.capabilities[static_cast<size_t>(s.current)].first < 9) return refuse("a programmatic launch on a GPU that has none");
    } else if (attribute.id == launch_cooperative) {
      if (uint64_t{config->grid[0]} * config->grid[1] * config->grid[2] > static_cast<uint64_t>(s.multiprocessors)) return refuse("more blocks than can run at once");
    } else {
      return refuse("an attribute that is not known");
    }
  }
  ++s.launches[kernel.name];
  if (const size_t count = s.computes ? compute_parameters(kernel.name) : 0; count > 0) {
    std::vector<uint64_t> copied;
    for (size_t i = 0; i < count; ++i) {
      copied.push_back(0);
      std::memcpy(&copied.back(), parameters[i], kernel.name == "tune_fill" && i >= 2 ? 4 : 8);
    }
    // Launches of a graph are there to be timed, and their results were seen before.
    const bool timed = s.streams.contains(as_stream(config->stream)) && as_stream(config->stream)->capturing;
    return enqueue(s, config->stream, "cuLaunchKernelEx", [name = kernel.name, copied, timed] { compute(name, copied, timed); });
  }
  // The driver copies parameters at the launch. How many there are only the code knows; what emulate() reads is enough.
  std::vector<Pointer> values;
  const bool draws = kernel.name == "draw_tokens", persists = kernel.name.rfind("persistent_decode", 0) == 0;
  const bool watched = draws || persists || kernel.name.rfind("embedding", 0) == 0 || kernel.name.rfind("gather_rows", 0) == 0 ||
                       kernel.name.rfind("head_argmax", 0) == 0 || kernel.name.rfind("fill_synthetic", 0) == 0;
  if (persists) {
    // The step, and one parameter of pointers that lie one after the other: the ids first, those of the next step seventh.
    const auto* const list = static_cast<const Pointer*>(parameters[1]);
    values = {*static_cast<Pointer*>(parameters[0]), list[0], list[6]};
  } else if (watched) {
    const size_t count = draws ? 7 : kernel.name.rfind("head_argmax", 0) == 0 ? 6 + (kernel.name.find("_norm") != std::string::npos) : 4;
    for (size_t i = 0; i < count; ++i) values.push_back(*static_cast<Pointer*>(parameters[i]));
  }
  return enqueue(s, config->stream, "cuLaunchKernelEx", [name = kernel.name, values, watched]() mutable {
    if (!watched) return;
    std::vector<void*> pointers;
    for (Pointer& value : values) pointers.push_back(&value);
    emulate(name, pointers.data());
  });
}

int cuStreamCreate(Stream* stream, unsigned) {
  ENTER_CONTEXT(cuStreamCreate)
  auto* const made = new FakeStream;
  s.streams.insert(made);
  *stream = reinterpret_cast<Stream>(made);
  return success;
}
int cuStreamDestroy_v2(Stream stream) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  if (s.streams.erase(as_stream(stream)) == 0) return s.wrong("cuStreamDestroy: a stream that is not there"), 400;
  delete as_stream(stream);
  return s.sticky;
}
int cuStreamSynchronize(Stream stream) {
  ENTER_CONTEXT(cuStreamSynchronize)
  if (const int error = live(s, stream, "cuStreamSynchronize"); error != success) return error;
  if (as_stream(stream)->capturing) return s.wrong("cuStreamSynchronize: while capturing"), 900;
  drain(*as_stream(stream));
  return s.sticky;
}
int cuStreamBeginCapture_v2(Stream stream, int) {
  ENTER_CONTEXT(cuStreamBeginCapture_v2)
  if (as_stream(stream)->capturing) return 900;
  as_stream(stream)->capturing = true;
  return success;
}
int cuStreamEndCapture(Stream stream, Graph* graph) {
  ENTER_CONTEXT(cuStreamEndCapture)
  FakeStream& from = *as_stream(stream);
  if (!from.capturing) return 901;
  from.capturing = false;
  auto* const made = new FakeGraph{std::exchange(from.captured, {})};
  s.graphs.insert(made);
  *graph = reinterpret_cast<Graph>(made);
  return success;
}
int cuGraphInstantiateWithFlags(GraphExec* exec, Graph graph, unsigned long long) {
  ENTER_CONTEXT(cuGraphInstantiateWithFlags)
  auto* const made = new FakeGraph(*reinterpret_cast<FakeGraph*>(graph));
  s.execs.insert(made);
  *exec = reinterpret_cast<GraphExec>(made);
  return success;
}
int cuGraphUpload(GraphExec, Stream) {
  ENTER_CONTEXT(cuGraphUpload)
  return success;
}
int cuGraphLaunch(GraphExec exec, Stream stream) {
  ENTER_CONTEXT(cuGraphLaunch)
  auto* const found = reinterpret_cast<FakeGraph*>(exec);
  if (!s.execs.contains(found)) return s.wrong("cuGraphLaunch: a graph that is not there"), 400;
  return enqueue(s, stream, "cuGraphLaunch", [nodes = found->nodes] {
    for (const auto& node : nodes) node();
  });
}
int cuGraphDestroy(Graph graph) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  auto* const found = reinterpret_cast<FakeGraph*>(graph);
  if (s.graphs.erase(found) == 0) return s.wrong("cuGraphDestroy: a graph that is not there"), 400;
  delete found;
  return success;
}
int cuGraphExecDestroy(GraphExec exec) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  auto* const found = reinterpret_cast<FakeGraph*>(exec);
  if (s.execs.erase(found) == 0) return s.wrong("cuGraphExecDestroy: a graph that is not there"), 400;
  delete found;
  return success;
}
int cuEventCreate(Event* event, unsigned) {
  ENTER_CONTEXT(cuEventCreate)
  void* const made = std::malloc(1);
  s.events.insert(made);
  *event = static_cast<Event>(made);
  return success;
}
int cuEventDestroy_v2(Event event) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  if (s.events.erase(event) == 0) return s.wrong("cuEventDestroy: an event that is not there"), 400;
  s.stamps.erase(event);
  std::free(event);
  return success;
}
int cuEventRecord(Event event, Stream stream) {
  ENTER_CONTEXT(cuEventRecord)
  s.recorded[event] = as_stream(stream);
  return enqueue(s, stream, "cuEventRecord", [event] { state().stamps[event] = state().nanoseconds; });
}
int cuStreamWaitEvent(Stream stream, Event event, unsigned) {
  ENTER_CONTEXT(cuStreamWaitEvent)
  FakeStream* const other = s.recorded[event];
  if (!other) return success;
  return enqueue(s, stream, "cuStreamWaitEvent", [other] {
    if (state().streams.contains(other)) drain(*other);
  });
}
int cuEventSynchronize(Event) {
  ENTER_CONTEXT(cuEventSynchronize)
  for (FakeStream* const stream : s.streams) drain(*stream);
  return success;
}
int cuEventElapsedTime_v2(float* milliseconds, Event before, Event after) {
  ENTER_CONTEXT(cuEventElapsedTime_v2)
  *milliseconds = s.computes ? static_cast<float>((s.stamps[after] - s.stamps[before]) / 1e6) : 1;
  return success;
}
int cuTensorMapEncodeTiled(TensorMap*, int, unsigned rank, void* at, const uint64_t* dims, const uint64_t* strides, const uint32_t* box,
                           const uint32_t*, int, int, int, int) {
  ENTER_CONTEXT(cuTensorMapEncodeTiled)
  if (reinterpret_cast<Pointer>(at) % 16 != 0) return s.wrong("a tensor map over memory that is not aligned"), error_invalid_value;
  for (unsigned i = 0; i < rank; ++i)
    if (dims[i] == 0 || box[i] == 0 || box[i] > 256 || (i + 1 < rank && strides[i] % 16 != 0))
      return s.wrong("a tensor map with sizes that no device takes"), error_invalid_value;
  return success;
}

}  // extern "C"
