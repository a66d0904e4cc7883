// Attention over a paged cache against softmax in doubles, at awkward shapes, and bit for bit against itself: one step,
// one token at a time, chunks of 7, other batches, other thread counts, split by cache chunks or not.
#include "device/cpu/attention.hpp"

#include <algorithm>
#include <numeric>

#include "matmul_support.hpp"

namespace {

using namespace test;
using ern::Step;
using ern::cpu::Attention;
using ern::cpu::to_f32;

// Sequences with their K and V as a model would see them, and the same in the blocks of a pool of two layers.
template <Attention problem, class KV>
struct Cache {
  static constexpr int layers = 2, layer = 1;
  using Block = ern::layout::KvBlock<problem.kv_heads, problem.head_dim, problem.block_size, sizeof(KV) == 2 ? 2 : 1>;
  static_assert(problem.kv_block_bytes == layers * Block::bytes);

  std::vector<int> contexts;
  std::vector<std::vector<KV>> keys, values;  // [context][kv_head][head_dim]
  std::vector<std::vector<int32_t>> blocks;   // of each sequence, no more than it needs
  std::vector<char> pool;                     // what no token fills is NaN

  Cache(const std::vector<int>& lengths, Random& random) : contexts(lengths) {
    int total = 1;
    for (int context : contexts) total += (context + problem.block_size - 1) / problem.block_size;
    std::vector<int32_t> free(total);
    std::iota(free.begin(), free.end(), 0);
    for (int i = total - 1; i > 0; --i) std::swap(free[i], free[random.below(i + 1)]);
    pool.assign(total * problem.kv_block_bytes, static_cast<char>(0xff));
    for (int context : contexts) {
      keys.push_back(random_values<KV>(size_t{1} * context * problem.kv_heads * problem.head_dim, 2, random));
      values.push_back(random_values<KV>(size_t{1} * context * problem.kv_heads * problem.head_dim, 1, random));
      blocks.emplace_back();
      for (int token = 0; token < context; ++token) {
        if (token % problem.block_size == 0) {
          blocks.back().push_back(free.back());
          free.pop_back();
        }
        KV* to =
            reinterpret_cast<KV*>(pool.data() + blocks.back().back() * problem.kv_block_bytes + layer * Block::bytes);
        for (int head = 0; head < problem.kv_heads; ++head) {
          for (int dim = 0; dim < problem.head_dim; ++dim) {
            const size_t from = (size_t{1} * token * problem.kv_heads + head) * problem.head_dim + dim;
            to[Block::key(head, token % problem.block_size, dim)] = keys.back()[from];
            to[Block::value(head, token % problem.block_size, dim)] = values.back()[from];
          }
        }
      }
    }
  }
};

// One step's part of one sequence: its tokens from .. to - 1, each once.
struct Piece {
  int sequence;
  int from;
  int to;
};

template <Attention problem, class Q, class KV, class Out>
struct Fixture {
  static constexpr int width = problem.heads * problem.head_dim;
  Random random;
  Cache<problem, KV> cache;
  std::vector<std::vector<Q>> queries;  // [context][heads][head_dim]
  float scale = 1 / std::sqrt(static_cast<float>(problem.head_dim));

  Fixture(const std::vector<int>& contexts, uint64_t seed) : random(seed), cache(contexts, random) {
    for (int context : contexts) queries.push_back(random_values<Q>(size_t{1} * context * width, 2, random));
  }

  Buffer<Out> run(const std::vector<Piece>& pieces, int threads) const {
    std::vector<int32_t> start{0}, context, table;
    size_t stride = 0;
    for (const Piece& piece : pieces) stride = std::max(stride, cache.blocks[piece.sequence].size());
    std::vector<Q> q;
    for (const Piece& piece : pieces) {
      const auto& from = queries[piece.sequence];
      q.insert(q.end(), from.begin() + size_t{1} * piece.from * width, from.begin() + size_t{1} * piece.to * width);
      start.push_back(start.back() + piece.to - piece.from);
      context.push_back(piece.to);
      table.insert(table.end(), cache.blocks[piece.sequence].begin(), cache.blocks[piece.sequence].end());
      table.resize(context.size() * stride, INT32_MAX);  // an entry that no token needs must not be followed
    }
    const Step step{start.back(), static_cast<int32_t>(pieces.size()), static_cast<int32_t>(stride)};
    Buffer<Out> out(size_t{1} * start.back() * width);
    Buffer<float> partial(problem.partial_rows * ern::cpu::attention_partial(problem.head_dim));
    const KV* kv =
        reinterpret_cast<const KV*>(cache.pool.data() + Cache<problem, KV>::layer * Cache<problem, KV>::Block::bytes);
    run_team(threads, [&](Team& team) {
      ern::cpu::attention<problem>(step, q.data(), kv, table.data(), start.data(), context.data(), scale,
                                   partial.data(), out.data(), team);
    });
    CHECK(out.intact() && partial.intact(), "a guard was overwritten");
    return out;
  }

