// How fast the matmul kernels are on this machine, against what its memory and its vector units give in the same run.
//
//   matmul bandwidth             reading 1 GiB with the kernels' own loads: 4 KiB pages, huge pages, a mapped file
//   matmul decode                the products of a decode step of the 0.3B in their order, for 1 to 16 sequences
//   matmul prefill               512 rows, one product at a time, beside the vector units' limit
//   matmul moe                   the routed experts of one layer of 21B-A3B, for 1 to 512 tokens
//
// Options: -t threads (2), -r repetitions (20), -p small|huge pages for `decode` (huge), -n most tokens for `moe`
// (512), -f file to map for `bandwidth` (made if missing).
// Machines that others use give one-sided noise. So what is compared is interleaved, and of each launch the best of all repetitions counts:
// a launch is short enough to meet a quiet moment, a whole step is not. A step's weights are far larger than the caches, so the repetition
// before leaves nothing behind.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "device/cpu/head_argmax.hpp"
#include "device/cpu/linear.hpp"
#include "device/cpu/linear_swiglu.hpp"
#include "device/cpu/moe_ffn.hpp"
#ifdef WITH_ONEDNN
#include "onednn.hpp"
#endif

using namespace ern;
using namespace ern::cpu;

namespace {

double seconds(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

enum class Pages { small, huge };

// Never freed: the process ends soon.
template <class T>
T* allocate(size_t count, Pages pages = Pages::huge) {
  constexpr size_t huge = size_t{2} << 20;
  const size_t bytes = (count * sizeof(T) + huge - 1) / huge * huge;
  void* raw = mmap(nullptr, bytes + huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) {
    std::perror("mmap");
    std::exit(1);
  }
  void* start = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(raw) + huge - 1) / huge * huge);
  madvise(start, bytes, pages == Pages::huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  return static_cast<T*>(start);
}

Bf16* weights(size_t count, Pages pages = Pages::huge) {
  Bf16* out = allocate<Bf16>(count, pages);
  for (size_t i = 0; i < count; ++i) out[i] = Bf16{static_cast<uint16_t>(0x3c00 + (i * 2654435761u >> 20 & 0x80ff))};
  return out;
}

using Launches = std::vector<std::function<void(Team&)>>;

// The least time that each of some launches took.
class Best {
 public:
  void add(const std::vector<double>& times) {
    if (times_.empty()) times_ = times;
    for (size_t i = 0; i < times.size(); ++i) times_[i] = std::min(times_[i], times[i]);
  }
  double total() const {
    double sum = 0;
    for (const double time : times_) sum += time;
    return sum;
  }
  double operator[](size_t i) const { return times_[i]; }

 private:
  std::vector<double> times_;
};

// Threads that stay, as the engine's do. One thread alone is timed by its own CPU time, which others can't lengthen much.
class Crew {
 public:
  explicit Crew(int size) : size_(size) {
    for (int rank = 1; rank < size; ++rank) threads_.emplace_back([this, rank] { serve(rank); });
  }
  ~Crew() {
    stop_ = true;
    gate_wait(0);
    for (std::thread& thread : threads_) thread.join();
  }
  int size() const { return size_; }
  // Runs launches with a barrier after each; gives the seconds of each with its barrier.
  std::vector<double> run(const Launches& launches) {
    launches_ = &launches;
    times_.assign(launches.size(), 0.0);
    gate_wait(0);
    work(0);
    return times_;
  }

