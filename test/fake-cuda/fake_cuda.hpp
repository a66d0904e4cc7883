// The state of the stand-in driver: what is alive, what was asked, what is to fail. The entry points are in fake_cuda.cpp.
//
// Set by the environment of the process:
//   FAKE_CUDA_VERSION      as cuDriverGetVersion says it; 13000
//   FAKE_CUDA_CAPABILITY   of each device, with commas: "9.0,8.0"; "9.0". Empty: no device
//   FAKE_CUDA_MEMORY       MiB of device memory; 1024
//   FAKE_CUDA_TAKEN        MiB of it that others hold; 0
//   FAKE_CUDA_FAIL         "cuLaunchKernelEx:3:700": the third call from now fails with 700; errors from 700 on stay
//   FAKE_CUDA_REPORT       file for the report: a JSON object, written when the process ends
//   FAKE_CUDA_COMPUTES     1: kernels that compute() knows do their work, and take a time of their own by a clock that only they move
//   FAKE_CUDA_VARIANT      "tilerows16:hang": what kernels do that have this in their name: hang, trap, wrong (a sum is off), bits (one bit is), overrun,
//                          idle (nothing is written). Only with FAKE_CUDA_COMPUTES
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "src/cuda/driver.hpp"

namespace fake {

using namespace ern::cuda;

struct FakeStream {
  std::vector<std::function<void()>> queue;  // runs when somebody waits: who reads or reuses memory too early is seen
  bool capturing = false;
  std::vector<std::function<void()>> captured;
  // Of the step that runs in it: see emulate().
  const int32_t *ids = nullptr, *last_rows = nullptr;
};

struct FakeFunction {
  std::string name;
  int dynamic_shared = 0;  // 48 KiB until a kernel asks for more
};

struct FakeModule {
  std::string image;
  std::map<std::string, FakeFunction> functions;
};

struct FakeGraph {
  std::vector<std::function<void()>> nodes;
};

struct State {
  State();
  ~State();

  // Counts the call; what it must return instead of doing its work, or success.
  int enter(const char* name);
  void wrong(const std::string& what);
  // The live allocation that [at, at + bytes) lies in, or nullptr, which is an error.
  char* memory(Pointer at, size_t bytes, const char* call);

  std::recursive_mutex mutex;
  int version = 13000;
  int multiprocessors = 132;
  std::vector<std::pair<int, int>> capabilities;
  size_t total = 0, taken = 0, used = 0;
  std::string fail_call;
  long fail_at = 0;
  int fail_error = 0, sticky = 0;

  std::map<std::string, long> calls;
  std::vector<std::string> mistakes;
  std::map<Pointer, size_t> device;
  std::map<void*, size_t> pinned;
  std::set<FakeStream*> streams;
  std::set<FakeModule*> modules;
  std::set<FakeGraph*> graphs, execs;
  std::set<void*> events;
  std::map<void*, FakeStream*> recorded;  // where each event was recorded last
  bool computes = false;
  std::string variant, behaviour;
  double nanoseconds = 0;
  std::map<void*, double> stamps;  // of events
  int contexts = 0, current = 0;  // current: the device that was retained last
  std::map<std::string, long> launches;  // by kernel

  FakeStream* running = nullptr;  // whose work is being done
};

State& state();

// What stands for a model, away from special ids: the next token of a sequence follows from its last one. Kernels that the engine's path depends
// on are known by their names.
inline int32_t next_id(int32_t id) { return 10 + (id * 7 + 3) % 40; }
void emulate(const std::string& kernel, void** parameters);

// Kernels that are tuned, on the host: products, and what fills weights. How many parameters it reads; 0: it knows no such kernel.
size_t compute_parameters(const std::string& kernel);
// `timed`: only its time counts.
void compute(const std::string& kernel, const std::vector<uint64_t>& parameters, bool timed);

}  // namespace fake
