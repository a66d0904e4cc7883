// Random draws on the GPU (runtime/device/cuda/draw.cuh): each drawn id lies in the set that top_k, top_p and min_p leave, frequencies follow the weights,
// and neither the batch nor the place in it matters; then times of one step's draws. Build and run as bench/gpu/check.cu.
#include "../../runtime/device/cuda/draw.cuh"

#include <limits>
#include <numeric>

#include "harness.cuh"

using namespace ern::cuda;
using namespace bench;

namespace {

constexpr int cluster = 8;

template <int Vocab>
__global__ void __launch_bounds__(draw_threads, 2) draw_kernel(const Step* step, const float* logits, const int32_t* argmax, const DrawRow* rows,
                                                            const uint32_t* allowed, int32_t* next, int32_t* host, int64_t stride) {
  extern __shared__ uint32_t keys[];
  draw<cluster, Vocab>(step, logits, argmax, rows, allowed, next, host, stride, keys);
}

template <int Vocab>
void record(cudaStream_t stream, const DeviceStep& step, int rows, const float* logits, const int32_t* argmax, const DrawRow* how, const uint32_t* allowed,
            int32_t* next, int32_t* host, int64_t stride) {
  launch(draw_kernel<Vocab>, {dim3(cluster, static_cast<unsigned>(rows)), draw_threads, size_t(draw_shared_bytes(cluster, Vocab)), cluster}, stream, step.get(), logits, argmax, how, allowed, next,
         host, stride);
}

struct Case {
  float temperature, top_p = 1, min_p = 0;
  int top_k = 0;
  bool masked = false;
  float spread = 1;  // of the logits
  int vocab = 0;
};

// Which ids may come, with their shares. A weight within 1e-4 of a border may or may not: `sure` is false for it.
struct Expected {
  std::vector<double> share;
  std::vector<char> possible;
};

Expected expected_of(const Case& c, const std::vector<float>& logits, const std::vector<uint32_t>& allowed) {
  const double max = *std::max_element(logits.begin(), logits.end());
  std::vector<double> weight(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    const double w = std::exp((logits[i] - max) / c.temperature);
    weight[i] = w >= c.min_p && (!c.masked || (allowed[i / 32] >> (i % 32) & 1)) ? w : 0;
  }
  std::vector<double> sorted = weight;
  std::sort(sorted.rbegin(), sorted.rend());
  double border = 0;
  if (c.top_k > 0 && c.top_k < c.vocab) border = sorted[static_cast<size_t>(c.top_k) - 1], sorted.resize(static_cast<size_t>(c.top_k));
  if (c.top_p < 1) {
    const double wanted = c.top_p * std::accumulate(sorted.begin(), sorted.end(), 0.0);
    double sum = 0;
    size_t i = 0;
    while (i < sorted.size() && sum < wanted) sum += sorted[i++];
    border = std::max(border, sorted[i - 1]);
  }
  Expected e;
  double total = 0;
  for (const double w : weight) {
    e.possible.push_back(w > 0 && w >= border * (1 - 1e-4));
    e.share.push_back(w >= border ? w : 0);
    total += e.share.back();
  }
  for (double& share : e.share) share /= total;
  return e;
}

void fail(const std::string& what) {
  ++failures;
  std::printf("FAIL %s\n", what.c_str());
}

template <int Vocab>
void check_case(Case c) {
  c.vocab = Vocab;
  constexpr int draws = 20000;
  char name[160];
  std::snprintf(name, sizeof name, "draw vocab %d T %.2f top_p %.2f top_k %d min_p %.3f masked %d spread %.1f", c.vocab, c.temperature, c.top_p, c.top_k,
                c.min_p, c.masked, c.spread);
  Buffer<float> logits(static_cast<size_t>(c.vocab));
  fill_normal(logits, c.spread);
  const auto best = static_cast<int32_t>(std::max_element(logits.host.begin(), logits.host.end()) - logits.host.begin());
  Buffer<uint32_t> allowed(static_cast<size_t>((c.vocab + 31) / 32));
  for (auto& word : allowed.host) word = static_cast<uint32_t>(random_engine()());
  allowed.upload();
  Buffer<int32_t> argmax(draws), next(draws), again(draws), host(draws);
  std::fill(argmax.host.begin(), argmax.host.end(), best);
  argmax.upload();
  Buffer<DrawRow> rows(draws);
  const uint64_t seed = random_engine()();
  for (int i = 0; i < draws; ++i) rows.host[static_cast<size_t>(i)] = {c.temperature, c.top_p, c.min_p, c.top_k, seed, static_cast<uint64_t>(i)};
  rows.upload();
  const uint32_t* const mask = c.masked ? allowed.device : nullptr;
  next.poison(), host.poison(), again.poison();
  // All rows are the same logits: stride 0.
  const DeviceStep step(draws, draws, 1);
  record<Vocab>(nullptr, step, draws, logits.device, argmax.device, rows.device, mask, next.device, host.device, 0);
  CK(cudaDeviceSynchronize());
  next.download();
  expect_equal(std::string(name) + ": both copies", host, next.host);
  // A row alone, and at another place: only its seed and position count.
  const DeviceStep one(1, 1, 1);
  for (int i : {0, 777, draws - 1}) {
    record<Vocab>(nullptr, one, 1, logits.device, argmax.device, rows.device + i, mask, again.device, host.device, 0);
    CK(cudaDeviceSynchronize());
    again.download();
    ++checks;
    if (again.host[0] != next.host[static_cast<size_t>(i)]) fail(std::string(name) + ": alone another token");
  }
  const Expected e = expected_of(c, logits.host, allowed.host);
  std::vector<int> count(static_cast<size_t>(c.vocab));
  ++checks;
  for (const int32_t id : next.host) {
    if (id < 0 || id >= c.vocab || !e.possible[static_cast<size_t>(id)]) return fail(std::string(name) + ": id " + std::to_string(id) + " can't come");
    ++count[static_cast<size_t>(id)];
  }
  // Chi-square over the ids that are expected five times and more, and the rest as one; 6 sigma above its mean.
  double chi = 0, rest_expected = 0, rest_found = 0;
  int cells = 0;
  for (size_t i = 0; i < count.size(); ++i) {
    const double wanted = e.share[i] * draws;
    if (wanted < 5) {
      rest_expected += wanted, rest_found += count[i];
      continue;
    }
    chi += (count[i] - wanted) * (count[i] - wanted) / wanted, ++cells;
  }
  if (rest_expected >= 5) chi += (rest_found - rest_expected) * (rest_found - rest_expected) / rest_expected, ++cells;
  const double freedom = std::max(1, cells - 1);
  ++checks;
  if (chi > freedom + 6 * std::sqrt(2 * freedom) + 6) fail(std::string(name) + ": chi-square " + std::to_string(chi) + " of " + std::to_string(cells));
  else if (std::getenv("VERBOSE")) std::printf("ok   %s: chi-square %.1f of %d\n", name, chi, cells);
}

// Rows with nothing to choose, and rows behind the step's.
void check_edges() {
  constexpr int vocab = 1031, rows = 6;
  constexpr float infinity = std::numeric_limits<float>::infinity();
  Buffer<float> logits(size_t{vocab} * rows);
  fill_normal(logits, 1);
  const auto row = [&](int r) { return logits.host.begin() + r * vocab; };
  std::fill(row(1), row(2), -infinity);
  std::fill(row(2), row(3), std::nanf(""));
  *(row(3) + 17) = infinity;
  *(row(4) + 5) = 100;  // the best, which is not allowed
  logits.upload();
  Buffer<int32_t> argmax(rows), next(rows), host(rows);
  argmax.host = {3, 0, 0, 17, 5, 9};
  argmax.upload();
  Buffer<uint32_t> allowed((vocab + 31) / 32);
  std::fill(allowed.host.begin(), allowed.host.end(), ~0u);
  allowed.host[0] = ~(1u << 5);
  allowed.upload();
  Buffer<DrawRow> how(rows);
  for (int i = 0; i < rows; ++i) how.host[static_cast<size_t>(i)] = {i == 0 ? 0.0f : 0.7f, 0.9f, 0, 0, 5, 6};
  how.upload();
  next.poison(), host.poison();
  const DeviceStep step(rows - 1, rows - 1, 1);
  record<vocab>(nullptr, step, rows, logits.device, argmax.device, how.device, allowed.device, next.device, host.device, vocab);
  CK(cudaDeviceSynchronize());
  // Beside a logit of 100 all others are less than 2^-36 of it: nothing is left, and the host decides.
  expect_equal("draw: rows with nothing to choose", next, {3, -1, -1, 17, -1, -1});
}

void time_draws() {
  constexpr int vocab = 103424, most = 64;
  Buffer<float> logits(size_t{vocab} * most);
  fill_normal(logits, 3);
  Buffer<int32_t> argmax(most), next(most), host(most);
  for (int r = 0; r < most; ++r) {
    const auto begin = logits.host.begin() + static_cast<ptrdiff_t>(r) * vocab;
    argmax.host[static_cast<size_t>(r)] = static_cast<int32_t>(std::max_element(begin, begin + vocab) - begin);
  }
  argmax.upload();
  for (const auto& [name, how] : {std::pair<const char*, DrawRow>{"argmax", {0, 1, 0, 0, 1, 1}}, {"all", {1, 1, 0, 0, 1, 1}},
                                  {"top_p 0.8", {0.8f, 0.8f, 0, 0, 1, 1}}, {"top_k 50, top_p 0.9", {0.8f, 0.9f, 0, 50, 1, 1}}}) {
    Buffer<DrawRow> rows(most);
    std::fill(rows.host.begin(), rows.host.end(), how);
    rows.upload();
    for (int batch : {1, 16, 64}) {
      const DeviceStep step(batch, batch, 1);
      const double us = time_graph([&](cudaStream_t stream) {
        record<vocab>(stream, step, batch, logits.device, argmax.device, rows.device, nullptr, next.device, host.device, vocab);
      }, 8);
      std::printf("draw %-20s batch %2d: %6.2f us\n", name, batch, us);
    }
  }
}

}  // namespace