  std::vector<double> expected(const Piece& piece) const {
    std::vector<double> out;
    const auto& keys = cache.keys[piece.sequence];
    const auto& values = cache.values[piece.sequence];
    for (int token = piece.from; token < piece.to; ++token) {
      for (int head = 0; head < problem.heads; ++head) {
        const Q* q = &queries[piece.sequence][size_t{1} * token * width + head * problem.head_dim];
        const int kv_head = head / (problem.heads / problem.kv_heads);
        std::vector<double> p(token + 1);
        double peak = -1e300, mass = 0;
        for (int j = 0; j <= token; ++j) {
          const KV* k = &keys[(size_t{1} * j * problem.kv_heads + kv_head) * problem.head_dim];
          for (int dim = 0; dim < problem.head_dim; ++dim) p[j] += double{to_f32(q[dim])} * to_f32(k[dim]) * scale;
          peak = std::max(peak, p[j]);
        }
        for (double& value : p) mass += value = std::exp(value - peak);
        std::vector<double> row(problem.head_dim);
        for (int j = 0; j <= token; ++j) {
          const KV* v = &values[(size_t{1} * j * problem.kv_heads + kv_head) * problem.head_dim];
          for (int dim = 0; dim < problem.head_dim; ++dim) row[dim] += p[j] / mass * to_f32(v[dim]);
        }
        out.insert(out.end(), row.begin(), row.end());
      }
    }
    return out;
  }

  // The same tokens in other steps: each piece alone in steps of `chunk` tokens.
  void check_same_in_chunks(const std::vector<Piece>& pieces, const Buffer<Out>& whole, int chunk, int threads) const {
    size_t at = 0;
    for (const Piece& piece : pieces) {
      for (int from = piece.from; from < piece.to; from += chunk) {
        const int to = std::min(from + chunk, piece.to);
        const Buffer<Out> part = run({{piece.sequence, from, to}}, threads);
        CHECK(std::memcmp(part.data(), whole.data() + at, part.size() * sizeof(Out)) == 0,
              "heads %d/%d dim %d block %d: tokens %d..%d of %d differ alone (chunk %d, %d threads)", problem.heads,
              problem.kv_heads, problem.head_dim, problem.block_size, from, to, piece.to, chunk, threads);
        at += part.size();
      }
    }
  }

