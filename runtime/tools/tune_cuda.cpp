// Runs variants of a GPU's kernels for `ernie-compile tune`: once on given numbers, so that their results can be checked, and then in turns, timed. A
// variant is a cubin. One process serves many measurements, since starting a context takes longer than most of them; one that a variant spoils
// ends, with the driver's word for it, and the tuner starts another.
//
//   tune_cuda device <major> <minor> <exact>                        prints what the first GPU is that runs such code
//   tune_cuda serve <major> <minor> <exact> <fill cubin> <lock>     commands come on stdin, answers go to stdout, a line each
//
// Commands: open <spec>                         lets go of what was there, makes what the spec says
//           check <variant> <seed> <in> <out>   fills weights by the seed and data from a file, poisons the rest, runs, writes outputs to a file
//           time <rounds> <variant> ...         each round runs all of them, in alternating order; answers how many launches a time is of,
//                                               then nanoseconds of one, variant by variant
// A spec is what tune_cuda_spec.hpp says.
//
// A time is that of a graph of many launches, divided by them: they may start while those before them finish, as in a decode step. Weights lie in
// `slots` copies that launches go through in turns, so that none finds its weights in L2; activations and scratch stay where they are and are hot.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>

#include "src/cuda/driver.hpp"
#include "tools/gpu_management.hpp"
#include "tools/tune_cuda_spec.hpp"
#include "tools/tune_numbers.hpp"
#include "tools/tune_process.hpp"

namespace {

using namespace ern::cuda;
using ern::tune::ArgKind;
using ern::tune::fail;

constexpr size_t guard = 4096;  // behind each buffer, to find what writes too far
constexpr unsigned char guard_byte = 0xa5;
constexpr int attribute_l2_bytes = 38;
// Of a graph: long enough that its start does not count, and no more nodes than that needs.
constexpr double graph_ns = 150e3;
constexpr int most_launches = 256;
// Rounds that are given to the device at once.
constexpr int most_rounds = 64;

const Driver* driver = nullptr;

// A call that failed: for want of memory the machine is to blame, else what ran.
void require(int error, const char* what) {
  if (error == success) return;
  ern::tune::end_with(error == error_out_of_memory ? "error" : "failed", driver->failure(error, what).message());
}

struct Capability {
  int major = 0, minor = 0;
  bool exact = false;
  bool runs(int device_major, int device_minor) const {
    return device_major == major && (exact ? device_minor == minor : device_minor >= minor);
  }
};

int attribute(Device device, int which) {
  int value = 0;
  require(driver->device_attribute(&value, which, device), "asking for the GPU's limits");
  return value;
}

// The first GPU that runs such code.
int find_gpu(const Capability& wanted, Device& device) {
  auto found = Driver::get();
  if (!found.ok()) fail(found.status().message());
  driver = found.value();
  int count = 0;
  require(driver->device_count(&count), "counting GPUs");
  std::string others;
  for (int i = 0; i < count; ++i) {
    require(driver->device_get(&device, i), "opening a GPU");
    const int major = attribute(device, attribute_major), minor = attribute(device, attribute_minor);
    if (wanted.runs(major, minor)) return i;
    others += (others.empty() ? "" : ", ") + std::to_string(major) + "." + std::to_string(minor);
  }
  fail("found GPUs of compute capability " + others + ", expected " + std::to_string(wanted.major) + "." + std::to_string(wanted.minor));
}

void print_management(int ordinal) {
  const Management known = ask_management(ordinal);
  if (!known.driver.empty()) std::cout << "driver " << known.driver << '\n';
  const auto print = [](const char* name, unsigned megahertz) {
    if (megahertz > 0) std::cout << name << ' ' << megahertz << '\n';
  };
  print("megahertz", known.megahertz);
  print("most_megahertz", known.most_megahertz);
  print("memory_megahertz", known.memory_megahertz);
}

void print_device(const Capability& wanted) {
  Device device = 0;
  const int ordinal = find_gpu(wanted, device);
  char name[256] = "";
  require(driver->device_name(name, sizeof name - 1, device), "asking for a GPU's name");
  int version = 0;
  require(driver->driver_version(&version), "asking for the driver's version");
  std::cout << "name " << name << '\n'
            << "cuda " << version / 1000 << '.' << version % 1000 / 10 << '\n'
            << "multiprocessors " << attribute(device, attribute_multiprocessors) << '\n'
            << "cache " << attribute(device, attribute_l2_bytes) << '\n';
  Context context = nullptr;
  require(driver->context_retain(&context, device), "starting the GPU");
  require(driver->context_set(context), "starting the GPU");
  size_t free = 0, total = 0;
  require(driver->memory_info(&free, &total), "asking for memory");
  std::cout << "free " << free << '\n';
  print_management(ordinal);
  std::cout << "end" << std::endl;
  driver->context_release(device);
}

class Memory {
 public:
  explicit Memory(size_t bytes) { require(driver->alloc(&at_, bytes), "taking memory"); }
  Memory(Memory&& other) noexcept : at_(std::exchange(other.at_, 0)) {}
  Memory& operator=(Memory&&) = delete;
  ~Memory() {
    if (at_) driver->free(at_);
  }
  Pointer at() const { return at_; }

