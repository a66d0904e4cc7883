// Data that blocks of one launch hand to one another through L2, and that says itself whether it is there: who needs it polls it. Where an edge by
// flags costs a store, a fence, a flag and two reads, this costs a store and a read.
//
// How it lies decides what it costs (bench/NOTES-cuda-persistent.md): a line that many blocks write while many poll it takes 300 clocks for
// each writer, so what one block publishes has a line of its own.
// All accesses are relaxed: nothing else is ordered by them, and a word is right when it is there.
#pragma once

#include "kernel.cuh"

namespace ern::cuda {

// A word of the exchange is `absent` until it is written, and written once a step. A step uses one of two sets and clears the other for the step that
// follows; the end of a launch orders the two. What is published is never this word: of two zeros the publisher makes two negative ones, which
// products and sums take for the same.
constexpr uint32_t absent = 0;
ERN_DEVICE uint32_t present(uint32_t pair) { return pair == absent ? 0x80008000u : pair; }
ERN_DEVICE uint32_t present(float value) { return value == 0 ? 0x80000000u : __float_as_uint(value); }

ERN_DEVICE uint4 load_relaxed4(const uint32_t* at) {
  uint4 v;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(at) : "memory");
  return v;
}
ERN_DEVICE uint2 load_relaxed2(const uint32_t* at) {
  uint2 v;
  asm volatile("ld.relaxed.gpu.global.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(at) : "memory");
  return v;
}
ERN_DEVICE uint32_t load_relaxed(const uint32_t* at) {
  uint32_t v;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(at) : "memory");
  return v;
}
ERN_DEVICE void store_relaxed(uint32_t* at, uint32_t v) { asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(at), "r"(v) : "memory"); }

// Two values, each with a tag that is its own for each use in one access of 8 bytes: for what is too large to have a place a layer.
ERN_DEVICE void store_tagged(uint64_t* at, float a, float b, uint32_t tag) {
  const uint64_t high = static_cast<uint64_t>(tag) << 32;
  asm volatile("st.relaxed.gpu.global.v2.u64 [%0], {%1, %2};" ::"l"(at), "l"(high | __float_as_uint(a)), "l"(high | __float_as_uint(b)) : "memory");
}
struct TaggedPair {
  float value[2];
  bool there;
};
ERN_DEVICE TaggedPair load_tagged(const uint64_t* at, uint32_t tag) {
  uint64_t a, b;
  asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];" : "=l"(a), "=l"(b) : "l"(at) : "memory");
  return {{__uint_as_float(static_cast<uint32_t>(a)), __uint_as_float(static_cast<uint32_t>(b))}, (a >> 32) == tag && (b >> 32) == tag};
}

// Whether any of them is absent shows in the least.
ERN_DEVICE uint32_t least(const uint4& v) { return min(min(v.x, v.y), min(v.z, v.w)); }
constexpr uint32_t all_there = 0xffffffff;

}  // namespace ern::cuda
