// What it costs that 128 blocks, one a multiprocessor, each publish 16 bytes and a number and all read all of it by polling: one edge of a persistent step, without its
// products. Ways to lay it out and to poll, with and without weights streaming beside. usage: exchange
#include "../../runtime/device/cuda/tma.cuh"
#include "harness.cuh"

using namespace ern::cuda;
using namespace bench;

namespace {

constexpr int blocks = 128, warps = 8, rounds = 64, stages = 16, most_bytes = 131072;
constexpr uint32_t absent = 0xffffffff;

struct Way {
  int stride;    // bytes from one block's words to the next's
  int copies;    // of everything; block b reads copy b % copies
  int pollers;   // warps of a block that poll: 8, each its part, or 1, for all
  bool apart;    // the number is in a place of its own, packed, polled by three more warps
  int sleep;     // ns between polls
  int split;     // stores of a block's 16 bytes: 4 of 4 bytes by 4 lanes of one warp, or 1
  bool first;    // one load of a warp until it is there, then the others
};

__device__ uint4 load4(const uint32_t* at) {
  uint4 v;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(at) : "memory");
  return v;
}
__device__ void store4(uint32_t* at, uint32_t v) { asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %1, %1, %1};" ::"l"(at), "r"(v) : "memory"); }
__device__ void store1(uint32_t* at, uint32_t v) { asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(at), "r"(v) : "memory"); }
__device__ bool missing(const uint4& v) { return max(max(v.x, v.y), max(v.z, v.w)) == absent; }

template <class W>
__global__ void __launch_bounds__((warps + 4) * 32, 1) edges(uint32_t* data, uint32_t* numbers, const char* weights, int64_t weight_bytes, int window, int stage_bytes, long long* clocks, unsigned* wrong) {
  constexpr Way way = W::value;
  constexpr int64_t words = way.stride / 4, copy_words = words * blocks, round_words = copy_words * way.copies;
  extern __shared__ __align__(128) unsigned char ring[];
  __shared__ Barrier full[stages], ready[2], done;
  __shared__ volatile bool stop;
  const int lane = lane_id(), warp = warp_id(), block = blockIdx.x;
  if (threadIdx.x == 0) {
    for (auto& b : full) b.init(1);
    ready[0].init(way.pollers), ready[1].init(way.pollers), done.init(1), stop = false;
    fence_barriers();
  }
  __syncthreads();
  if (warp == warps + 3) {  // weights, as fast as they come
    if (lane == 0 && window > 0) {
      int64_t at = int64_t(block) * stage_bytes;
      const auto copy = [&](int s) {
        full[s].arrive_expecting(stage_bytes);
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(shared_address(ring) + s * stage_bytes), "l"(weights + at), "r"(stage_bytes),
                     "r"(shared_address(&full[s])), "l"(evict_first)
                     : "memory");
        at = (at + int64_t(blocks) * stage_bytes) % weight_bytes;
      };
      for (int s = 0; s < window; ++s) copy(s);
      int64_t copied = 0;
      for (int i = 0;; ++i) {
        full[i % window].wait(i / window & 1), copied += stage_bytes;
        if (stop) {
          for (int j = i + 1; j < i + window; ++j) full[j % window].wait(j / window & 1);
          break;
        }
        copy(i % window);
      }
      clocks[blocks + block] = copied;
    }
    return;
  }
  const auto publish = [&](int round) {  // by one warp
    const uint32_t v = round * 131 + block;
    for (int c = 0; c < way.copies; c += 32) {
      if constexpr (W::value.copies == 1) {
        uint32_t* const to = data + round * round_words + block * words;
        if (way.split == 4 ? lane < 4 : lane == 0) {
          if constexpr (W::value.split == 4) store1(to + lane, v);
          else store4(to, v);
        }
        if (!way.apart && lane == 4) store1(to + 4, v);
      } else if (c + lane < way.copies) {
        uint32_t* const to = data + round * round_words + (c + lane) * copy_words + block * words;
        store4(to, v);
        if (!way.apart) store1(to + 4, v);
      }
    }
    if (way.apart && lane == 0) store1(numbers + round * blocks + block, v);
  };
  const long long begin = clock64();
  if (warp < way.pollers) {
    constexpr int each = blocks / way.pollers, loads = (each + 31) / 32;  // blocks of a lane
    for (int round = 0; round < rounds; ++round) {
      if (round == 0 && warp == 0) publish(0);
      const uint32_t* const from = data + round * round_words + block % way.copies * copy_words + (warp * each) * words;
      uint4 v[loads], n[loads];
      if constexpr (W::value.first) {
        while (true) {
          uint4 x{0, 0, 0, 0};
          if (lane < 4) x = load4(from + (each - 1 - lane) * words);
          if (!__any_sync(~0u, missing(x))) break;
        }
      }
      while (true) {
        bool again = false;
#pragma unroll
        for (int i = 0; i < loads; ++i) {
          v[i] = n[i] = {0, 0, 0, 0};
          if (each >= 32 || lane < each) {
            v[i] = load4(from + (i * 32 + lane) * words);
            if (!way.apart) n[i] = load4(from + (i * 32 + lane) * words + 4);
          }
        }
#pragma unroll
        for (int i = 0; i < loads; ++i) again |= missing(v[i]) || n[i].x == absent;
        if (!__any_sync(~0u, again)) break;
        if (way.sleep) __nanosleep(way.sleep);
      }
#pragma unroll
      for (int i = 0; i < loads; ++i) {
        if ((each >= 32 || lane < each) && v[i].w != round * 131 + warp * each + i * 32 + lane) atomicAdd(wrong, 1);
      }
      __syncwarp();
      if (lane == 0) ready[round & 1].arrive();
    }
  } else if (warp >= warps && warp < warps + 3) {
    for (int round = 0; round < rounds; ++round) {
      if (way.apart) {
        while (true) {
          const uint4 v = load4(numbers + round * blocks + lane * 4);
          if (!__any_sync(~0u, missing(v))) break;
        }
      }
      ready[round & 1].wait(round >> 1 & 1);
      if (warp == warps && round + 1 < rounds) publish(round + 1);
    }
    if (warp == warps && lane == 0) stop = true, clocks[block] = clock64() - begin;
  }
}