 private:
  Pointer at_ = 0;
};

struct Arg : ern::tune::ArgSpec {
  std::vector<Memory> memory;  // one, or one a slot
};

struct Launch : ern::tune::LaunchSpec {
  Function function = nullptr;
};

struct Variant {
  Module module = nullptr;
  std::vector<Launch> launches;
  GraphExec graph = nullptr;
};

struct DeviceStep {  // Step in device/cuda/kernel.cuh
  int32_t tokens, sequences, block_stride, reserved;
};

class Bench {
 public:
  Bench(const Capability& wanted, const char* fill_cubin) {
    Device device = 0;
    find_gpu(wanted, device);
    require(driver->context_retain(&context_, device), "starting the GPU");
    require(driver->context_set(context_), "starting the GPU");
    programmatic_ = attribute(device, attribute_major) >= 9;
    require(driver->stream_create(&stream_, stream_non_blocking), "making a stream");
    const std::string image = read_file(fill_cubin);
    require(driver->module_load(&fill_module_, image.data()), "loading code");
    require(driver->module_function(&fill_, fill_module_, "tune_fill"), "loading code");
    step_ = std::make_unique<Memory>(sizeof(DeviceStep));
  }

  bool other(const std::string& word, std::istringstream& words) {
    if (word != "open") return false;
    std::string path;
    words >> path;
    close();
    read(path);
    std::cout << "ready" << std::endl;
    return true;
  }

  std::string check(size_t which, uint32_t seed, const std::string& in_path, const std::string& out_path) {
    std::ifstream in(in_path, std::ios::binary);
    const std::vector<char> behind(guard, static_cast<char>(guard_byte));
    for (Arg& arg : args_) {
      const Pointer at = arg.memory[0].at();
      if (arg.kind == ArgKind::weight || arg.kind == ArgKind::input) {
        if (arg.kind == ArgKind::input || !filled_ || seed_ != seed) fill(arg, seed);
      } else if (arg.kind == ArgKind::data) {
        std::vector<char> bytes(arg.bytes);
        in.read(bytes.data(), static_cast<std::streamsize>(arg.bytes));
        if (!in) fail("the input is too short");
        require(driver->copy_in(at, bytes.data(), arg.bytes, stream_), "copying inputs");
        synchronize("copying inputs");
      } else {
        // NaN as a float, -1 as an id; counters are zero before the first launch, and each leaves them so.
        set(at, arg.kind == ArgKind::counters ? 0 : 0xff, arg.bytes);
      }
      set(at + arg.bytes, guard_byte, guard);
    }
    filled_ = true, rotated_ = false, seed_ = seed;
    synchronize("filling memory");
    launch(variant(which), 0, false);
    synchronize("a variant");
    std::ofstream out(out_path, std::ios::binary);
    for (size_t i = 0; i < args_.size(); ++i) {
      const Arg& arg = args_[i];
      const bool wanted = arg.kind == ArgKind::output;
      const size_t from = wanted ? 0 : arg.bytes, bytes = arg.bytes + guard - from;
      std::vector<char> found(bytes);
      require(driver->copy_out(found.data(), arg.memory[0].at() + from, bytes, stream_), "copying results");
      synchronize("copying results");
      if (std::memcmp(found.data() + bytes - guard, behind.data(), guard) != 0) return "overrun " + std::to_string(i);
      if (wanted) out.write(found.data(), static_cast<std::streamsize>(arg.bytes));
    }
    out.flush();
    if (!out) fail("cannot write the results");
    return "checked";
  }

  std::vector<std::vector<double>> time(int rounds, const std::vector<size_t>& which, int& launches) {
    if (!rotated_) rotate();
    if (launches_ == 0) launches_ = count_launches(variant(which.front()));
    for (const size_t i : which) {
      if (!variant(i).graph) capture(variant(i));
    }
    launches = launches_;
    std::vector<std::vector<double>> times(which.size());
    for (int done = 0; done < rounds; done += most_rounds) run_rounds(done, std::min(most_rounds, rounds - done), which, times);
    return times;
  }

 private:
  static std::string read_file(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    if (bytes.empty()) fail("cannot read " + path);
    return bytes;
  }
  void synchronize(const char* what) { require(driver->stream_synchronize(stream_), what); }
  void set(Pointer at, unsigned char value, size_t bytes) { require(driver->set_bytes(at, value, bytes, stream_), "filling memory"); }
  Variant& variant(size_t i) {
    if (i >= variants_.size()) fail("no such variant");
    return variants_[i];
  }

