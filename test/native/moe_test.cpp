// moe_router and moe_ffn against doubles: ties, a correction that changes the choice, experts without tokens, all tokens in one expert, one
// token, many; a token's result has the same bits in any company and on any number of threads.
#include "device/cpu/moe_ffn.hpp"
#include "device/cpu/moe_router.hpp"

#include <algorithm>

#include "matmul_support.hpp"

using namespace test;
using ern::cpu::MoeFfn;
using ern::cpu::MoeRouter;

namespace {

template <MoeRouter problem, class X, class W>
void check_router() {
  constexpr int tokens = 23, experts = problem.experts, hidden = problem.hidden, chosen = problem.chosen;
  Random random(experts * 7 + hidden);
  const auto x = random_values<X>(tokens * hidden, 1.0f, random);
  auto gate = random_values<W>(experts * hidden, 0.5f, random);
  for (int e = 0; e + 2 < experts; e += 5) std::memcpy(&gate[(e + 2) * hidden], &gate[e * hidden], hidden * sizeof(W));  // exact ties
  const auto packed = pack(gate, experts, hidden);
  std::vector<float> correction = random_values<float>(experts, 0.2f, random);
  for (int e = 0; e + 2 < experts; e += 5) correction[e + 2] = correction[e];
  const auto want = product(x.data(), tokens, gate.data(), experts, hidden);

  Buffer<float> whole(tokens * experts);
  for (const int threads : {1, 2, 3, 5}) {
    Buffer<float> logits(tokens * experts), weights(tokens * chosen);
    Buffer<int32_t> indices(tokens * chosen);
    run_team(threads, [&](Team& team) {
      ern::cpu::moe_router<problem>(tokens, x.data(), packed.data(), problem.correction ? correction.data() : nullptr, 1e-12f,
                                    logits.data(), indices.data(), weights.data(), team);
    });
    if (threads == 1) {
      std::memcpy(whole.data(), logits.data(), tokens * experts * sizeof(float));
      const double off = nmse(logits.data(), want);
      CHECK(off < 1e-10, "router %d: logits nmse %.3g", experts, off);
    }
    CHECK(logits == whole && logits.intact() && indices.intact() && weights.intact(), "router %d: %d threads", experts, threads);
    for (int t = 0; t < tokens; ++t) {
      // From the kernel's own logits, so that a near tie cannot go either way.
      double p[experts], total = 0, top = -1e300;
      for (int e = 0; e < experts; ++e) top = std::max(top, static_cast<double>(logits[t * experts + e]));
      for (int e = 0; e < experts; ++e) total += p[e] = std::exp(logits[t * experts + e] - top);
      std::vector<int> order(experts);
      for (int e = 0; e < experts; ++e) order[e] = e, p[e] /= total;
      const auto score = [&](int e) { return p[e] + (problem.correction ? correction[e] : 0); };
      std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return score(a) > score(b); });
      double sum = 0;
      for (int j = 0; j < chosen; ++j) sum += p[order[j]];
      for (int j = 0; j < chosen; ++j) {
        const int got = indices[t * chosen + j];
        CHECK(got >= 0 && got < experts, "router: index %d", got);
        CHECK(got == order[j] || std::fabs(score(got) - score(order[j])) < 1e-7, "router: token %d choice %d is %d, expected %d", t, j, got, order[j]);
        CHECK(std::fabs(weights[t * chosen + j] - p[got] / sum) < 1e-6, "router: weight %g, expected %g", weights[t * chosen + j], p[got] / sum);
        if (j > 0) {
          const int before = indices[t * chosen + j - 1];
          const bool tied = whole[t * experts + got] == whole[t * experts + before] && (!problem.correction || correction[got] == correction[before]);
          CHECK(!tied || before < got, "router: tie of %d and %d in the wrong order", before, got);
        }
      }
    }
  }
}

// Logits that a softmax must survive, straight into the choice.
void check_extremes() {
  constexpr MoeRouter problem{.experts = 5, .hidden = 1, .chosen = 3};
  int32_t indices[3];
  float weights[3];
  const auto run = [&](std::vector<float> logits) { ern::cpu::choose_experts<problem>(logits.data(), nullptr, 1e-12f, indices, weights); };
  run({0, 0, 0, 0, 0});
  CHECK(indices[0] == 0 && indices[1] == 1 && indices[2] == 2, "all equal: the lowest");
  run({-1000, 1000, -1000, 999, -1000});
  CHECK(indices[0] == 1 && indices[1] == 3 && indices[2] == 0 && weights[2] == 0, "far apart");
  run({-300, -301, -302, -303, -304});
  CHECK(indices[0] == 0 && std::fabs(weights[0] - 0.66524f) < 1e-4f, "all very negative: %g", weights[0]);
  run({NAN, 1, 2, 3, 4});
  CHECK(indices[0] != indices[1] && indices[1] != indices[2] && indices[0] != indices[2], "NaN: still three experts");
}

enum class Routing { spread, one_expert, ends };

