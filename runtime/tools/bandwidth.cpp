// Measures how fast this machine reads memory: each thread sums its own part of a buffer far larger than the caches, in huge pages where the
// kernel gives them. Prints bytes per second of the best of `repeats` passes, which is what decoding is held against.
//
//   bandwidth <threads> [MiB] [repeats]

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

namespace {

typedef uint64_t Vector __attribute__((vector_size(64)));

// Four independent sums hide the latency of the adds; the loads are what is timed.
uint64_t sum(const char* data, size_t bytes) {
  Vector s[4] = {};
  const auto* p = reinterpret_cast<const Vector*>(data);
  for (size_t i = 0; i + 4 <= bytes / sizeof(Vector); i += 4)
    for (int j = 0; j < 4; j++) s[j] += p[i + j];
  const Vector total = (s[0] + s[1]) + (s[2] + s[3]);
  uint64_t result = 0;
  for (int j = 0; j < 8; j++) result += total[j];
  return result;
}

// All threads start a pass together; the slowest ends it.
double pass(const char* data, size_t bytes, int threads, std::atomic<uint64_t>& sink) {
  std::atomic<int> ready{0};
  std::atomic<bool> go{false};
  std::vector<std::thread> team;
  for (int t = 0; t < threads; t++)
    team.emplace_back([&, t] {
      ready++;
      while (!go.load(std::memory_order_acquire)) {
      }
      const size_t part = bytes / threads / 4096 * 4096;
      sink += sum(data + t * part, part);
    });
  while (ready.load() < threads) {
  }
  const auto start = std::chrono::steady_clock::now();
  go.store(true, std::memory_order_release);
  for (auto& thread : team) thread.join();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  const size_t mib = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 768;
  const int repeats = argc > 3 ? std::atoi(argv[3]) : 5;
  if (threads < 1 || threads > 1024 || mib < 1 || mib > (1u << 20) || repeats < 1) {
    std::fprintf(stderr, "usage: bandwidth <threads> [MiB] [repeats]\n");
    return 2;
  }
  const size_t bytes = mib << 20;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    std::fprintf(stderr, "no memory for a buffer of %zu MiB\n", mib);
    return 1;
  }
  madvise(memory, bytes, MADV_HUGEPAGE);
  std::memset(memory, 1, bytes);
  std::atomic<uint64_t> sink{0};
  double best = 1e9;
  for (int i = 0; i < repeats; i++) best = std::min(best, pass(static_cast<const char*>(memory), bytes, threads, sink));
  std::printf("{\"bytesPerSecond\": %.0f, \"threads\": %d, \"bytes\": %zu, \"check\": %llu}\n", static_cast<double>(bytes) / best, threads, bytes,
              static_cast<unsigned long long>(sink.load()));
}