 private:
  void gate_wait(int rank) {
    Team team{rank, size_, &gate_};
    team.barrier();
  }
  void serve(int rank) {
    for (;;) {
      gate_wait(rank);
      if (stop_) return;
      work(rank);
    }
  }
  void work(int rank) {
    Team team{rank, size_, &sync_};
    const Launches& launches = *launches_;  // thread 0 may be at the next run while others leave this one
    const clockid_t clock = size_ == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
    double last = seconds(clock);
    for (size_t i = 0; i < launches.size(); ++i) {
      launches[i](team);
      team.barrier();
      if (rank != 0) continue;
      const double now = seconds(clock);
      times_[i] = now - last;
      last = now;
    }
  }
  int size_;
  bool stop_ = false;
  Barrier gate_, sync_;
  const Launches* launches_ = nullptr;
  std::vector<double> times_;
  std::vector<std::thread> threads_;
};

volatile float sink;

// Reads [p, p + bytes) with four registers in flight; the data itself does not matter.
void read_all(const char* p, size_t bytes) {
  F32 a = zero(), b = zero(), c = zero(), d = zero();
  constexpr size_t step = lanes * sizeof(float);
  for (size_t i = 0; i + 4 * step <= bytes; i += 4 * step) {
    a = a + load(reinterpret_cast<const float*>(p + i));
    b = b + load(reinterpret_cast<const float*>(p + i + step));
    c = c + load(reinterpret_cast<const float*>(p + i + 2 * step));
    d = d + load(reinterpret_cast<const float*>(p + i + 3 * step));
  }
  sink = sum((a + b) + (c + d));
}

// Reads pieces of the given sizes one after the other, a launch each.
Launches reading(const void* p, const std::vector<size_t>& pieces) {
  Launches out;
  const char* at = static_cast<const char*>(p);
  for (const size_t bytes : pieces) {
    out.push_back([=](Team& team) {
      const Range part = share(static_cast<int64_t>(bytes), 4096, team);
      read_all(at + part.begin, part.end - part.begin);
    });
    at += bytes;
  }
  return out;
}

struct Options {
  int threads = 2;
  int repetitions = 20;
  int tokens = 512;
  Pages pages = Pages::huge;
  std::string file;
};

void bandwidth(const Options& options) {
  const size_t bytes = size_t{1} << 30;
  char* huge = allocate<char>(bytes);
  char* small = allocate<char>(bytes, Pages::small);
  std::memset(huge, 0, bytes);
  std::memset(small, 0, bytes);
  const char* mapped = nullptr;
  if (!options.file.empty()) {
    const int fd = open(options.file.c_str(), O_RDWR | O_CREAT, 0600);
    if (fd < 0) return std::perror(options.file.c_str());
    for (size_t at = lseek(fd, 0, SEEK_END); at < bytes; at += 1 << 24) {
      if (pwrite(fd, small, 1 << 24, at) < 0) return std::perror("write");
    }
    mapped = static_cast<const char*>(mmap(nullptr, bytes, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0));
  }
  for (int threads = 1; threads <= options.threads; ++threads) {
    Crew crew(threads);
    const std::vector<size_t> pieces(64, bytes / 64);
    Best best[3];
    for (int r = 0; r < options.repetitions; ++r) {
      best[0].add(crew.run(reading(small, pieces)));
      best[1].add(crew.run(reading(huge, pieces)));
      if (mapped) best[2].add(crew.run(reading(mapped, pieces)));
    }
    std::printf("%d threads: %.1f GB/s in 4 KiB pages, %.1f in huge pages", threads, bytes / best[0].total() * 1e-9,
                bytes / best[1].total() * 1e-9);
    if (mapped) std::printf(", %.1f from a mapped file", bytes / best[2].total() * 1e-9);
    std::printf("\n");
  }
}

// Another tiling to try, e.g. -DKNOBS=.k_block=128
#ifndef KNOBS
#define KNOBS
#endif
constexpr Tiling tiling{KNOBS};

// One layer's products and the head, for MaxRows sequences.
template <int MaxRows>
Launches decode_step(const Bf16* w, int layers) {
  static Bf16* x = weights(MaxRows * 4096);
  static float* y = allocate<float>(MaxRows * 103424);
  static Bf16* z = allocate<Bf16>(MaxRows * 4096);
  static int32_t* ids = allocate<int32_t>(MaxRows);
  static char* workspace = allocate<char>(head_argmax_workspace(MaxRows));
  const float* none = nullptr;
  Launches out;
  const auto product = [&]<int N, int K, int Residual>(std::integer_sequence<int, N, K, Residual>) {
    constexpr Linear problem{.n = N, .k = K, .residual = Residual != 0, .max_rows = MaxRows, .tiling = tiling};
    out.push_back([=](Team& team) { linear<problem>(MaxRows, x, w, none, y, y, team); });
    w += size_t{N} * K;
  };
  constexpr LinearSwiglu ffn{.m = 3072, .k = 1024, .group = 32, .max_rows = MaxRows, .tiling = tiling};
  constexpr HeadArgmax head{.n = 103424, .k = 1024, .max_rows = MaxRows, .tiling = tiling};
  for (int layer = 0; layer < layers; ++layer) {
    product(std::integer_sequence<int, 2560, 1024, 0>{});
    product(std::integer_sequence<int, 1024, 2048, 1>{});
    out.push_back([=](Team& team) { linear_swiglu<ffn>(MaxRows, x, w, none, z, team); });
    w += size_t{2} * ffn.m * ffn.k;
    product(std::integer_sequence<int, 1024, 3072, 1>{});
  }
  out.push_back([=](Team& team) { head_argmax<head>(MaxRows, x, w, none, y, ids, workspace, team); });
  return out;
}

void decode(const Options& options) {
  constexpr int layers = 18;
  const std::vector<size_t> layer_bytes = {2560 * 1024 * 2, 1024 * 2048 * 2, 6144 * 1024 * 2, 1024 * 3072 * 2};
  std::vector<size_t> bytes;
  for (int layer = 0; layer < layers; ++layer) bytes.insert(bytes.end(), layer_bytes.begin(), layer_bytes.end());
  bytes.push_back(size_t{103424} * 1024 * 2);
  size_t total = 0;
  for (const size_t b : bytes) total += b;
  const Bf16* w = weights(total / 2, options.pages);
  Crew crew(options.threads);
  const size_t cut = size_t{1} << 22;
  const Launches steps[] = {decode_step<1>(w, layers), decode_step<2>(w, layers), decode_step<4>(w, layers), decode_step<8>(w, layers),
                            decode_step<16>(w, layers)};
  const Launches stream = reading(w, std::vector<size_t>(total / cut, cut)), same = reading(w, bytes);
  Best best[5], read, read_same;
  for (int r = 0; r < options.repetitions; ++r) {
    read.add(crew.run(stream));
    read_same.add(crew.run(same));
    for (int i = 0; i < 5; ++i) best[i].add(crew.run(steps[i]));
  }
  const double read_time = read.total() * total / (total / cut * cut);
  std::printf("%s pages, %d threads: reading %.1f GB/s, in the launches' pieces %.3f of it\n", options.pages == Pages::huge ? "huge" : "4 KiB",
              options.threads, total / read_time * 1e-9, read_time / read_same.total());
  for (int i = 0; i < 5; ++i) {
    std::printf("  %2d rows %6.2f ms, %.3f of reading; ", 1 << i, best[i].total() * 1e3, read_time / best[i].total());
    const char* names[] = {"qkv", "o", "gate_up", "down"};
    for (int j = 0; j < 4; ++j) {
      double sum = 0, sum_read = 0;
      for (int layer = 0; layer < layers; ++layer) sum += best[i][layer * 4 + j], sum_read += read_same[layer * 4 + j];
      std::printf("%s %.3f ", names[j], sum_read / sum);
    }
    std::printf("head %.3f of the same reads; tokens %.2f\n", read_same[layers * 4] / best[i][layers * 4],
                (1 << i) * best[0].total() / best[i].total());
  }
}

// FLOP/s that the product's inner instruction reaches with nothing to load.
double vector_limit() {
  F32 acc[16];
  for (F32& a : acc) a = zero();
  const Pairs one = splat_pair(Bf16{0x3f80}, Bf16{0x3f80});
  constexpr int rounds = 2'000'000;
  const double start = seconds(CLOCK_THREAD_CPUTIME_ID);
  for (int i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) acc[j] = dot_pairs(acc[j], one, one);
  }
  const double time = seconds(CLOCK_THREAD_CPUTIME_ID) - start;
  F32 total = zero();
  for (const F32& a : acc) total = total + a;
  sink = sum(total);
  return 16.0 * rounds * lanes * 4 / time;
}

