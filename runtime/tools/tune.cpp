// Runs variants of one kernel for `ernie-compile tune`: once on given numbers, so that their results can be checked, and then in turns, timed. Each
// variant is a library of its own with one function, ern_tune_kernel. This process may die of what it runs: that is what it is for.
//
//   tune <spec>      the spec is lines of words, the commands come on stdin, answers go to stdout, a line each
//
// Spec:   threads <n> · step <tokens> <sequences> · lock <file> · slots <n> · variant <library> ... and, in the order of the kernel's arguments,
//         weight <stream> <bf16|f32> <slabs> <n> <k> <exponent> <panel64|row> · data <bytes> · output <bytes> · scratch <bytes>,
//         input <stream> <bf16|f32> 1 <rows> <columns> <exponent> row, which is filled as a weight is
// Commands: check <variant> <seed> <in> <out>   fills weights by the seed and data from a file, poisons the rest, runs, writes outputs to a file
//           time <rounds> <variant> ...         each round runs all of them, in alternating order; answers how many launches a time is of,
//                                               then nanoseconds of one, variant by variant
//
// Weights lie in `slots` copies that launches go through in turns, so that none finds its weights in a cache; activations and scratch stay where
// they are and are hot, as they are in a step. Element i of a weight is a function of (seed, stream, i) alone, which src/tune/numbers.ts has too.
#include <dlfcn.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "device/cpu/kernel.hpp"
#include "device/layout/panel.hpp"
#include "tools/tune_numbers.hpp"
#include "tools/tune_process.hpp"

namespace {

using ern::Barrier;
using ern::KernelFn;
using ern::Step;
using ern::Team;
using ern::tune::fail;

int64_t now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return int64_t{t.tv_sec} * 1000000000 + t.tv_nsec;
}

constexpr size_t huge_page = size_t{2} << 20;
constexpr size_t guard = 4096;  // behind each buffer, to find what writes too far

// Never freed: the process ends soon.
char* allocate(size_t bytes) {
  const size_t size = (bytes + guard + huge_page - 1) / huge_page * huge_page;
  void* raw = mmap(nullptr, size + huge_page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) fail("no memory for " + std::to_string(bytes) + " bytes");
  char* start = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(raw) + huge_page - 1) / huge_page * huge_page);
  madvise(start, size, MADV_HUGEPAGE);
  return start;
}

enum class Kind { weight, input, data, output, scratch };

struct Arg {
  Kind kind;
  size_t bytes = 0;
  std::vector<char*> at;  // one, or one a slot
  // of a weight
  uint32_t stream = 0;
  bool bf16 = false, panels = false;
  int64_t slabs = 0, n = 0, k = 0;
  float scale = 0;
};

uint16_t to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return ern::tune::bf16_bits(bits);
}

void fill(const Arg& arg, uint32_t seed, char* to) {
  const uint32_t base = ern::tune::stream_base(seed, arg.stream);
  const auto value = [&](uint32_t i) { return ern::tune::weight_number(i, base, arg.scale); };
  const auto put = [&](int64_t offset, float x) {
    if (arg.bf16) reinterpret_cast<uint16_t*>(to)[offset] = to_bf16(x);
    else reinterpret_cast<float*>(to)[offset] = x;
  };
  const ern::layout::Panel64 place{arg.n, arg.k};
  for (int64_t slab = 0; slab < arg.slabs; ++slab) {
    for (int64_t row = 0; row < arg.n; ++row) {
      const uint32_t index = static_cast<uint32_t>((slab * arg.n + row) * arg.k);
      if (!arg.panels) {
        for (int64_t col = 0; col < arg.k; ++col) put((slab * arg.n + row) * arg.k + col, value(index + static_cast<uint32_t>(col)));
        continue;
      }
      const int64_t start = slab * place.elements() + place.offset(row, 0), stride = place.pair_stride(row);
      for (int64_t col = 0; col < arg.k; ++col) put(start + col / 2 * stride + col % 2, value(index + static_cast<uint32_t>(col)));
    }
  }
}

// Threads that stay, as the engine's do, with a barrier after each launch.
class Crew {
 public:
  explicit Crew(int size) : size_(size) {
    for (int rank = 1; rank < size; ++rank) {
      std::thread([this, rank] {
        for (;;) {
          Team{rank, size_, &gate_}.barrier();
          work(rank);
        }
      }).detach();
    }
  }
  int64_t run(KernelFn fn, const Step& step, void* const* args) {
    fn_ = fn, step_ = step, args_ = args;
    Team{0, size_, &gate_}.barrier();
    const int64_t start = now();
    work(0);
    return now() - start;
  }

 private:
  void work(int rank) {
    Team team{rank, size_, &sync_};
    fn_(step_, args_, team);
    team.barrier();
  }
  int size_;
  Barrier gate_, sync_;
  KernelFn fn_ = nullptr;
  Step step_{};
  void* const* args_ = nullptr;
};

struct Bench {
  int threads = 1, slots = 1;
  Step step{1, 1, 1};
  std::vector<Arg> args;
  std::vector<KernelFn> variants;
  std::vector<std::vector<void*>> calls;  // arguments by slot
  Crew* crew = nullptr;
  int slot = 0;
  uint32_t seed = 0;
  bool filled = false, rotated = false;

