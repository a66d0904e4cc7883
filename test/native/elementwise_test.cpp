// embedding, elementwise ops, copies and argmax: values at awkward sizes, and no byte outside their outputs.
#include "device/cpu/elementwise.hpp"

#include <limits>

#include "device/cpu/argmax.hpp"
#include "device/cpu/embedding.hpp"
#include "matmul_support.hpp"

namespace {

using namespace test;
using ern::cpu::to_f32;

// Runs on 1 to 4 threads; the results must be the same bytes and the guards whole. Returns the first.
template <class Out, class Fn>
Buffer<Out> run(size_t count, const char* what, const Fn& fn) {
  Buffer<Out> first(count);
  for (int threads = 1; threads <= 4; ++threads) {
    Buffer<Out> out(count);
    run_team(threads, [&](Team& team) { fn(out.data(), team); });
    CHECK(out.intact(), "%s: a guard was overwritten", what);
    if (threads == 1) std::memcpy(first.data(), out.data(), count * sizeof(Out));
    CHECK(out == first, "%s: %d threads differ", what, threads);
  }
  return first;
}

template <int64_t vocab, int64_t width, class W>
void check_embedding(int rows) {
  Random random(rows + width);
  const std::vector<W> table = random_values<W>(vocab * width, 1, random), packed = pack(table, vocab, width);
  std::vector<int32_t> ids;
  for (int i = 0; i < rows; ++i) ids.push_back(i == 0 ? vocab - 1 : random.below(vocab));
  constexpr ern::cpu::Embedding problem{vocab, width};
  const auto plain = run<float>(rows * width, "embedding_rows", [&](float* out, Team& team) {
    ern::cpu::embedding_rows<problem>(rows, ids.data(), table.data(), out, team);
  });
  const auto panels = run<float>(rows * width, "embedding_panels", [&](float* out, Team& team) {
    ern::cpu::embedding_panels<problem>(rows, ids.data(), packed.data(), out, team);
  });
  for (int i = 0; i < rows * width; ++i)
    CHECK(plain[i] == to_f32(table[ids[i / width] * width + i % width]), "embedding at %d", i);
  CHECK(panels == plain, "embedding: panels differ from rows");
}

template <class Out>
void check_add_and_cast(int count) {
  Random random(count);
  const std::vector<float> a = random_values<float>(count, 3, random), b = random_values<float>(count, 3, random);
  const auto sum =
      run<float>(count, "add", [&](float* out, Team& team) { ern::cpu::add(count, a.data(), b.data(), out, team); });
  const auto narrow =
      run<Out>(count, "cast", [&](Out* out, Team& team) { ern::cpu::cast(count, a.data(), out, team); });
  const auto wide =
      run<float>(count, "cast", [&](float* out, Team& team) { ern::cpu::cast(count, narrow.data(), out, team); });
  for (int i = 0; i < count; ++i) {
    CHECK(sum[i] == a[i] + b[i], "add at %d", i);
    CHECK(wide[i] == to_f32(ern::cpu::from_f32<Out>(a[i])), "cast at %d", i);
  }
}

template <int width, int group, class Out>
void check_swiglu(int rows) {
  Random random(width + rows);
  const std::vector<float> gate = random_values<float>(rows * width, 20, random),
                           up = random_values<float>(rows * width, 3, random);
  std::vector<double> expected;
  for (int i = 0; i < rows * width; ++i) expected.push_back(silu(gate[i]) * up[i]);

  // Apart; as halves of one row; and, where the group divides, interleaved.
  const auto apart = run<Out>(rows * width, "swiglu", [&](Out* out, Team& team) {
    ern::cpu::swiglu<ern::cpu::Swiglu{width, width, width}>(rows, gate.data(), up.data(), out, team);
  });
  const double error = nmse(apart.data(), expected);
  CHECK(error < bar<Out>, "swiglu width %d: nmse %g", width, error);

  std::vector<float> halves(2 * rows * width), turns(2 * rows * width);
  const ern::layout::Interleave order{group};
  for (int row = 0; row < rows; ++row) {
    for (int i = 0; i < width; ++i) {
      halves[2 * row * width + i] = gate[row * width + i];
      halves[2 * row * width + width + i] = up[row * width + i];
      turns[2 * row * width + order.row(false, i)] = gate[row * width + i];
      turns[2 * row * width + order.row(true, i)] = up[row * width + i];
    }
  }
  const auto from_halves = run<Out>(rows * width, "swiglu", [&](Out* out, Team& team) {
    ern::cpu::swiglu<ern::cpu::Swiglu{width, 2 * width, 2 * width}>(rows, halves.data(), halves.data() + width, out,
                                                                    team);
  });
  const auto from_turns = run<Out>(rows * width, "swiglu", [&](Out* out, Team& team) {
    ern::cpu::swiglu<ern::cpu::Swiglu{width, 2 * width, 2 * width, group}>(rows, turns.data(), turns.data() + group,
                                                                           out, team);
  });
  CHECK(from_halves == apart && from_turns == apart, "swiglu width %d: the layouts differ", width);
}

void check_silu_ends() {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> gate{0, -0.0f, 100, -100, 1000, -1000, inf, 88.9f, -88.9f, 1e-30f};
  const std::vector<float> up(gate.size(), 1);
  const auto out = run<float>(gate.size(), "swiglu", [&](float* to, Team& team) {
    ern::cpu::swiglu<ern::cpu::Swiglu{10, 10, 10}>(1, gate.data(), up.data(), to, team);
  });
  for (size_t i = 0; i < gate.size(); ++i) {
    const double expected = std::isinf(gate[i]) ? inf : silu(gate[i]);
    CHECK(out[i] == expected || std::abs(out[i] - expected) < 1e-6 * std::abs(expected) + 1e-35, "silu(%g) = %g",
          gate[i], out[i]);
  }
}

template <class T>
void check_copies(int rows) {
  Random random(rows);
  const std::vector<T> x = random_values<T>(rows * 50, 1, random);
  const auto same = [](T a, T b) {
    return to_f32(a) == to_f32(b);
  };
  // Columns 7..29 of 50 become columns 3..25 of 31; the others stay as they were.
  const auto moved = run<T>(rows * 31, "copy_columns", [&](T* out, Team& team) {
    ern::cpu::copy_columns<ern::cpu::CopyColumns{23, 50, 31}>(rows, x.data() + 7, out + 3, team);
  });
  for (int i = 0; i < rows * 31; ++i) {
    const int row = i / 31, col = i % 31;
    const bool inside = col >= 3 && col < 26;
    CHECK(inside ? same(moved[i], x[row * 50 + col - 3 + 7]) : std::isnan(to_f32(moved[i])), "copy_columns at %d, %d",
          row, col);
  }
  const std::vector<int32_t> index{rows - 1, 0, rows / 2, 0};
  const auto picked = run<T>(4 * 50, "gather_rows", [&](T* out, Team& team) {
    ern::cpu::gather_rows<50>(4, x.data(), index.data(), out, team);
  });
  for (int i = 0; i < 200; ++i) CHECK(same(picked[i], x[index[i / 50] * 50 + i % 50]), "gather_rows at %d", i);
}

template <int64_t vocab>
void check_argmax() {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  Random random(vocab);
  std::vector<std::vector<float>> rows;
  std::vector<int32_t> expected;
  const auto add = [&](std::vector<float> row, int64_t winner) {
    rows.push_back(std::move(row));
    expected.push_back(static_cast<int32_t>(winner));
  };
  for (int i = 0; i < 5; ++i) {
    std::vector<float> row = random_values<float>(vocab, 1, random);
    int64_t best = 0;
    for (int64_t j = 1; j < vocab; ++j) best = row[j] > row[best] ? j : best;
    add(row, best);
    std::vector<float> tie = row;
    tie[vocab - 1] = row[best];
    add(tie, best);
    tie[vocab / 2] = tie[vocab / 3] = 2;
    add(tie, vocab / 3);
  }
  std::vector<float> row(vocab, nan);
  add(row, 0);
  row[vocab - 1] = -inf;
  add(row, vocab - 1);
  row[vocab / 2] = -inf;
  add(row, vocab / 2);
  row[vocab - 1] = -5;
  add(row, vocab - 1);
  row[vocab / 3] = inf;
  add(row, vocab / 3);
  add(std::vector<float>(vocab, -inf), 0);
  add(std::vector<float>(vocab, 0.0f), 0);
  row.assign(vocab, -0.0f);
  row[vocab - 1] = 0;
  add(row, 0);  // equal
  std::vector<float> logits;
  for (const auto& each : rows) logits.insert(logits.end(), each.begin(), each.end());
  const int count = static_cast<int>(rows.size());
  Buffer<float> peaks(count * ern::cpu::argmax_parts(vocab));
  const auto found = run<int32_t>(count, "argmax", [&](int32_t* out, Team& team) {
    ern::cpu::argmax<vocab>(count, logits.data(), peaks.data(), out, team);
  });
  for (int i = 0; i < count; ++i)
    CHECK(found[i] == expected[i], "argmax of %d, row %d: found %d, expected %d", static_cast<int>(vocab), i, found[i],
          expected[i]);
  for (int i = 0; i < count; ++i) {
    const auto alone = run<int32_t>(1, "argmax", [&](int32_t* out, Team& team) {
      ern::cpu::argmax<vocab>(1, &logits[i * vocab], peaks.data(), out, team);
    });
    CHECK(alone[0] == expected[i], "argmax of one row %d", i);
  }
  CHECK(peaks.intact(), "argmax: a guard was overwritten");
}

}  // namespace

int main() {
  for (const int rows : {1, 7, 31, 100}) {
    check_embedding<200, 1024, Bf16>(rows);
    check_embedding<65, 96, Bf16>(rows);
    check_embedding<70, 33, float>(rows);
    check_swiglu<96, 32, Bf16>(rows);
    check_swiglu<3072, 32, float>(rows);
    check_swiglu<24, 8, float>(rows);
    check_swiglu<48, 16, Bf16>(rows);
    check_copies<float>(rows);
    check_copies<Bf16>(rows);
  }
  for (const int count : {1, 7, 31, 64, 100, 1000, 4097}) {
    check_add_and_cast<Bf16>(count);
    check_add_and_cast<float>(count);
  }
  check_silu_ends();
  check_argmax<1>();
  check_argmax<37>();
  check_argmax<4096>();
  check_argmax<13001>();
  if (failures != 0) std::printf("%d checks failed\n", failures);
  return failures == 0 ? 0 : 1;
}
