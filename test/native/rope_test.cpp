// rope, kv_append and rope_kv_append: published vectors, then angles and rotations in doubles at awkward shapes, and
// the fused op against the two that it fuses.
#include "device/cpu/rope_kv_append.hpp"

#include <algorithm>

#include "matmul_support.hpp"

namespace {

using namespace test;
using ern::cpu::KvAppend;
using ern::cpu::Rope;
using ern::cpu::rope_frequencies;
using ern::cpu::RopeKvAppend;
using ern::cpu::to_f32;

constexpr double theta = 500000;
constexpr auto frequencies128 = rope_frequencies<128>(theta);  // must be usable as a constant of generated code

void check_near(double found, double expected, double tolerance, const char* what) {
  CHECK(std::abs(found - expected) <= tolerance, "%s: found %.9g, expected %.9g", what, found, expected);
}

// Printed with 10 digits (frequencies) and 8 decimals (rotations).
void check_vectors() {
  const int pairs[] = {0, 1, 2, 22, 43, 44, 63};
  const double expected[] = {1.0,           0.8146172339, 0.6636012377, 0.01098952853, 1.482533543e-4, 1.207697374e-4,
                             2.455140792e-6};
  for (int i = 0; i < 7; ++i) check_near(frequencies128.of[pairs[i]] / expected[i], 1, 6e-8, "frequency");

  float x[128];
  for (int i = 0; i < 128; ++i) x[i] = i / 128.0f;
  ern::cpu::Rotation<128> rotation;
  float out[128];
  const int32_t text[3] = {3, 3, 3};
  rotation.set(text, frequencies128, 0);
  rotation.turn(x, out);
  const double first[] = {-0.0011025, -0.00773432, -0.02703169, -0.00792117};
  for (int i = 0; i < 4; ++i) check_near(out[i], first[i], 2e-8, "text");
  check_near(out[126], 0.98436769, 6e-8, "text");
  check_near(out[127], 0.99219475, 6e-8, "text");

  float same[128];
  rotation.set(text, frequencies128, 44);  // text in a model with sections is plain text
  rotation.turn(x, same);
  CHECK(std::memcmp(same, out, sizeof out) == 0, "three equal positions differ from one");

  const int32_t image[3] = {5, 7, 11};
  rotation.set(image, frequencies128, 44);
  rotation.turn(x, out);
  const double spatial[] = {-0.00513271, 0.00588986, -0.02446175, -0.01396709};
  for (int i = 0; i < 4; ++i) check_near(out[i], spatial[i], 2e-8, "image");
  check_near(out[86], 0.67076568, 6e-8, "image");
  check_near(out[87], 0.68078228, 6e-8, "image");
  check_near(out[88], 0.68708001, 6e-8, "image");
  check_near(out[89], 0.69572752, 6e-8, "image");
}

// The f32 product of two f32, as the op is defined.
double angle(const int32_t* position, int pair, int head_dim, int spatial_pairs) {
  const int coordinate = pair >= spatial_pairs ? 0 : pair % 2 == 0 ? 1 : 2;
  const auto frequency = static_cast<float>(std::pow(theta, -2.0 * pair / head_dim));
  return static_cast<float>(position[coordinate]) * frequency;
}

// The last positions of the longest context: cos and sin to half an ulp of f32 and what the angle's own rounding adds.
void check_accuracy() {
  for (const int32_t at : {0, 1, 511, 4095, 65537, 131071, 1000000}) {
    const int32_t position[3] = {at, at, at};
    ern::cpu::Rotation<128> rotation;
    rotation.set(position, frequencies128, 0);
    for (int pair = 0; pair < 64; ++pair) {
      const double exact = angle(position, pair, 128, 0);
      check_near(rotation.cosine[2 * pair + 1], std::cos(exact), 3.1e-8, "cosine");
      check_near(rotation.sine[2 * pair], std::sin(exact), 3.1e-8, "sine");
    }
  }
}

// heads * head_dim columns of x from `column` on, rotated, in doubles.
std::vector<double> rotated(const std::vector<float>& x, int64_t stride, int64_t column, int heads, int head_dim,
                            const std::vector<int32_t>& positions, int spatial_pairs) {
  std::vector<double> out;
  for (size_t row = 0; row < positions.size() / 3; ++row) {
    for (int head = 0; head < heads; ++head) {
      for (int pair = 0; pair < head_dim / 2; ++pair) {
        const float* at = &x[row * stride + column + head * head_dim + 2 * pair];
        const double turn = angle(&positions[row * 3], pair, head_dim, spatial_pairs);
        out.push_back(at[0] * std::cos(turn) - at[1] * std::sin(turn));
        out.push_back(at[1] * std::cos(turn) + at[0] * std::sin(turn));
      }
    }
  }
  return out;
}

template <int heads, int kv_heads, int head_dim, int block_size, int spatial_pairs, class KV>
void check_shape(int rows) {
  constexpr int64_t width = (heads + 2 * kv_heads) * head_dim, k_column = heads * head_dim,
                    v_column = (heads + kv_heads) * head_dim;
  using Block = ern::layout::KvBlock<kv_heads, head_dim, block_size, sizeof(KV) == 2 ? 2 : 1>;
  constexpr int64_t block_bytes = 3 * Block::bytes;  // of three layers, this is the middle one
  constexpr auto frequencies = rope_frequencies<head_dim>(theta);

  Random random(rows * 1000 + head_dim);
  const std::vector<float> qkv = random_values<float>(rows * width, 3, random);
  std::vector<int32_t> positions, slots;
  const int blocks = rows / block_size + 2;
  for (int i = 0; i < blocks * block_size; ++i) slots.push_back(i);
  for (int i = blocks * block_size - 1; i > 0; --i) std::swap(slots[i], slots[random.below(i + 1)]);
  slots.resize(rows);
  for (int row = 0; row < rows; ++row) {
    const int32_t t = random.below(131072);
    positions.insert(positions.end(),
                     {t, spatial_pairs ? random.below(500) : t, spatial_pairs ? random.below(500) : t});
  }

  const auto fused = [&](int threads, Buffer<KV>& pool, Buffer<KV>& q) {
    constexpr RopeKvAppend problem{heads, kv_heads, head_dim, block_size,   block_bytes,
                                   width, width,    width,    spatial_pairs};
    run_team(threads, [&](Team& team) {
      ern::cpu::rope_kv_append<problem>(rows, qkv.data(), qkv.data() + k_column, qkv.data() + v_column,
                                        positions.data(), slots.data(), frequencies, q.data(),
                                        pool.data() + Block::elements, team);
    });
    CHECK(pool.intact() && q.intact(), "a guard was overwritten");
  };
  Buffer<KV> pool(blocks * block_bytes / sizeof(KV)), q(rows * heads * head_dim);
  fused(1, pool, q);

  const double error = nmse(q.data(), rotated(qkv, width, 0, heads, head_dim, positions, spatial_pairs));
  CHECK(error < bar<KV>, "q: nmse %g", error);
  const std::vector<double> k = rotated(qkv, width, k_column, kv_heads, head_dim, positions, spatial_pairs);
  Buffer<KV> found_k(k.size());
  std::vector<char> written(pool.size(), 0);
  for (int row = 0; row < rows; ++row) {
    const int64_t base = slots[row] / block_size * (block_bytes / sizeof(KV)) + Block::elements;
    for (int head = 0; head < kv_heads; ++head) {
      for (int dim = 0; dim < head_dim; ++dim) {
        const int64_t key = base + Block::key(head, slots[row] % block_size, dim),
                      value = base + Block::value(head, slots[row] % block_size, dim);
        found_k[(row * kv_heads + head) * head_dim + dim] = pool[key];
        const KV expected = ern::cpu::from_f32<KV>(qkv[row * width + v_column + head * head_dim + dim]);
        CHECK(to_f32(pool[value]) == to_f32(expected), "v of row %d is not where it belongs", row);
        written[key] = written[value] = 1;
      }
    }
  }
  const double k_error = nmse(found_k.data(), k);
  CHECK(k_error < bar<KV>, "k: nmse %g", k_error);
  for (size_t i = 0; i < pool.size(); ++i)
    CHECK(written[i] || std::isnan(to_f32(pool[i])), "element %zu of the cache was overwritten", i);

  for (int threads = 2; threads <= 4; ++threads) {
    Buffer<KV> other_pool(pool.size()), other_q(q.size());
    fused(threads, other_pool, other_q);
    CHECK(other_pool == pool && other_q == q, "%d threads differ", threads);
  }

  // Apart: k turned in place (in f32), then appended from there.
  Buffer<KV> plain_pool(pool.size()), plain_q(q.size());
  std::vector<float> turned = qkv;
  run_team(3, [&](Team& team) {
    constexpr Rope of_q{heads, head_dim, width, heads * head_dim, spatial_pairs},
        of_k{kv_heads, head_dim, width, width, spatial_pairs};
    constexpr KvAppend append{kv_heads, head_dim, block_size, block_bytes, width, width};
    ern::cpu::rope<of_q>(rows, qkv.data(), positions.data(), frequencies, plain_q.data(), team);
    ern::cpu::rope<of_k>(rows, turned.data() + k_column, positions.data(), frequencies, turned.data() + k_column, team);
    team.barrier();
    ern::cpu::kv_append<append>(rows, turned.data() + k_column, turned.data() + v_column, slots.data(),
                                plain_pool.data() + Block::elements, team);
  });
  CHECK(plain_pool.intact() && plain_q.intact(), "a guard was overwritten");
  CHECK(plain_pool == pool && plain_q == q, "the fused op differs from its parts");
}

}  // namespace

int main() {
  check_vectors();
  check_accuracy();
  for (const int rows : {1, 7, 31, 100}) {
    check_shape<16, 2, 128, 64, 0, Bf16>(rows);
    check_shape<16, 2, 128, 16, 44, Bf16>(rows);
    check_shape<5, 1, 64, 16, 0, float>(rows);
    check_shape<3, 3, 32, 64, 10, float>(rows);
    check_shape<8, 2, 16, 16, 0, Bf16>(rows);
  }
  if (failures != 0) std::printf("%d checks failed\n", failures);
  return failures == 0 ? 0 : 1;
}
