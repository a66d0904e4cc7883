#include "device_weights.hpp"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "../packed_file.hpp"
#include "../synthetic.hpp"

namespace ern::cuda {
namespace {

using Loaded = Result<std::shared_ptr<const DeviceWeights>>;

// Never destroyed: engines may still run when a process exits.
struct Shared {
  std::mutex mutex;
  std::map<std::string, std::weak_ptr<const DeviceWeights>> loaded;
};
Shared& shared() {
  static Shared* const instance = new Shared;
  return *instance;
}

std::string key_of(const Plan& plan, const Gpu& gpu) {
  return std::string(plan.build_id) + " " + std::to_string(plan.synthetic_seed) + " " + std::to_string(gpu.ordinal());
}

// One is filled by all threads while the other is on its way: both ends of the copy stay busy.
constexpr uint64_t staging_bytes = uint64_t{32} << 20;
constexpr int staging_count = 3;

struct Staging {
  Staging(const Gpu& g) : gpu(g) {}
  ~Staging() {
    gpu.driver().stream_synchronize(gpu.stream());
    for (const Event event : events)
      if (event) gpu.driver().event_destroy(event);
  }
  const Gpu& gpu;
  PinnedMemory memory[staging_count];
  Event events[staging_count] = {};
};

Status upload(const std::byte* from, Pointer to, uint64_t bytes, const Gpu& gpu, ThreadPool& threads) {
  const Driver& driver = gpu.driver();
  Staging staging(gpu);
  const uint64_t pieces = (bytes + staging_bytes - 1) / staging_bytes;
  for (uint64_t i = 0; i < pieces; ++i) {
    const auto slot = static_cast<size_t>(i % staging_count);
    if (i < staging_count) {
      auto memory = PinnedMemory::create(gpu, std::min(bytes, staging_bytes), "copying weights");
      if (!memory.ok()) return memory.status();
      staging.memory[slot] = std::move(memory.value());
      if (Status status = gpu.check(driver.event_create(&staging.events[slot], event_no_timing), "making an event"); !status.ok())
        return status;
    } else if (Status status = gpu.check(driver.event_synchronize(staging.events[slot]), "copying weights"); !status.ok()) {
      return status;
    }
    const uint64_t begin = i * staging_bytes, size = std::min(staging_bytes, bytes - begin);
    auto* const buffer = static_cast<std::byte*>(staging.memory[slot].data());
    threads.run([&](Team& team) {
      const Range part = share(static_cast<int64_t>(size), 4096, team);
      if (part.begin < part.end) std::memcpy(buffer + part.begin, from + begin + part.begin, static_cast<size_t>(part.end - part.begin));
    });
    int error = driver.copy_in(to + begin, buffer, size, gpu.stream());
    if (error == success) error = driver.event_record(staging.events[slot], gpu.stream());
    if (Status status = gpu.check(error, "copying weights"); !status.ok()) return status;
  }
  return gpu.check(driver.stream_synchronize(gpu.stream()), "copying weights");
}

// Parameters of the filling kernels: device/cuda/synthetic.cuh.
template <class Element>
Status fill(const Plan& plan, uint32_t index, Pointer data, const std::vector<double>& normal, Pointer table,
            const Gpu& gpu, Function kernel, unsigned threads) {
  const SyntheticWeight& weight = plan.synthetic[index];
  const Filler<Element> filler(plan.synthetic_seed, index, weight, normal);
  const Driver& driver = gpu.driver();
  int error = driver.copy_in(table, filler.table().data(), fill_levels * sizeof(Element), gpu.stream());
  Pointer at = data + weight.offset;
  uint64_t elements = weight.elements, stream = filler.stream();
  void* parameters[] = {&at, &elements, &stream, &table};
  LaunchConfig config = {};
  const uint64_t blocks = (elements / 4 + threads) / threads;
  config.grid[0] = static_cast<unsigned>(std::min<uint64_t>(blocks, 4096)), config.grid[1] = config.grid[2] = 1;
  config.block[0] = threads, config.block[1] = config.block[2] = 1;
  config.stream = gpu.stream();
  if (error == success) error = driver.launch(&config, kernel, parameters, nullptr);
  return gpu.check(error, "making up weights");
}

Status make_up(const Plan& plan, Pointer data, const Gpu& gpu, const Kernels& kernels) {
  auto table = DeviceMemory::create(gpu, fill_levels * sizeof(float), "a table");
  if (!table.ok()) return table.status();
  const std::vector<double> normal = normal_quantiles();
  const DevicePlan& device = *plan.device;
  for (uint32_t i = 0; i < plan.synthetic_count; ++i) {
    const bool wide = plan.synthetic[i].dtype == Dtype::f32;
    const uint32_t index = wide ? device.fill_f32 : device.fill_bf16;
    const unsigned threads = device.functions[index].threads;
    const Function kernel = kernels.function(index);
    const Status status = wide ? fill<float>(plan, i, data, normal, table.value().data(), gpu, kernel, threads)
                               : fill<uint16_t>(plan, i, data, normal, table.value().data(), gpu, kernel, threads);
    if (!status.ok()) return status;
  }
  return gpu.check(gpu.driver().stream_synchronize(gpu.stream()), "making up weights");
}

Status read(const Plan& plan, const Package& package, bool verify, Pointer data, const Gpu& gpu, ThreadPool& threads) {
  const auto file = PackedFile::open(plan, package);
  if (!file.ok()) return file.status();
  if (Status header = file.value().check_header(); !header.ok()) return header;
  const auto mapping = file.value().map();
  if (!mapping.ok()) return mapping.status();
  const std::byte* const from = mapping.value().data() + plan.weights_file.data_offset;
  if (verify) {
    if (Status status = file.value().verify(from); !status.ok()) return status;
  }
  return upload(from, data, plan.weights_bytes, gpu, threads);
}

}  // namespace

bool DeviceWeights::loaded(const Plan& plan, const Gpu& gpu) {
  const std::lock_guard lock(shared().mutex);
  const auto found = shared().loaded.find(key_of(plan, gpu));
  return found != shared().loaded.end() && !found->second.expired();
}

Loaded DeviceWeights::load(const Plan& plan, const Package& package, bool verify, std::shared_ptr<const Gpu> gpu,
                           const Kernels& kernels, ThreadPool& threads) {
  // Held while loading: an engine that wants the same weights waits for them instead of loading them again.
  const std::lock_guard lock(shared().mutex);
  auto& entry = shared().loaded[key_of(plan, *gpu)];
  if (auto found = entry.lock()) return found;
  auto memory = DeviceMemory::create(*gpu, plan.weights_bytes, "the weights");
  if (!memory.ok()) return memory.status();
  const Pointer data = memory.value().data();
  const Status status = plan.weights_file.name ? read(plan, package, verify, data, *gpu, threads)
                                               : make_up(plan, data, *gpu, kernels);
  if (!status.ok()) return status;
  auto weights = std::make_shared<const DeviceWeights>(std::move(gpu), std::move(memory.value()));
  entry = weights;
  return weights;
}

}  // namespace ern::cuda