  void close() {
    for (Variant& variant : variants_) {
      if (variant.graph) driver->graph_exec_destroy(variant.graph);
      if (variant.module) driver->module_unload(variant.module);
    }
    variants_.clear();
    args_.clear();
    filled_ = rotated_ = false;
    launches_ = 0;
  }

  void read(const std::string& path) {
    std::ifstream in(path);
    if (!in) fail("cannot read the spec");
    ern::tune::Spec spec = ern::tune::read_spec(in);
    slots_ = spec.slots;
    for (const ern::tune::VariantSpec& variant : spec.variants) load(variant);
    for (const ern::tune::ArgSpec& each : spec.args) {
      Arg& arg = args_.emplace_back(Arg{each, {}});
      for (int i = 0; i < (arg.kind == ArgKind::weight ? slots_ : 1); ++i) arg.memory.emplace_back(arg.bytes + guard);
    }
    const DeviceStep step{spec.tokens, spec.sequences, 1, 0};
    require(driver->copy_in(step_->at(), &step, sizeof step, stream_), "copying inputs");
    synchronize("copying inputs");
  }

  void load(const ern::tune::VariantSpec& spec) {
    const std::string image = read_file(spec.cubin);
    Variant& variant = variants_.emplace_back();
    require(driver->module_load(&variant.module, image.data()), "loading code");
    for (const ern::tune::LaunchSpec& each : spec.launches) {
      Launch& launch = variant.launches.emplace_back(Launch{each, nullptr});
      const char* const name = launch.name.c_str();
      require(driver->module_function(&launch.function, variant.module, name), name);
      require(driver->set_function_attribute(launch.function, function_dynamic_shared, static_cast<int>(launch.shared_bytes)), name);
    }
  }

  static int swizzle_of(int bytes) { return bytes == 128 ? swizzle_128 : bytes == 64 ? swizzle_64 : bytes == 32 ? swizzle_32 : swizzle_none; }

  Pointer address(size_t arg, int slot) const { return args_[arg].memory[args_[arg].kind == ArgKind::weight ? static_cast<size_t>(slot) : 0].at(); }

  // All launches of a variant. `behind`: others are before it, and it may start while they finish.
  void launch(const Variant& variant, int slot, bool behind) {
    for (const Launch& launch : variant.launches) {
      std::vector<Pointer> pointers{step_->at()};
      for (const size_t arg : launch.args) pointers.push_back(address(arg, slot));
      pointers.resize(pointers.size() + launch.hidden);
      std::vector<TensorMap> maps(launch.maps.size());
      for (size_t i = 0; i < maps.size(); ++i) {
        const ern::tune::MapSpec& map = launch.maps[i];
        const int type = map.bf16 ? map_bfloat16 : map_float32;
        const uint32_t steps[5] = {1, 1, 1, 1, 1};
        void* const at = reinterpret_cast<void*>(pointers[1 + map.place]);
        require(driver->tensor_map_encode(&maps[i], type, map.rank, at, map.dims, map.strides, map.box, steps, map_no_interleave,
                                          swizzle_of(map.swizzle), map_promote_256, map_zeros_outside),
                "describing a matrix");
      }
      std::vector<void*> parameters;
      for (Pointer& pointer : pointers) parameters.push_back(&pointer);
      for (TensorMap& map : maps) parameters.push_back(&map);
      LaunchAttribute attributes[2] = {};
      LaunchConfig config{};
      config.block[0] = launch.threads, config.block[1] = config.block[2] = 1;
      for (int axis = 0; axis < 3; ++axis) config.grid[axis] = launch.grid[axis];
      config.shared_bytes = launch.shared_bytes, config.stream = stream_, config.attributes = attributes;
      if (behind && programmatic_) {
        attributes[config.attribute_count].id = launch_programmatic;
        attributes[config.attribute_count++].value.programmatic = 1;
      }
      if (launch.cluster > 1) {
        LaunchAttribute& attribute = attributes[config.attribute_count++];
        attribute.id = launch_cluster;
        attribute.value.cluster[0] = launch.cluster, attribute.value.cluster[1] = attribute.value.cluster[2] = 1;
      }
      require(driver->launch(&config, launch.function, parameters.data(), nullptr), launch.name.c_str());
      behind = true;
    }
  }

