// Bulk copies from device memory into shared memory by tensor maps, and the barriers that count their bytes. sm_90 and later.
//
// A full barrier completes a phase when its one arrival (arrive_expecting) came and that many bytes have landed; an empty barrier when every consumer
// has arrived. Waiting names the phase's parity: a barrier that was never used counts as having completed the phase of parity 1.
#pragma once

#include "kernel.cuh"

// An opaque 128 bytes, made by the host (cuTensorMapEncodeTiled): declared here as the driver's header does, which kernels do not need otherwise.
struct alignas(64) ErnTensorMap {
  uint64_t opaque[16];
};

namespace ern::cuda {

using TensorMap = ::ErnTensorMap;

struct alignas(8) Barrier {
  uint64_t word;

  ERN_DEVICE void init(int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(this)), "r"(arrivals) : "memory");
  }
  ERN_DEVICE void arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(this)) : "memory");
  }
  // At the same barrier of another block of the cluster. Orders what this block's threads see, which is enough to hand back a buffer that was only read; a
  // release at cluster scope would flush all stores each time.
  ERN_DEVICE void arrive_at(int block) {
    asm volatile(
        "{\n.reg .b32 there;\n"
        "mapa.shared::cluster.u32 there, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [there];\n}\n" ::"r"(shared_address(this)),
        "r"(block)
        : "memory");
  }
  ERN_DEVICE void arrive_expecting(int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(this)), "r"(bytes) : "memory");
  }
  ERN_DEVICE void wait(int parity) {
    asm volatile(
        "{\n.reg .pred p;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
        "@!p bra again;\n}\n" ::"r"(shared_address(this)),
        "r"(parity)
        : "memory");
  }
};

// After init by one thread and before the block's barrier: makes the barriers known to the copy engine.
ERN_DEVICE void fence_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

ERN_DEVICE void prefetch_map(const TensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// The box of `map` that begins at element `inner` of row `outer`; what lies outside the tensor comes as zeros. `to` is aligned to 128 bytes, to 1024 with
// 128-byte swizzle. One thread calls it; the bytes count at `full`.
ERN_DEVICE void copy_tile(void* to, const TensorMap* map, int inner, int outer, Barrier& full) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(shared_address(to)),
               "l"(map), "r"(inner), "r"(outer), "r"(shared_address(&full))
               : "memory");
}

// The same of a tensor of three axes.
ERN_DEVICE void copy_tile(void* to, const TensorMap* map, int inner, int middle, int outer, Barrier& full) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(shared_address(to)),
               "l"(map), "r"(inner), "r"(middle), "r"(outer), "r"(shared_address(&full))
               : "memory");
}

// The same of a tensor of five axes.
ERN_DEVICE void copy_tile(void* to, const TensorMap* map, int inner, int second, int third, int fourth, int outer, Barrier& full) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5, %6}], [%7];" ::"r"(shared_address(to)),
      "l"(map), "r"(inner), "r"(second), "r"(third), "r"(fourth), "r"(outer), "r"(shared_address(&full))
      : "memory");
}

// The same into every block of the cluster that `blocks` has a bit for, at the same place, counted by each one's barrier there.
ERN_DEVICE void copy_tile_to(uint16_t blocks, void* to, const TensorMap* map, int inner, int outer, Barrier& full) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(
          shared_address(to)),
      "l"(map), "r"(inner), "r"(outer), "r"(shared_address(&full)), "h"(blocks)
      : "memory");
}

ERN_DEVICE int cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}
// All threads of all blocks of the cluster.
ERN_DEVICE void cluster_sync() {
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

// Place and phase in a ring of `stages` buffers.
template <int stages>
struct Ring {
  int stage = 0;
  int parity = 0;

  ERN_DEVICE void next() {
    if (++stage == stages) stage = 0, parity ^= 1;
  }
  ERN_DEVICE void skip(int count) {
    stage += count;
    parity ^= (stage / stages) & 1;
    stage %= stages;
  }
};

}  // namespace ern::cuda
