#include "weights.hpp"

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "packed_file.hpp"
#include "pieces.hpp"
#include "synthetic.hpp"

namespace ern {
namespace {

// What the page cache gives to two cores; an automatic copy that is slower would make loading a wait, and is not worth
// it.
constexpr double slowest_copy = 4e9;  // bytes a second

// Weights that some engine of this process holds. Never destroyed: engines may still run when a process exits.
struct Shared {
  std::mutex mutex;
  std::map<std::string, std::weak_ptr<const Weights>> loaded;
};
Shared& shared() {
  static Shared* const instance = new Shared;
  return *instance;
}

using Loaded = Result<std::shared_ptr<const Weights>>;

Status check_room(uint64_t bytes) {
  const uint64_t room = available_memory();
  if (bytes <= room) return {};
  return {Code::out_of_memory, "the weights take " + std::to_string(bytes >> 20) + " MiB, and this process can take " +
                                   std::to_string(room >> 20) + " MiB"};
}

Loaded make_up(const Plan& plan, ThreadPool& pool) {
  if (Status room = check_room(plan.weights_bytes); !room.ok()) return room;
  auto mapping = Mapping::anonymous(plan.weights_bytes, "weights");
  if (!mapping.ok()) return mapping.status();
  const std::vector<double> normal = normal_quantiles();
  const auto fill = [&]<class Element>(uint32_t index, Element* elements) {
    const Filler<Element> filler(plan.synthetic_seed, index, plan.synthetic[index], normal);
    in_pieces(pool, plan.synthetic[index].elements * sizeof(Element), [&](uint64_t begin, uint64_t end) {
      filler.fill(elements, begin / sizeof(Element), end / sizeof(Element));
    });
  };
  for (uint32_t i = 0; i < plan.synthetic_count; ++i) {
    std::byte* const data = mapping.value().data() + plan.synthetic[i].offset;
    if (plan.synthetic[i].dtype == Dtype::bf16) fill(i, reinterpret_cast<uint16_t*>(data));
    else fill(i, reinterpret_cast<float*>(data));
  }
  return std::make_shared<const Weights>(std::move(mapping.value()), 0, WeightsMode::copy);
}

Loaded copy(const PackedFile& file, const Plan& plan, ThreadPool& pool, double slowest) {
  if (Status room = check_room(plan.weights_bytes); !room.ok()) return room;
  auto mapping = file.copy(pool, slowest);
  if (!mapping.ok()) return mapping.status();
  return std::make_shared<const Weights>(std::move(mapping.value()), 0, WeightsMode::copy);
}

Loaded read(const PackedFile& file, const Plan& plan, WeightsMode mode, ThreadPool& pool) {
  if (Status header = file.check_header(); !header.ok()) return header;
  if (mode == WeightsMode::copy) return copy(file, plan, pool, 0);
  // A tenth of what is left stays free: for the KV cache's first pages, and for everybody else.
  if (mode == WeightsMode::automatic && huge_pages_allowed() && plan.weights_bytes < available_memory() / 10 * 9) {
    Loaded copied = copy(file, plan, pool, slowest_copy);
    if (copied.ok() || copied.status().code() != Code::busy) return copied;
  }
  auto mapping = file.map();
  if (!mapping.ok()) return mapping.status();
  return std::make_shared<const Weights>(std::move(mapping.value()), plan.weights_file.data_offset, WeightsMode::map);
}

}  // namespace

Loaded Weights::load(const Plan& plan, const Package& package, WeightsMode mode, bool verify, ThreadPool& pool) {
  if (!plan.weights_file.name) {
    const std::lock_guard lock(shared().mutex);
    auto& entry = shared().loaded[std::string(plan.build_id) + " " + std::to_string(plan.synthetic_seed)];
    if (auto found = entry.lock()) return found;
    Loaded loaded = make_up(plan, pool);
    if (loaded.ok()) entry = loaded.value();
    return loaded;
  }
  const auto file = PackedFile::open(plan, package);
  if (!file.ok()) return file.status();
  // Held while loading: an engine that wants the same weights waits for them instead of loading them again.
  const std::lock_guard lock(shared().mutex);
  auto& entry = shared().loaded[file.value().identity() + std::to_string(static_cast<int>(mode))];
  std::shared_ptr<const Weights> weights = entry.lock();
  if (!weights) {
    const Loaded loaded = read(file.value(), plan, mode, pool);
    if (!loaded.ok()) return loaded;
    weights = loaded.value();
  }
  if (verify) {
    if (Status status = file.value().verify(weights->data()); !status.ok()) return status;
  }
  entry = weights;
  return weights;
}

}  // namespace ern