double clock_ghz = 1.755;

template <class W>
void time_way(const char* name) {
  constexpr Way way = W::value;
  Buffer<uint32_t> data(size_t(way.stride) / 4 * blocks * way.copies * rounds + 64), numbers(blocks * rounds);
  static char* weights = nullptr;
  const int64_t weight_bytes = int64_t{1} << 30;
  if (!weights) CK(cudaMalloc(&weights, weight_bytes));
  Buffer<long long> clocks(2 * blocks);
  Buffer<unsigned> wrong(1);
  wrong.upload();
  CK(cudaFuncSetAttribute(edges<W>, cudaFuncAttributeMaxDynamicSharedMemorySize, most_bytes));
  std::printf("%-44s", name);
  const struct { int window, bytes; } streams[] = {{0, 16384}, {1, 16384}, {4, 4096}, {2, 12288}, {2, 16384}, {4, 8192}, {8, 4096}, {3, 16384}, {4, 16384}, {8, 16384}};
  for (const auto& stream : streams) {
    std::vector<std::pair<double, double>> all;
    for (int i = 0; i < 5; ++i) {
      data.poison(), numbers.poison();
      int window = stream.window, bytes = stream.bytes;
      void* args[] = {&data.device, &numbers.device, &weights, (void*)&weight_bytes, &window, &bytes, &clocks.device, &wrong.device};
      CK(cudaLaunchCooperativeKernel((void*)edges<W>, dim3(blocks), dim3((warps + 4) * 32), args, most_bytes, 0));
      CK(cudaDeviceSynchronize());
      clocks.download();
      double copied = 0;
      if (window) for (int b = 0; b < blocks; ++b) copied += clocks.host[blocks + b];
      all.push_back({double(clocks.host[0]) / rounds, copied / clocks.host[0] * clock_ghz / 1e3});
    }
    std::sort(all.begin(), all.end());
    std::printf(" | %5.0f %4.2f", all[2].first, all[2].second);
  }
  wrong.download();
  std::printf("%s\n", wrong.host[0] ? "  WRONG" : "");
}

template <int stride, int copies, int pollers, bool apart, int sleep, int split, bool first>
struct As { static constexpr Way value{stride, copies, pollers, apart, sleep, split, first}; };
#define WAY(name, ...) time_way<As<__VA_ARGS__>>(name);

}  // namespace

int main() {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  int khz = 0;
  CK(cudaDeviceGetAttribute(&khz, cudaDevAttrClockRate, 0));
  clock_ghz = khz / 1e6;
  std::printf("clocks an edge and TB/s beside it (at %.3f GHz), with so many KiB of copies under way: 0 | 1x16 | 4x4 | 2x12 | 2x16 | 4x8 | 8x4 | 3x16 | 4x16 | 8x16\n", clock_ghz);
  //                                              stride copies pollers apart sleep split first
  WAY("packed, number apart, 4 stores",           16, 1, 8, true, 0, 4, false)
  WAY("32 bytes",                                 32, 1, 8, false, 0, 1, false)
  WAY("32 bytes, one load first",                 32, 1, 8, false, 0, 1, true)
  WAY("32 bytes, 4 copies",                       32, 4, 8, false, 0, 1, false)
  WAY("32 bytes, 8 copies",                       32, 8, 8, false, 0, 1, false)
  WAY("32 bytes, 8 copies, one load first",       32, 8, 8, false, 0, 1, true)
  WAY("128 bytes, one load first",                128, 1, 8, false, 0, 1, true)
  WAY("256 bytes",                                256, 1, 8, false, 0, 1, false)
  WAY("256 bytes, one load first",                256, 1, 8, false, 0, 1, true)
  WAY("512 bytes, one load first",                512, 1, 8, false, 0, 1, true)
  WAY("256 bytes, 2 copies",                      256, 2, 8, false, 0, 1, false)
  WAY("256 bytes, 4 copies",                      256, 4, 8, false, 0, 1, false)
  WAY("256 bytes, 4 copies, one load first",      256, 4, 8, false, 0, 1, true)
  WAY("128 bytes, 4 copies, one load first",      128, 4, 8, false, 0, 1, true)
  WAY("128 bytes, 8 copies, one load first",      128, 8, 8, false, 0, 1, true)
  WAY("256 bytes, sleep 100",                     256, 1, 8, false, 100, 1, false)
  WAY("256 bytes, 4 copies, one polling warp",    256, 4, 1, false, 0, 1, false)
  return 0;
}