  void fill(const Arg& arg, uint32_t seed) {
    Pointer at = arg.memory[0].at();
    uint64_t elements = arg.elements;
    uint32_t base = ern::tune::stream_base(seed, arg.stream);
    float scale = arg.scale;
    int bf16 = arg.bf16;
    void* parameters[] = {&at, &elements, &base, &scale, &bf16};
    LaunchConfig config{};
    config.block[0] = 256, config.block[1] = config.block[2] = 1;
    config.grid[0] = static_cast<unsigned>(std::min<uint64_t>((elements + 255) / 256, 4096)), config.grid[1] = config.grid[2] = 1;
    config.stream = stream_;
    require(driver->launch(&config, fill_, parameters, nullptr), "filling weights");
  }

  void rotate() {
    for (const Arg& arg : args_) {
      for (size_t i = 1; i < arg.memory.size(); ++i) require(driver->copy(arg.memory[i].at(), arg.memory[0].at(), arg.bytes, stream_), "copying weights");
    }
    synchronize("copying weights");
    rotated_ = true;
  }

  // So many that a graph takes `graph_ns`, and goes through all slots. The first launches bring code and clocks up.
  int count_launches(const Variant& variant) {
    Event before = nullptr, after = nullptr;
    require(driver->event_create(&before, 0), "making an event");
    require(driver->event_create(&after, 0), "making an event");
    float milliseconds = 0;
    constexpr int tries = 8;
    for (int i = 0; i < 2 * tries; ++i) {
      if (i == tries) require(driver->event_record(before, stream_), "timing");
      launch(variant, i % slots_, i > 0);
    }
    require(driver->event_record(after, stream_), "timing");
    require(driver->event_synchronize(after), "a variant");
    require(driver->event_elapsed(&milliseconds, before, after), "timing");
    driver->event_destroy(before);
    driver->event_destroy(after);
    const double each = std::max(1.0, static_cast<double>(milliseconds) * 1e6 / tries);
    return std::min(most_launches, std::max(slots_, static_cast<int>(std::ceil(graph_ns / each))));
  }

  void capture(Variant& variant) {
    require(driver->stream_begin_capture(stream_, capture_thread_local), "beginning a graph");
    for (int i = 0; i < launches_; ++i) launch(variant, i % slots_, i > 0);
    Graph graph = nullptr;
    require(driver->stream_end_capture(stream_, &graph), "ending a graph");
    require(driver->graph_instantiate(&variant.graph, graph, 0), "making a graph");
    driver->graph_destroy(graph);
    require(driver->graph_upload(variant.graph, stream_), "making a graph");
  }

  // Given to the device one after the other, so that it never waits for the host; behind one that is not timed.
  void run_rounds(int first, int rounds, const std::vector<size_t>& which, std::vector<std::vector<double>>& times) {
    struct Span {
      size_t turn;
      Event before, after;
    };
    std::vector<Span> spans;
    for (const size_t i : which) require(driver->graph_launch(variant(i).graph, stream_), "a variant");
    for (int round = first; round < first + rounds; ++round) {
      for (size_t i = 0; i < which.size(); ++i) {
        Span span{round % 2 == 0 ? i : which.size() - 1 - i, nullptr, nullptr};
        require(driver->event_create(&span.before, 0), "making an event");
        require(driver->event_create(&span.after, 0), "making an event");
        require(driver->event_record(span.before, stream_), "timing");
        require(driver->graph_launch(variant(which[span.turn]).graph, stream_), "a variant");
        require(driver->event_record(span.after, stream_), "timing");
        spans.push_back(span);
      }
    }
    synchronize("a variant");
    for (const Span& span : spans) {
      float milliseconds = 0;
      require(driver->event_elapsed(&milliseconds, span.before, span.after), "timing");
      times[span.turn].push_back(static_cast<double>(milliseconds) * 1e6 / launches_);
      driver->event_destroy(span.before);
      driver->event_destroy(span.after);
    }
  }

  Context context_ = nullptr;
  Stream stream_ = nullptr;
  Module fill_module_ = nullptr;
  Function fill_ = nullptr;
  bool programmatic_ = false;
  std::unique_ptr<Memory> step_;
  int slots_ = 1, launches_ = 0;
  std::vector<Arg> args_;
  std::vector<Variant> variants_;
  uint32_t seed_ = 0;
  bool filled_ = false, rotated_ = false;
};

}  // namespace

int main(int argc, char** argv) {
  ern::tune::die_with_parent();
  const std::string what = argc > 1 ? argv[1] : "";
  if ((what == "device" && argc != 5) || (what == "serve" && argc != 7) || (what != "device" && what != "serve")) return 2;
  const Capability wanted{std::atoi(argv[2]), std::atoi(argv[3]), std::atoi(argv[4]) != 0};
  if (what == "device") {
    print_device(wanted);
    return 0;
  }
  ern::tune::lock_device(argv[6]);
  static Bench bench(wanted, argv[5]);
  std::cout << "ready" << std::endl;
  ern::tune::serve(bench);
  std::_Exit(0);
}
