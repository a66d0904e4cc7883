// What a generated kernel is to the runtime: one function that every thread of a team calls with the same arguments. Step, Team and
// Barrier live here, and how a thread finds its share of the work. No vector code, nothing of a model, no thread is started here.
//
// Two sides include this file with different compiler flags: the runtime (baseline x86-64) and the kernels (up to AVX-512). A
// function that both emit out of line is merged by the linker, and the survivor may use instructions that the CPU lacks. So
// members are always inlined, free functions have internal linkage, and atomics are compiler builtins, not std::atomic.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

#define ERN_INLINE [[gnu::always_inline]] inline

namespace ern {

// What changes from step to step; everything else is a constant of the generated code.
struct Step {
  int32_t tokens;        // T, rows of this step
  int32_t sequences;     // S
  int32_t block_stride;  // entries in each row of the block table
};

// More threads than this are never started: workspaces with a slot a thread are sized by it.
constexpr int max_team = 256;

// Where threads of a team meet. Between two meetings it also hands out tickets, so that a kernel can let whoever is free take
// the next piece; the count starts at 0 again in each phase. Waiting spins first, since phases are microseconds apart, then
// sleeps, since the thread that is missing may not have a core. Zeroed memory is a valid barrier.
struct alignas(64) Barrier {
  uint32_t arrived = 0;
  alignas(64) uint32_t tickets = 0;
  alignas(64) uint32_t phase = 0;  // moves on when all have arrived; the word that sleepers wait on
  uint32_t sleepers = 0;
};

namespace {

// Some 50 us: longer than a phase in which a neighbour has a little more to do, shorter than a time slice.
constexpr int barrier_spins = 2000;

inline void cpu_pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Kept out of line: the path on which microseconds no longer matter.
[[gnu::noinline, maybe_unused]] void barrier_sleep(Barrier& barrier, uint32_t phase) {
  __atomic_fetch_add(&barrier.sleepers, 1, __ATOMIC_SEQ_CST);
  // Announced as a sleeper before the kernel compares the word, and the last arrival moves the word before it looks for
  // sleepers: one of the two sees the other, no wake-up is lost.
  while (__atomic_load_n(&barrier.phase, __ATOMIC_ACQUIRE) == phase) {
    syscall(SYS_futex, &barrier.phase, FUTEX_WAIT_PRIVATE, phase, nullptr, nullptr, 0);
  }
  __atomic_fetch_sub(&barrier.sleepers, 1, __ATOMIC_SEQ_CST);
}

[[gnu::noinline, maybe_unused]] void barrier_wake(Barrier& barrier) {
  syscall(SYS_futex, &barrier.phase, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
}

// Returns when `size` threads have called it. What each wrote before is seen by all after.
inline void barrier_wait(Barrier& barrier, int size) {
  const uint32_t phase = __atomic_load_n(&barrier.phase, __ATOMIC_RELAXED);  // can't move until this thread arrives
  if (__atomic_add_fetch(&barrier.arrived, 1, __ATOMIC_ACQ_REL) == static_cast<uint32_t>(size)) {
    // Nobody touches these two before the phase moves.
    __atomic_store_n(&barrier.arrived, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&barrier.tickets, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&barrier.phase, phase + 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&barrier.sleepers, __ATOMIC_SEQ_CST) != 0) barrier_wake(barrier);
    return;
  }
  for (int spin = 0; spin < barrier_spins; ++spin) {
    if (__atomic_load_n(&barrier.phase, __ATOMIC_ACQUIRE) != phase) return;
    cpu_pause();
  }
  barrier_sleep(barrier, phase);
}

}  // namespace

// One thread's view of the team. All threads of a team run every launch.
struct Team {
  int rank;
  int size;
  Barrier* sync;

  // Every thread of the team must call it equally often.
  ERN_INLINE void barrier() { barrier_wait(*sync, size); }

  // 0, 1, 2, ... in the order in which threads ask, from 0 again after each barrier. Who gets which ticket is chance, so what is
  // computed for a ticket must not depend on the thread.
  ERN_INLINE int take() { return static_cast<int>(__atomic_fetch_add(&sync->tickets, 1, __ATOMIC_RELAXED)); }
};

using KernelFn = void (*)(const Step& step, void* const* args, Team& team);

namespace {

struct Range {
  int64_t begin;
  int64_t end;
};

// This thread's part of [0, count): contiguous, in rank order, sizes differ by one at most.
inline Range share(int64_t count, const Team& team) {
  return {count * team.rank / team.size, count * (team.rank + 1) / team.size};
}

// The same in whole multiples of `grain`; the last part ends at count.
inline Range share(int64_t count, int64_t grain, const Team& team) {
  const Range part = share((count + grain - 1) / grain, team);
  const int64_t end = part.end * grain;
  return {part.begin * grain < count ? part.begin * grain : count, end < count ? end : count};
}

}  // namespace
}  // namespace ern