  void read(const char* path) {
    std::ifstream in(path);
    if (!in) fail("cannot read the spec");
    std::string line, word;
    while (std::getline(in, line)) {
      std::istringstream words(line);
      words >> word;
      Arg arg{};
      if (word == "threads") words >> threads;
      else if (word == "slots") words >> slots;
      else if (word == "step") words >> step.tokens >> step.sequences;
      else if (word == "variant") load(line.substr(8));
      else if (word == "lock") ern::tune::lock_device(line.substr(5));
      else if (word == "weight" || word == "input") {
        std::string type, layout;
        int exponent = 0;
        words >> arg.stream >> type >> arg.slabs >> arg.n >> arg.k >> exponent >> layout;
        arg.kind = word == "weight" ? Kind::weight : Kind::input, arg.bf16 = type == "bf16", arg.panels = layout == "panel64";
        arg.scale = __builtin_ldexpf(1.0f, exponent);
        const int64_t elements = arg.panels ? ern::layout::Panel64{arg.n, arg.k}.elements() : arg.n * arg.k;
        arg.bytes = static_cast<size_t>(arg.slabs * elements) * (arg.bf16 ? 2 : 4);
        args.push_back(arg);
      } else {
        words >> arg.bytes;
        arg.kind = word == "data" ? Kind::data : word == "output" ? Kind::output : Kind::scratch;
        args.push_back(arg);
      }
      if (!words) fail("a malformed spec: " + line);
    }
    for (Arg& arg : args) {
      for (int i = 0; i < (arg.kind == Kind::weight ? slots : 1); ++i) arg.at.push_back(allocate(arg.bytes));
    }
    for (int i = 0; i < slots; ++i) {
      std::vector<void*> call;
      for (Arg& arg : args) call.push_back(arg.at[arg.kind == Kind::weight ? static_cast<size_t>(i) : 0]);
      calls.push_back(call);
    }
    crew = new Crew(threads);
  }

  void load(const std::string& path) {
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    void* symbol = library ? dlsym(library, "ern_tune_kernel") : nullptr;
    if (!symbol) fail(std::string("cannot load a variant: ") + dlerror());
    variants.push_back(reinterpret_cast<KernelFn>(symbol));
  }

  KernelFn variant(size_t i) const {
    if (i >= variants.size()) fail("no such variant");
    return variants[i];
  }

  std::string check(size_t which, uint32_t new_seed, const std::string& in_path, const std::string& out_path) {
    std::ifstream in(in_path, std::ios::binary);
    for (Arg& arg : args) {
      char* to = arg.at[0];
      if (arg.kind == Kind::weight || arg.kind == Kind::input) {
        if (arg.kind == Kind::input || !filled || seed != new_seed) fill(arg, new_seed, to);
      } else if (arg.kind == Kind::data) {
        in.read(to, static_cast<std::streamsize>(arg.bytes));
        if (!in) fail("the input is too short");
      } else {
        std::memset(to, 0xff, arg.bytes);  // NaN as a float, -1 as an id
      }
      std::memset(to + arg.bytes, 0xa5, guard);
    }
    filled = true, rotated = false, seed = new_seed, slot = 0;
    crew->run(variant(which), step, calls[0].data());
    std::ofstream out(out_path, std::ios::binary);
    for (size_t i = 0; i < args.size(); ++i) {
      for (size_t b = 0; b < guard; ++b) {
        if (static_cast<unsigned char>(args[i].at[0][args[i].bytes + b]) != 0xa5) return "overrun " + std::to_string(i);
      }
      if (args[i].kind == Kind::output) out.write(args[i].at[0], static_cast<std::streamsize>(args[i].bytes));
    }
    out.flush();
    if (!out) fail("cannot write the results");
    return "checked";
  }

  // Nanoseconds, of `launches` launches each.
  std::vector<std::vector<double>> time(int rounds, const std::vector<size_t>& which, int& launches) {
    if (!rotated) {
      for (Arg& arg : args) {
        for (size_t i = 1; i < arg.at.size(); ++i) std::memcpy(arg.at[i], arg.at[0], arg.bytes);
      }
      for (const size_t v : which) launch(v);  // pages, code and branch predictors
      rotated = true;
    }
    std::vector<std::vector<double>> times(which.size());
    for (int round = 0; round < rounds; ++round) {
      for (size_t i = 0; i < which.size(); ++i) {
        const size_t turn = round % 2 == 0 ? i : which.size() - 1 - i;
        times[turn].push_back(static_cast<double>(launch(which[turn])));
      }
    }
    launches = 1;
    return times;
  }

  bool other(const std::string&, std::istringstream&) { return false; }

  int64_t launch(size_t which) {
    slot = (slot + 1) % slots;
    return crew->run(variant(which), step, calls[static_cast<size_t>(slot)].data());
  }
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  ern::tune::die_with_parent();
  static Bench bench;
  bench.read(argv[1]);
  std::cout << "ready" << std::endl;
  ern::tune::serve(bench);
  std::_Exit(0);
}