template <int N, int K>
void prefill_shape(Crew& crew, int repetitions) {
  constexpr int rows = 512;
  static const Bf16* x = weights(rows * K);
  static const Bf16* w = weights(size_t{N} * K);
  static float* y = allocate<float>(rows * N);
  const float* none = nullptr;
  const Launches ours = {[=](Team& t) { linear<Linear{.n = N, .k = K, .tiling = tiling}>(rows, x, w, none, none, y, t); }};
  Best best;
  constexpr double flops = 2.0 * rows * N * K;
#ifdef WITH_ONEDNN
  // In turns, so that both meet the same weather. Its own threads: OMP_NUM_THREADS.
  OneDnnMatmul peer(rows, N, K);
  double peer_best = 1e9;
  const clockid_t clock = crew.size() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
  for (int r = 0; r < repetitions; ++r) {
    best.add(crew.run(ours));
    const double start = seconds(clock);
    peer.run();
    peer_best = std::min(peer_best, seconds(clock) - start);
  }
  std::printf("  512 x %d x %d: %.0f GFLOP/s a thread, oneDNN %.0f, ratio %.3f\n", N, K, flops / best.total() * 1e-9 / crew.size(),
              flops / peer_best * 1e-9 / crew.size(), peer_best / best.total());
#else
  for (int r = 0; r < repetitions; ++r) best.add(crew.run(ours));
  std::printf("  512 x %d x %d: %.0f GFLOP/s a thread\n", N, K, flops / best.total() * 1e-9 / crew.size());
#endif
}

void prefill(const Options& options) {
  double limit = 0;
  for (int r = 0; r < options.repetitions; ++r) limit = std::max(limit, vector_limit());
  std::printf("vector units: %.0f GFLOP/s a thread\n", limit * 1e-9);
  Crew crew(options.threads);
  prefill_shape<2560, 1024>(crew, options.repetitions);
  prefill_shape<1024, 2048>(crew, options.repetitions);
  prefill_shape<6144, 1024>(crew, options.repetitions);
  prefill_shape<1024, 3072>(crew, options.repetitions);
}

