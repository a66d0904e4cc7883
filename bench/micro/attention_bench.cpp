// Attention alone, at the shapes of the 0.3B: decode against the bandwidth of a plain read of the same cache, prefill
// in FLOP/s.
//   g++ -std=c++20 -O3 -ffp-contract=off <flags of the arch level> -I runtime -I test/native
//   bench/micro/attention_bench.cpp -pthread
//   ./a.out [threads] [repetitions]
// Times are minima over the repetitions; the machine may be shared, so compare only within one run.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>

#include "device/cpu/attention.hpp"
#include "matmul_support.hpp"

namespace {

using namespace test;
using ern::Step;

constexpr int layers = 48;  // of KV, walked in turn: 96 MiB at context 2048 do not stay in a cache
constexpr int block_size = 64;
using Block = ern::layout::KvBlock<2, 128, block_size, 2>;
constexpr ern::cpu::Attention problem{
    .heads = 16, .kv_heads = 2, .head_dim = 128, .block_size = block_size, .kv_block_bytes = layers * Block::bytes};
constexpr int width = problem.heads * problem.head_dim;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// The sum over `parts` of each part's fastest run of `repeats`, in seconds, all threads taking part: short pieces, so
// that somebody else's time slice spoils few of them. A run lasts from the first thread's start to the last one's end.
template <class Fn>
double fastest(int threads, int parts, int repeats, const Fn& fn) {
  std::vector<double> best(parts, 1e9), start(threads), end(threads);
  run_team(threads, [&](Team& team) {
    for (int i = 0; i < repeats * parts; ++i) {
      team.barrier();
      start[team.rank] = now();
      fn(team, i % parts);
      end[team.rank] = now();
      team.barrier();
      if (team.rank != 0) continue;
      const double seconds = *std::max_element(end.begin(), end.end()) - *std::min_element(start.begin(), start.end());
      best[i % parts] = std::min(best[i % parts], seconds);
    }
  });
  return std::accumulate(best.begin(), best.end(), 0.0);
}

struct Cache {
  std::vector<char> pool;
  std::vector<int32_t> table;
  explicit Cache(int context)
      : pool(int64_t{context / block_size} * problem.kv_block_bytes), table(context / block_size) {
    Random random(1);
    for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(i);
    for (size_t i = table.size() - 1; i > 0; --i) std::swap(table[i], table[random.below(static_cast<int>(i) + 1)]);
    Bf16* values = reinterpret_cast<Bf16*>(pool.data());
    for (size_t i = 0; i < pool.size() / 2; ++i) values[i] = ern::cpu::to_bf16(random.uniform());
  }
  const Bf16* layer(int i) const { return reinterpret_cast<const Bf16*>(pool.data() + i * Block::bytes); }
};

void decode(int context, int threads, int repeats) {
  const Cache cache(context);
  Random random(2);
  const std::vector<Bf16> q = random_values<Bf16>(width, 2, random);
  std::vector<Bf16> out(width);
  const int32_t start[2] = {0, 1}, length[1] = {context};
  const Step step{1, 1, static_cast<int32_t>(cache.table.size())};
  const double kernel = fastest(threads, layers, repeats, [&](Team& team, int layer) {
    ern::cpu::attention<problem>(step, q.data(), cache.layer(layer), cache.table.data(), start, length, 0.088f,
                                 static_cast<float*>(nullptr), out.data(), team);
  });
  std::vector<float> sums(threads * 64);
  const int64_t floats = static_cast<int64_t>(cache.pool.size()) / 4 / layers;
  const double read = fastest(threads, layers, repeats, [&](Team& team, int layer) {
    using namespace ern::cpu;
    F32 sum[4] = {zero(), zero(), zero(), zero()};
    const ern::Range part = ern::share(floats, 64, team);
    const float* from = reinterpret_cast<const float*>(cache.pool.data()) + layer * floats;
    for (int64_t i = part.begin; i < part.end; i += 4 * lanes) {
      for (int j = 0; j < 4; ++j) sum[j] = max(sum[j], load(from + i + j * lanes));
    }
    for (int j = 1; j < 4; ++j) sum[0] = max(sum[0], sum[j]);
    store(&sums[team.rank * 64], sum[0]);
  });
  const double bytes = static_cast<double>(layers) * context * 2 * 2 * 128 * 2;
  std::printf("decode  context %5d, %d threads: %7.1f us a layer, %5.1f GB/s; plain read %5.1f GB/s, ratio %.2f\n",
              context, threads, kernel / layers * 1e6, bytes / kernel * 1e-9, bytes / read * 1e-9, read / kernel);
}

void prefill(int tokens, int context, int threads, int repeats) {
  const Cache cache((context + block_size - 1) / block_size * block_size);
  Random random(3);
  const std::vector<Bf16> q = random_values<Bf16>(int64_t{tokens} * width, 2, random);
  std::vector<Bf16> out(q.size());
  const int32_t start[2] = {0, tokens}, length[1] = {context};
  const Step step{tokens, 1, static_cast<int32_t>(cache.table.size())};
  const double seconds = fastest(threads, 1, repeats, [&](Team& team, int) {
    ern::cpu::attention<problem>(step, q.data(), cache.layer(0), cache.table.data(), start, length, 0.088f,
                                 static_cast<float*>(nullptr), out.data(), team);
  });
  double pairs = 0;  // of a query and a cache entry it sees
  for (int i = 0; i < tokens; ++i) pairs += context - tokens + i + 1;
  const double flop = pairs * problem.heads * problem.head_dim * 4;
  // The products of one layer of the 0.3B for these tokens at 300 GFLOP/s a core.
  const double products = 2.0 * 258e6 / 18 * tokens / (300e9 * threads);
  std::printf(
      "prefill %4d of %5d, %d threads: %7.0f us a layer, %5.0f GFLOP/s, %4.1f %% of the layer's products at 300 "
      "GFLOP/s a core\n",
      tokens, context, threads, seconds * 1e6, flop / seconds * 1e-9, seconds / products * 100);
}

}  // namespace

int main(int count, char** args) {
  const int threads = count > 1 ? std::atoi(args[1]) : 1;
  const int repeats = count > 2 ? std::atoi(args[2]) : 20;
  for (const int context : {256, 2048}) decode(context, threads, repeats);
  prefill(512, 512, threads, repeats);
  prefill(128, 128, threads, repeats);
  prefill(512, 2048, threads, repeats);
}