template <MoeFfn problem, class X, class W>
void check_ffn(int tokens, Routing routing) {
  constexpr int hidden = problem.hidden, m = problem.m, experts = problem.experts, chosen = problem.chosen;
  Random random(tokens * 13 + hidden);
  const auto x = random_values<X>(tokens * hidden, 1.0f, random);
  std::vector<int32_t> indices(tokens * chosen);
  auto weights = random_values<float>(tokens * chosen, 1.0f, random);
  for (int t = 0; t < tokens; ++t) {
    for (int j = 0; j < chosen; ++j) {
      int& e = indices[t * chosen + j];
      const auto again = [&] { return std::find(&indices[t * chosen], &e, e) != &e; };
      if (routing == Routing::spread) do e = random.below(experts); while (again());
      if (routing == Routing::one_expert) e = j == 0 ? experts / 2 : (experts / 2 + j) % experts;
      if (routing == Routing::ends) e = experts - 1 - j;  // descending, the first experts empty
    }
  }
  const auto addend = random_values<float>(tokens * hidden, 1.0f, random);
  std::vector<W> gate_up, down;
  std::vector<std::vector<W>> gates, ups, downs;
  for (int e = 0; e < experts; ++e) {
    gates.push_back(random_values<W>(m * hidden, 0.3f, random));
    ups.push_back(random_values<W>(m * hidden, 0.3f, random));
    downs.push_back(random_values<W>(hidden * m, 0.3f, random));
    const auto a = pack(interleave(gates[e], ups[e], m, hidden, problem.group), 2 * m, hidden), b = pack(downs[e], hidden, m);
    gate_up.insert(gate_up.end(), a.begin(), a.end());
    down.insert(down.end(), b.begin(), b.end());
  }

  std::vector<double> want(tokens * hidden);
  for (int t = 0; t < tokens; ++t) {
    for (int j = 0; j < chosen; ++j) {
      const int e = indices[t * chosen + j];
      const auto g = product(&x[t * hidden], 1, gates[e].data(), m, hidden), u = product(&x[t * hidden], 1, ups[e].data(), m, hidden);
      std::vector<X> act(m);
      for (int i = 0; i < m; ++i) act[i] = ern::cpu::from_f32<X>(static_cast<float>(silu(g[i]) * u[i]));
      const auto y = product(act.data(), 1, downs[e].data(), hidden, m);
      for (int i = 0; i < hidden; ++i) want[t * hidden + i] += weights[t * chosen + j] * y[i];
    }
    if (problem.addend) for (int i = 0; i < hidden; ++i) want[t * hidden + i] += addend[t * hidden + i];
  }

  const auto run = [&](int first, int count, int threads) {
    Buffer<float> out(count * hidden);
    constexpr int align = 64;
    Buffer<char> workspace(ern::cpu::moe_ffn_workspace<problem, X>(count) + align);
    char* aligned = workspace.data() + (align - reinterpret_cast<uintptr_t>(workspace.data()) % align) % align;
    run_team(threads, [&](Team& team) {
      ern::cpu::moe_ffn<problem>(count, &x[first * hidden], &indices[first * chosen], &weights[first * chosen], gate_up.data(), down.data(),
                                 problem.addend ? &addend[first * hidden] : nullptr, out.data(), aligned, team);
    });
    CHECK(out.intact() && workspace.intact(), "ffn: wrote outside");
    return out;
  };
  const auto whole = run(0, tokens, 1);
  const double off = nmse(whole.data(), want);
  // A sum that lies between two bf16 may round to the other one than the double does.
  CHECK(off < (sizeof(X) == 2 ? 1e-6 : 1e-10), "ffn hidden %d m %d tokens %d: nmse %.3g", hidden, m, tokens, off);
  for (const int threads : {2, 3, 5}) CHECK(run(0, tokens, threads) == whole, "ffn: %d threads differ", threads);
  for (int t = 0; t < tokens; t += 1 + tokens / 4) {
    CHECK(std::memcmp(run(t, 1, 2).data(), &whole[t * hidden], hidden * sizeof(float)) == 0, "ffn: token %d alone differs", t);
  }
}

template <int Hidden, int M, int Group, bool Addend>
void check_ffn_types() {
  constexpr MoeFfn problem{.hidden = Hidden, .m = M, .experts = 8, .chosen = 3, .group = Group, .addend = Addend, .tiling = {.k_block = 32, .few_block = 16, .few = 2, .row_block = 24}};
  for (const int tokens : {1, 2, 9, 64}) {
    check_ffn<problem, Bf16, Bf16>(tokens, Routing::spread);
    check_ffn<problem, float, Bf16>(tokens, Routing::spread);
  }
  check_ffn<problem, float, float>(5, Routing::spread);
  for (const Routing routing : {Routing::one_expert, Routing::ends}) {
    check_ffn<problem, Bf16, Bf16>(1, routing);
    check_ffn<problem, float, Bf16>(40, routing);
  }
}

}  // namespace

int main() {
  check_router<MoeRouter{.experts = 8, .hidden = 64, .chosen = 2}, float, float>();
  check_router<MoeRouter{.experts = 64, .hidden = 96, .chosen = 6, .correction = true}, float, float>();
  check_router<MoeRouter{.experts = 21, .hidden = 33, .chosen = 21, .correction = true}, float, Bf16>();
  check_router<MoeRouter{.experts = 1, .hidden = 16, .chosen = 1}, Bf16, float>();
  check_extremes();
  check_ffn_types<96, 64, 32, true>();
  check_ffn_types<40, 24, 8, false>();
  check_ffn_types<128, 48, 16, true>();
  std::printf("moe: %d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