template <int Tokens>
void moe_tokens(Crew& crew, const Options& options, const Bf16* gate_up, const Bf16* down) {
  if (Tokens > options.tokens) return;
  constexpr MoeFfn problem{.hidden = 2560, .m = 1536, .experts = 64, .chosen = 6, .group = 32, .max_rows = Tokens, .tiling = tiling};
  constexpr size_t gate_up_size = size_t{2 * 1536} * 2560, down_size = size_t{2560} * 1536;
  Bf16* x = weights(size_t{Tokens} * 2560);
  float* out = allocate<float>(size_t{Tokens} * 2560);
  char* workspace = allocate<char>(moe_ffn_workspace<problem, Bf16>(Tokens));
  int32_t* indices = allocate<int32_t>(Tokens * 6);
  float* share_of = allocate<float>(Tokens * 6);
  Best best, read;
  size_t used = 0;
  uint32_t seed = 1;
  for (int r = 0; r < options.repetitions; ++r) {
    // Other experts each time, so none is in a cache; how many are used varies with more than one token, so the first draw stays for those.
    if (r == 0 || Tokens == 1) {
      for (int t = 0; t < Tokens; ++t) {
        for (int j = 0; j < 6; ++j) {
          seed = seed * 1664525 + 1013904223;
          indices[t * 6 + j] = static_cast<int32_t>((seed >> 16) % 10 + j * 10 + (j == 5 ? (seed >> 8) % 4 : 0));
          share_of[t * 6 + j] = 1.0f / 6;
        }
      }
    }
    std::vector<bool> seen(64);
    for (int i = 0; i < Tokens * 6; ++i) seen[indices[i]] = true;
    Launches reads;
    used = 0;
    for (int e = 0; e < 64; ++e) {
      if (!seen[e]) continue;
      ++used;
      for (const auto& launch : reading(gate_up + e * gate_up_size, {gate_up_size * 2})) reads.push_back(launch);
      for (const auto& launch : reading(down + e * down_size, {down_size * 2})) reads.push_back(launch);
    }
    read.add(crew.run(reads));
    best.add(crew.run({[=](Team& team) {
      moe_ffn<problem>(Tokens, x, indices, share_of, gate_up, down, static_cast<const float*>(nullptr), out, workspace, team);
    }}));
  }
  const double bytes = used * (gate_up_size + down_size) * 2.0, flops = 2.0 * Tokens * 6 * (gate_up_size + down_size);
  std::printf("  %3d tokens, %2zu experts in use: %7.2f ms, %.3f of reading (%.1f GB/s), %.0f GFLOP/s a thread\n", Tokens, used,
              best.total() * 1e3, read.total() / best.total(), bytes / read.total() * 1e-9, flops / best.total() * 1e-9 / crew.size());
}

void moe(const Options& options) {
  const size_t gate_up_count = size_t{64} * 2 * 1536 * 2560, down_count = size_t{64} * 2560 * 1536;
  Bf16* gate_up = allocate<Bf16>(gate_up_count, options.pages);
  Bf16* down = allocate<Bf16>(down_count, options.pages);
  std::memset(gate_up, 0x3c, gate_up_count * 2);
  std::memset(down, 0x3c, down_count * 2);
  Crew crew(options.threads);
  std::printf("%d threads\n", crew.size());
  moe_tokens<1>(crew, options, gate_up, down);
  moe_tokens<4>(crew, options, gate_up, down);
  moe_tokens<16>(crew, options, gate_up, down);
  moe_tokens<128>(crew, options, gate_up, down);
  moe_tokens<512>(crew, options, gate_up, down);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  const std::string mode = argc > 1 ? argv[1] : "";
  for (int i = 2; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "-t") options.threads = std::max(1, std::atoi(argv[i + 1]));
    if (flag == "-r") options.repetitions = std::max(1, std::atoi(argv[i + 1]));
    if (flag == "-p") options.pages = argv[i + 1] == std::string("small") ? Pages::small : Pages::huge;
    if (flag == "-n") options.tokens = std::atoi(argv[i + 1]);
    if (flag == "-f") options.file = argv[i + 1];
  }
  if (mode == "bandwidth") return bandwidth(options), 0;
  if (mode == "decode") return decode(options), 0;
  if (mode == "prefill") return prefill(options), 0;
  if (mode == "moe") return moe(options), 0;
  std::fprintf(stderr, "usage: matmul bandwidth|decode|prefill|moe [-p small|huge] [-n tokens] [-t threads] [-r repetitions] [-f file]\n");
  return 2;
}
