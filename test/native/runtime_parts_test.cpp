// Small parts of the runtime, each by itself: the thread pool, the check of the CPU, made-up weights, memory.
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "check.hpp"
#include "control_groups.hpp"
#include "cpu_check.hpp"
#include "memory.hpp"
#include "plan.hpp"
#include "synthetic.hpp"
#include "team_choice.hpp"
#include "threads.hpp"

using namespace ern;

namespace {

// Every thread runs every job once, meets the others, and sees what they wrote; also when there are more threads than
// cores, and after rests in which the workers fell asleep.
void threads() {
  for (const int size : {1, 2, 3, 9}) {
    auto made = ThreadPool::create(size);
    CHECK(made.ok());
    ThreadPool& pool = *made.value();
    std::vector<int64_t> values(static_cast<size_t>(size));
    for (int job = 0; job < 200; ++job) {
      std::atomic<int> ran{0};
      pool.run([&](Team& team) {
        CHECK_EQUAL(team.size, size);
        values[static_cast<size_t>(team.rank)] = job * 100 + team.rank;
        team.barrier();
        int64_t expected = 0;
        for (int rank = 0; rank < size; ++rank) expected += job * 100 + rank;
        if (std::accumulate(values.begin(), values.end(), int64_t{0}) == expected) ++ran;
        team.barrier();
      });
      CHECK_EQUAL(ran.load(), size);
      if (job % 50 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(3));
    }
  }
}

void cpu() {
  const Status lowest = check_cpu(ArchLevel::x86_64_v3);
  __builtin_cpu_init();
  CHECK_EQUAL(lowest.ok(), static_cast<bool>(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                                             __builtin_cpu_supports("bmi2")));
  CHECK_EQUAL(check_cpu(ArchLevel::x86_64_v4).ok(),
              static_cast<bool>(__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")));
  CHECK_EQUAL(check_cpu(ArchLevel::x86_64_v4_vnni).ok(), static_cast<bool>(__builtin_cpu_supports("avx512vnni")));
  const Status highest = check_cpu(ArchLevel::x86_64_v4_bf16);
  CHECK_EQUAL(highest.ok(), static_cast<bool>(__builtin_cpu_supports("avx512bf16")));
  if (!highest.ok())
    CHECK(highest.message().find("avx512_bf16") != std::string::npos && highest.code() == Code::unsupported);
}

void synthetic() {
  const std::vector<double> normal = normal_quantiles();
  CHECK(std::abs(normal[0] + 3.668) < 0.01 && std::abs(normal[2047] + normal[2048]) < 1e-9);
  const auto fill = [&](Fill kind, Dtype dtype, float scale, uint64_t count, uint32_t index) {
    const SyntheticWeight weight = {0, count, dtype, kind, scale};
    std::vector<float> values(count);
    if (dtype == Dtype::f32) {
      Filler<float>(7, index, weight, normal).fill(values.data(), 0, count);
      return values;
    }
    std::vector<uint16_t> narrow(count);
    Filler<uint16_t>(7, index, weight, normal).fill(narrow.data(), 0, count);
    for (size_t i = 0; i < count; ++i) {
      const uint32_t bits = uint32_t{narrow[i]} << 16;
      std::memcpy(&values[i], &bits, 4);
    }
    return values;
  };
  const auto moments = [](const std::vector<float>& values) {
    double sum = 0, squares = 0;
    for (const float value : values) sum += value, squares += static_cast<double>(value) * value;
    const auto n = static_cast<double>(values.size());
    return std::pair(sum / n, std::sqrt(squares / n));
  };
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    const auto [mean, deviation] = moments(fill(Fill::normal, dtype, 0.02f, 1 << 18, 0));
    CHECK(std::abs(mean) < 2e-4 && std::abs(deviation - 0.02) < 2e-4);
    const auto uniform = fill(Fill::uniform, dtype, 0.5f, 1 << 18, 1);
    CHECK(std::abs(moments(uniform).second - 0.5 / std::sqrt(3.0)) < 2e-3);
    for (const float value : uniform) CHECK(value >= -0.5f && value <= 0.5f);
    for (const float value : fill(Fill::constant, dtype, 1.0f, 9, 2)) CHECK_EQUAL(value, 1.0f);
  }
  // In any pieces, the same numbers; other weights, other numbers.
  const SyntheticWeight weight = {0, 103, Dtype::f32, Fill::normal, 1};
  const auto whole = fill(Fill::normal, Dtype::f32, 1, 103, 5);
  std::vector<float> parts(103);
  const Filler<float> filler(7, 5, weight, normal);
  for (uint64_t begin = 0; begin < 103; begin += 20)
    filler.fill(parts.data(), begin, std::min<uint64_t>(103, begin + 20));
  CHECK(whole == parts);
  CHECK(whole != fill(Fill::normal, Dtype::f32, 1, 103, 6));
}

void memory() {
  for (const uint64_t size : {uint64_t{1}, uint64_t{4097}, (uint64_t{2} << 20) + 5}) {
    auto mapping = Mapping::anonymous(size, "test");
    CHECK(mapping.ok());
    std::byte* const data = mapping.value().data();
    CHECK_EQUAL(reinterpret_cast<uintptr_t>(data) % (size >= (uint64_t{2} << 20) ? uint64_t{2} << 20 : 4096), 0u);
    for (uint64_t i = 0; i < size; i += 4096) CHECK(data[i] == std::byte{0});
    std::memset(data, 1, size);
    mapping.value().discard(4096);
    CHECK(data[0] == std::byte{1});
    if (size > 8192) CHECK(data[8192] == std::byte{0});
    const Mapping moved = std::move(mapping.value());
    CHECK(moved.data() == data && mapping.value().data() == nullptr);
  }
  const auto huge = Mapping::anonymous(UINT64_MAX, "test");
  CHECK(!huge.ok() && huge.status().code() == Code::out_of_memory);
  CHECK(available_memory() > 1 << 20);
  CHECK(memory_left() > 1 << 20 && cpu_quota() >= 1 && available_cores() >= 1 && available_cores() <= cpu_quota());
}

// Steps of two kinds of cost: how many of `steps` ran alone, in the end and in all.
struct Played {
  int last_hundred = 0, all = 0;
};
Played play(TeamChoice& choice, int steps, int64_t together, int64_t alone, int32_t rows = 1) {
  Played played;
  for (int i = 0; i < steps; ++i) {
    const bool by_itself = choice.alone(2);
    choice.note(by_itself, (by_itself ? alone : together) * rows, rows);
    played.all += by_itself;
    if (i >= steps - 100) played.last_hundred += by_itself;
  }
  return played;
}

void team_choice() {
  TeamChoice small;
  CHECK(play(small, 400, 100'000, 60'000).last_hundred >= 97);
  // The neighbours are gone: together is faster now, and that is found out.
  CHECK(play(small, 2000, 20'000, 60'000).last_hundred <= 3);
  CHECK(play(small, 40'000, 200'000, 60'000).last_hundred >= 97);
  TeamChoice together;
  CHECK(play(together, 20'000, 100'000, 180'000).all < 30);  // trials of what keeps losing grow rare
  TeamChoice medium;
  CHECK(play(medium, 1000, 14'000'000, 27'000'000).all <= 3);
  TeamChoice crowded;
  CHECK(play(crowded, 400, 33'000'000, 22'000'000).last_hundred >= 97);
  TeamChoice large;
  CHECK_EQUAL(play(large, 2000, 60'000'000, 120'000'000).all, 0);
  CHECK_EQUAL(play(large, 2000, 200'000, 100'000, 512).all, 0);  // in all, not for each row
}

}  // namespace

int main() {
  threads();
  team_choice();
  cpu();
  synthetic();
  memory();
  return check::result();
}
