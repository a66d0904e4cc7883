// The ops between the matrix products, at the shapes of the 0.3B: microseconds a launch on one thread, data in cache
// unless said.
//   g++ -std=c++20 -O3 -ffp-contract=off <flags of the arch level> -I runtime -I test/native
//   bench/micro/small_ops_bench.cpp -pthread
// Times are minima; the machine may be shared.
#include <algorithm>
#include <chrono>

#include "device/cpu/argmax.hpp"
#include "device/cpu/elementwise.hpp"
#include "device/cpu/embedding.hpp"
#include "device/cpu/rms_norm.hpp"
#include "device/cpu/rope_kv_append.hpp"
#include "matmul_support.hpp"

namespace {

using namespace test;

constexpr int hidden = 1024, inner = 3072, heads = 16, kv_heads = 2, head_dim = 128, block_size = 64, vocab = 103424;
constexpr int64_t width = (heads + 2 * kv_heads) * head_dim;
constexpr auto frequencies = ern::cpu::rope_frequencies<head_dim>(500000.0);

template <class Fn>
void report(const char* name, int rows, double bytes, const Fn& fn) {
  double best = 1e9;
  run_team(1, [&](Team& team) {
    for (int i = 0; i < 300; ++i) {
      const auto start = std::chrono::steady_clock::now();
      fn(team);
      best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
      team.barrier();
    }
  });
  std::printf("%-16s %4d rows  %8.2f us  %6.1f GB/s\n", name, rows, best * 1e6, bytes / best * 1e-9);
}

}  // namespace

int main() {
  Random random(1);
  const std::vector<Bf16> table = random_values<Bf16>(int64_t{vocab} * hidden, 1, random),
                          weight = random_values<Bf16>(hidden, 1, random);
  for (const int rows : {1, 8, 512}) {
    std::vector<float> x = random_values<float>(rows * 2 * inner, 1, random), y(rows * inner), sum(rows * hidden);
    std::vector<Bf16> out(rows * inner), q(rows * heads * head_dim);
    std::vector<int32_t> positions, slots, ids;
    for (int i = 0; i < rows; ++i) {
      positions.insert(positions.end(), {i, i, i});
      slots.push_back(rows == 512 ? i : i * block_size);
      ids.push_back(random.below(vocab));
    }
    using Block = ern::layout::KvBlock<kv_heads, head_dim, block_size, 2>;
    std::vector<Bf16> kv(Block::elements * (rows / block_size + 9));
    const double r = rows;
    report("rms_norm", rows, r * hidden * 6,
           [&](Team& team) { ern::cpu::rms_norm<hidden>(rows, x.data(), weight.data(), 1e-5f, out.data(), team); });
    report("add_rms_norm", rows, r * hidden * 14, [&](Team& team) {
      ern::cpu::add_rms_norm<hidden>(rows, x.data(), y.data(), weight.data(), 1e-5f, sum.data(), out.data(), team);
    });
    report("rope_kv_append", rows, r * width * 6, [&](Team& team) {
      constexpr ern::cpu::RopeKvAppend problem{heads,        kv_heads, head_dim, block_size,
                                               Block::bytes, width,    width,    width};
      ern::cpu::rope_kv_append<problem>(rows, x.data(), x.data() + heads * head_dim,
                                        x.data() + (heads + kv_heads) * head_dim, positions.data(), slots.data(),
                                        frequencies, q.data(), kv.data(), team);
    });
    report("  its angles", rows, 0, [&](Team&) {
      ern::cpu::Rotation<head_dim> rotation;
      for (int i = 0; i < rows; ++i) {
        rotation.set(&positions[i * 3], frequencies, 0);
        asm volatile("" : : "r"(&rotation) : "memory");
      }
    });
    report("swiglu", rows, r * inner * 10, [&](Team& team) {
      ern::cpu::swiglu<ern::cpu::Swiglu{inner, 2 * inner, 2 * inner, 32}>(rows, x.data(), x.data() + 32, out.data(),
                                                                          team);
    });
    report("add", rows, r * hidden * 12,
           [&](Team& team) { ern::cpu::add(rows * hidden, x.data(), y.data(), sum.data(), team); });
    report("cast", rows, r * hidden * 6,
           [&](Team& team) { ern::cpu::cast(rows * hidden, x.data(), out.data(), team); });
    // Other ids each time: the table is far larger than any cache.
    report("embedding_panels", rows, r * hidden * 6, [&](Team& team) {
      for (int& id : ids) id = random.below(vocab);
      ern::cpu::embedding_panels<ern::cpu::Embedding{vocab, hidden}>(rows, ids.data(), table.data(), sum.data(), team);
    });
    if (rows > 8) continue;
    const std::vector<float> logits = random_values<float>(int64_t{rows} * vocab, 1, random);
    std::vector<float> peaks(rows * ern::cpu::argmax_parts(vocab));
    report("argmax", rows, r * vocab * 4,
           [&](Team& team) { ern::cpu::argmax<vocab>(rows, logits.data(), peaks.data(), ids.data(), team); });
  }
}
