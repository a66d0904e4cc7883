// Blocks of a cluster, which read and write one another's shared memory (sm_90). For a cluster of one block all of it is right, and barriers are those of the block.
#pragma once

#include "kernel.cuh"

namespace ern::cuda {

template <int Cluster>
ERN_DEVICE void cluster_barrier() {
#if __CUDA_ARCH__ >= 900
  if constexpr (Cluster > 1) {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
    return;
  }
#endif
  __syncthreads();
}

// Where block `rank` of the cluster has what this one has at `at`.
ERN_DEVICE uint32_t address_in_rank(const void* at, int rank) {
  uint32_t there = 0;
#if __CUDA_ARCH__ >= 900
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(at)), "r"(rank));
#endif
  return there;
}

// *at in block `rank` of the cluster.
template <int Cluster, class T>
ERN_DEVICE T load_from_rank(const T* at, int rank) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
#if __CUDA_ARCH__ >= 900
  if constexpr (Cluster > 1) {
    T value;
    if constexpr (sizeof(T) == 8) {
      uint64_t bits;
      asm volatile("ld.shared::cluster.u64 %0, [%1];" : "=l"(bits) : "r"(address_in_rank(at, rank)));
      memcpy(&value, &bits, sizeof value);
    } else {
      uint32_t bits;
      asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(bits) : "r"(address_in_rank(at, rank)));
      memcpy(&value, &bits, sizeof value);
    }
    return value;
  }
#endif
  return *at;
}

template <int Cluster>
ERN_DEVICE void add_to_rank(uint64_t* at, int rank, uint64_t value) {
#if __CUDA_ARCH__ >= 900
  if constexpr (Cluster > 1) {
    asm volatile("red.relaxed.cluster.shared::cluster.add.u64 [%0], %1;" ::"r"(address_in_rank(at, rank)), "l"(value) : "memory");
    return;
  }
#endif
  atomicAdd(reinterpret_cast<unsigned long long*>(at), static_cast<unsigned long long>(value));
}

}  // namespace ern::cuda
