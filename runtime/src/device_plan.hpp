// What a plan says besides, when its programs run on a GPU: machine code, and how each launch uses it. Types only; who
// walks them is src/cuda. For a CPU a plan has none of it.
#pragma once

#include <cstdint>
#include <memory>

#include "status.hpp"

namespace ern {

struct Plan;
class Backend;
enum class Dtype : uint32_t;

// Blocks along one axis of a grid: constant * ceil(rows * times / per). A captured program takes the most rows of its
// bucket, and kernels leave early beyond those of the step.
enum class RowsOf : uint32_t { none, tokens, sequences };
struct GridCount {
  uint32_t constant;
  uint32_t times = 1;
  uint32_t per = 1;
  RowsOf of = RowsOf::none;
};

// A descriptor for the tensor memory accelerator over one argument, passed by value behind the pointers.
struct DeviceMap {
  uint32_t argument;
  Dtype dtype;
  uint32_t rank;
  uint64_t dims[5];     // elements, innermost first
  uint64_t strides[4];  // bytes, of all axes but the innermost
  uint32_t box[5];
  uint32_t swizzle;     // bytes: 0, 32, 64 or 128
};

struct DeviceLaunch {
  uint32_t function;  // in DevicePlan::functions
  GridCount grid[3];
  const DeviceMap* maps = nullptr;
  uint32_t map_count = 0;
};

struct DeviceFunction {
  uint32_t cubin;
  const char* name;
  uint32_t threads;       // of a block
  uint32_t shared_bytes;  // dynamic
  uint32_t cluster;       // blocks along x that share one; 1: none
  uint32_t hidden = 0;    // pointers behind its arguments that Triton's compiler added; nothing reads them
  uint32_t resident = 0;  // blocks that wait for one another, so all must run at once, one a multiprocessor; 0: none do
};

struct Cubin {
  const char* name;
  const unsigned char* begin;
  const unsigned char* end;
};

struct DevicePlan {
  // Here and not in the runtime: the library of a CPU package has no code for GPUs.
  Result<std::unique_ptr<Backend>> (*open)(const Plan& plan);
  const char* arch;  // as src/toolchain/arch.ts names it
  int32_t major, minor;
  bool exact;  // runs on exactly this capability; else also on newer ones of the same major number
  const Cubin* cubins;
  uint32_t cubin_count;
  const DeviceFunction* functions;
  uint32_t function_count;
  // Fill synthetic weights: device/cuda/synthetic.cuh. In `functions`; without synthetic weights not used.
  uint32_t fill_f32, fill_bf16;
  uint32_t draw;  // device/cuda/draw.cuh, behind the launches of a step of prefill or decode. In `functions`
};

}  // namespace ern