  void check_values(const std::vector<Piece>& pieces, const Buffer<Out>& out) const {
    std::vector<double> want;
    for (const Piece& piece : pieces) {
      const std::vector<double> here = expected(piece);
      want.insert(want.end(), here.begin(), here.end());
    }
    const double error = nmse(out.data(), want);
    CHECK(error < bar<Out>, "heads %d/%d dim %d block %d: nmse %g", problem.heads, problem.kv_heads, problem.head_dim,
          problem.block_size, error);
  }
};

// Several sequences: a first token, a short prompt, a chunk in the middle, a decode far in, a whole prompt of 100.
template <Attention problem, class Q, class KV, class Out>
void check_mixed_batch() {
  const Fixture<problem, Q, KV, Out> it({1, 7, 158, 200, 100, 64}, problem.heads * 131 + problem.head_dim);
  const std::vector<Piece> pieces{{0, 0, 1}, {1, 0, 7}, {2, 127, 158}, {3, 199, 200}, {4, 0, 100}, {5, 63, 64}};
  const Buffer<Out> out = it.run(pieces, 1);
  it.check_values(pieces, out);
  for (int threads = 2; threads <= 4; ++threads) CHECK(it.run(pieces, threads) == out, "%d threads differ", threads);
  it.check_same_in_chunks(pieces, out, 1, 1);
  it.check_same_in_chunks(pieces, out, 7, 2);
}

// Beyond one chunk of the cache: merged as it goes, or split over threads where there is room for the parts.
template <Attention problem, class Q, class KV, class Out>
void check_long_context() {
  const Fixture<problem, Q, KV, Out> it({1300, 513, 40}, 7);
  const std::vector<Piece> decode{{0, 1299, 1300}}, batch{{2, 39, 40}, {0, 1299, 1300}, {1, 512, 513}};
  const std::vector<Piece> prefill{{1, 500, 513}, {0, 1010, 1032}};
  for (const std::vector<Piece>& pieces : {decode, batch, prefill}) {
    const Buffer<Out> out = it.run(pieces, 1);
    it.check_values(pieces, out);
    for (int threads = 2; threads <= 4; ++threads) CHECK(it.run(pieces, threads) == out, "%d threads differ", threads);
    it.check_same_in_chunks(pieces, out, 1, 3);
    it.check_same_in_chunks(pieces, out, 7, 1);
  }
}

// A large score must win whole, and equal scores must share: no overflow, no 0/0.
void check_extremes() {
  constexpr Attention problem{
      .heads = 1, .kv_heads = 1, .head_dim = 16, .block_size = 16, .kv_block_bytes = 2 * 2 * 16 * 16 * 4};
  Fixture<problem, float, float, float> it({70}, 3);
  using Block = Cache<problem, float>::Block;
  const auto set_key = [&](int token, float value) {
    char* block = it.cache.pool.data() + it.cache.blocks[0][token / 16] * problem.kv_block_bytes + Block::bytes;
    for (int dim = 0; dim < 16; ++dim) {
      it.cache.keys[0][token * 16 + dim] = value;
      reinterpret_cast<float*>(block)[Block::key(0, token % 16, dim)] = value;
    }
  };
  for (float& q : it.queries[0]) q = 1;
  for (const float big : {-3e4f, 0.0f, 3e4f}) {
    for (int token = 0; token < 70; ++token) set_key(token, big);
    it.check_values({{0, 0, 70}}, it.run({{0, 0, 70}}, 1));  // a plain mean
    set_key(65, big + 1000);
    it.check_values({{0, 0, 70}}, it.run({{0, 0, 70}}, 1));  // from token 65 on: v[65]
    set_key(2, big + 2000);
    it.check_values({{0, 0, 70}}, it.run({{0, 0, 70}}, 1));
  }
}

void check_layout() {
  using Pairs = ern::layout::KvBlock<3, 32, 16, 2>;
  using Plain = ern::layout::KvBlock<3, 32, 16, 1>;
  static_assert(Pairs::key(0, 1, 0) == 2 && Pairs::key(0, 0, 1) == 1 && Pairs::key(0, 0, 2) == 32 &&
                Pairs::key(1, 0, 0) == 512);
  static_assert(Plain::key(0, 1, 0) == 1 && Plain::key(0, 0, 1) == 16 && Plain::value(0, 1, 0) == 3 * 512 + 32);
  static_assert(Pairs::bytes == 2 * 3 * 32 * 16 * 2 && Plain::bytes == 2 * Pairs::bytes);
  const auto check = [](auto block) {
    using Block = decltype(block);
    for (int64_t offset = 0; offset < Block::elements; ++offset) {
      const ern::layout::KvPlace place = Block::at(offset);
      const int64_t back = place.is_value ? Block::value(place.kv_head, place.token, place.dim)
                                          : Block::key(place.kv_head, place.token, place.dim);
      CHECK(back == offset, "kv_block: %d comes back as %d", static_cast<int>(offset), static_cast<int>(back));
    }
  };
  check(Pairs{});
  check(Plain{});
}

constexpr Attention shape(int heads, int kv_heads, int head_dim, int block_size, int element,
                          int64_t partial_rows = 0) {
  return {heads,       kv_heads, head_dim, block_size, int64_t{2} * 2 * kv_heads * head_dim * block_size * element,
          partial_rows};
}

}  // namespace

int main() {
  check_layout();
  check_extremes();
  check_mixed_batch<shape(16, 2, 128, 64, 2), Bf16, Bf16, Bf16>();
  check_mixed_batch<shape(5, 1, 64, 16, 2), Bf16, Bf16, Bf16>();
  check_mixed_batch<shape(7, 1, 16, 32, 2), Bf16, Bf16, float>();
  check_mixed_batch<shape(4, 2, 64, 64, 2), float, Bf16, float>();
  check_mixed_batch<shape(3, 3, 32, 16, 4), float, float, float>();
  check_mixed_batch<shape(6, 2, 80, 64, 4), float, float, Bf16>();
  check_long_context<shape(4, 1, 32, 16, 4, 400), float, float, float>();
  check_long_context<shape(8, 1, 32, 64, 2, 8 * 3), Bf16, Bf16, Bf16>();
  if (failures != 0) std::printf("%d checks failed\n", failures);
  return failures == 0 ? 0 : 1;
}