int main() {
  check_case<103424>({.temperature = 0.8f, .top_p = 0.8f, .masked = true, .spread = 3});
  check_case<103424>({.temperature = 1, .spread = 2});
  check_case<103424>({.temperature = 0.7f, .top_k = 50, .masked = true, .spread = 3});
  check_case<103424>({.temperature = 1.3f, .top_p = 0.95f, .top_k = 40, .spread = 2});
  check_case<103424>({.temperature = 1, .min_p = 0.05f, .masked = true, .spread = 3});
  check_case<103424>({.temperature = 0.3f, .top_p = 0.5f, .min_p = 0.01f, .top_k = 7, .masked = true, .spread = 4});
  check_case<103424>({.temperature = 2, .top_p = 0.95f});  // more than one block finishes by itself
  check_case<103424>({.temperature = 1, .top_p = 0.9f, .top_k = 5000, .spread = 2});
  check_case<151936>({.temperature = 0.8f, .top_p = 0.9f, .masked = true, .spread = 3});
  check_case<200003>({.temperature = 0.8f, .top_p = 0.9f, .top_k = 100, .masked = true, .spread = 3});  // more than stays in shared memory
  check_case<1>({.temperature = 1, .top_p = 0.5f, .top_k = 1});
  check_case<31>({.temperature = 1, .top_p = 0.9f, .top_k = 5});
  check_case<257>({.temperature = 2, .top_p = 0.6f, .masked = true});
  check_case<1031>({.temperature = 0.5f, .top_k = 3});
  check_case<8192>({.temperature = 1, .top_p = 1e-6f});
  check_edges();
  std::printf("%d checks, %d failures\n", checks, failures);
  time_draws();
  return failures != 0;
}
