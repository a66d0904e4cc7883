// A block of a CUDA kernel on the host, for kernels whose logic is worth a test without a GPU: each thread is a fiber, and those of a warp or of the block wait for
// one another where the kernel says so. Include it before a header of runtime/device/cuda. What needs a device's instructions (tensor cores, clusters, copies)
// is not here. Fibers run one after the other, so what a kernel forgets to wait for is not always seen.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __CUDA_NO_BFLOAT16_OPERATORS__ 1
#include <cuda_bf16.h>

#undef __device__
#undef __forceinline__
#undef __shared__
#define __device__
#define __forceinline__ inline
#define __shared__ static

namespace simt {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

constexpr int warp = 32, stack_bytes = 64 * 1024;

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  Index thread;
  bool ended = false;
};

// Those that wait for one another.
struct Group {
  int arrived = 0, size = 0;
  uint64_t round = 0;
  uint64_t slots[warp] = {};
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Group> warps;
  Group all;
  Fiber* current = nullptr;
  ucontext_t scheduler;
  Index block, grid;
  std::function<void()> body;
};
inline Block* block = nullptr;

inline void yield() { swapcontext(&block->current->context, &block->scheduler); }

inline void wait_for(Group& group) {
  const uint64_t round = group.round;
  if (++group.arrived == group.size) {
    group.arrived = 0;
    ++group.round;
    return;
  }
  while (group.round == round) yield();
}

inline void start() {
  block->body();
  block->current->ended = true;
  yield();
}

// Runs `body` as `threads` threads of one block; whole warps.
inline void run(int threads, Index at, Index grid, std::function<void()> body) {
  Block made;
  block = &made;
  made.block = at, made.grid = grid, made.body = std::move(body);
  made.fibers.resize(static_cast<size_t>(threads));
  made.warps.resize(static_cast<size_t>(threads / warp));
  made.all.size = threads;
  for (Group& group : made.warps) group.size = warp;
  for (size_t i = 0; i < made.fibers.size(); ++i) {
    Fiber& fiber = made.fibers[i];
    fiber.thread.x = static_cast<unsigned>(i);
    fiber.stack = std::make_unique<char[]>(stack_bytes);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = stack_bytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, start, 0);
  }
  for (bool some = true; some;) {
    some = false;
    for (Fiber& fiber : made.fibers) {
      if (fiber.ended) continue;
      some = true;
      made.current = &fiber;
      swapcontext(&made.scheduler, &fiber.context);
    }
  }
  block = nullptr;
}

inline Group& own_warp() { return block->warps[block->current->thread.x / warp]; }
inline int lane() { return static_cast<int>(block->current->thread.x % warp); }

// Everybody leaves a value, and may look at all of them until the second wait.
template <class T, class Read>
auto exchange(T value, Read read) {
  static_assert(sizeof(T) <= 8);
  Group& group = own_warp();
  std::memcpy(&group.slots[lane()], &value, sizeof value);
  wait_for(group);
  const auto result = read([&group](int from) {
    T other;
    std::memcpy(&other, &group.slots[from], sizeof other);
    return other;
  });
  wait_for(group);
  return result;
}

}  // namespace simt

#define threadIdx (simt::block->current->thread)
#define blockIdx (simt::block->block)
#define gridDim (simt::block->grid)
#define blockDim (simt::Index{static_cast<unsigned>(simt::block->fibers.size()), 1, 1})

inline void __syncwarp() { simt::wait_for(simt::own_warp()); }
inline void __syncthreads() { simt::wait_for(simt::block->all); }
template <class T>
T __shfl_up_sync(unsigned, T value, int by) {
  return simt::exchange(value, [&](auto at) { return simt::lane() >= by ? at(simt::lane() - by) : value; });
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return simt::exchange(value, [&](auto at) { return at(simt::lane() ^ mask); });
}
template <class T>
T __shfl_sync(unsigned, T value, int from) {
  return simt::exchange(value, [&](auto at) { return at(from); });
}
inline unsigned __ballot_sync(unsigned, bool is) {
  return simt::exchange(is, [](auto at) {
    unsigned all = 0;
    for (int i = 0; i < simt::warp; ++i) all |= static_cast<unsigned>(at(i)) << i;
    return all;
  });
}
template <class T>
T atomicAdd(T* at, T value) {
  const T before = *at;
  *at += value;
  return before;
}
template <class T>
T __ldcg(const T* at) {
  return *at;
}
inline float __expf(float x) { return std::exp(x); }
inline uint32_t __float_as_uint(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
inline float __uint_as_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline int __float_as_int(float x) { return static_cast<int>(__float_as_uint(x)); }
inline float __int_as_float(int x) { return __uint_as_float(static_cast<uint32_t>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline unsigned long long __cvta_generic_to_shared(const void* at) { return reinterpret_cast<unsigned long long>(at); }
