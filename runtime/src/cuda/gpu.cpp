#include "gpu.hpp"

#include <span>
#include <type_traits>

namespace ern::cuda {
namespace {

std::string capability_text(int major, int minor) { return std::to_string(major) + "." + std::to_string(minor); }

bool runs(const DevicePlan& plan, int major, int minor) {
  return major == plan.major && (plan.exact ? minor == plan.minor : minor >= plan.minor);
}

}  // namespace

Result<std::unique_ptr<Gpu>> Gpu::open(const DevicePlan& plan) {
  const auto driver = Driver::get();
  if (!driver.ok()) return driver.status();
  std::unique_ptr<Gpu> made(new Gpu);
  Gpu& gpu = *made;
  gpu.driver_ = driver.value();
  const Driver& d = *gpu.driver_;
  int count = 0;
  if (Status status = gpu.check(d.device_count(&count), "counting GPUs"); !status.ok()) return status;
  std::string found;
  for (int ordinal = 0; ordinal < count && gpu.name_.empty(); ++ordinal) {
    Device device = 0;
    char name[256] = "";
    int error = d.device_get(&device, ordinal);
    if (error == success) error = d.device_name(name, sizeof name, device);
    const auto attribute = [&](int* value, DeviceAttribute which) {
      if (error == success) error = d.device_attribute(value, which, device);
    };
    attribute(&gpu.major_, attribute_major);
    attribute(&gpu.minor_, attribute_minor);
    attribute(&gpu.shared_bytes_, attribute_shared_bytes);
    attribute(&gpu.multiprocessors_, attribute_multiprocessors);
    if (Status status = gpu.check(error, "asking for a GPU's properties"); !status.ok()) return status;
    if (runs(plan, gpu.major_, gpu.minor_)) {
      gpu.device_ = device, gpu.ordinal_ = ordinal, gpu.name_ = name;
    } else {
      found += (found.empty() ? "" : ", ") + std::string(name) + " (" + capability_text(gpu.major_, gpu.minor_) + ")";
    }
  }
  if (gpu.name_.empty()) {
    return Status{Code::unsupported,
                  std::string("this package was compiled for ") + plan.arch + ", a GPU of compute capability " +
                      capability_text(plan.major, plan.minor) + (plan.exact ? "" : " or newer of that generation") +
                      ", and found " + (found.empty() ? "none" : found) +
                      "; build it again for this GPU with --arch, or choose another with CUDA_VISIBLE_DEVICES"};
  }
  if (Status status = gpu.check(d.context_retain(&gpu.context_, gpu.device_), "starting the GPU"); !status.ok()) return status;
  if (Status status = gpu.enter(); !status.ok()) return status;
  if (Status status = gpu.check(d.stream_create(&gpu.stream_, stream_non_blocking), "making a stream"); !status.ok())
    return status;
  return made;
}

// What is still running is waited for; a device that is lost says so at once.
Gpu::~Gpu() {
  if (!context_) return;
  driver_->context_set(context_);
  if (stream_) {
    driver_->stream_synchronize(stream_);
    driver_->stream_destroy(stream_);
  }
  driver_->context_set(nullptr);
  driver_->context_release(device_);
}

Status Gpu::enter() const { return check(driver_->context_set(context_), "taking the GPU's context"); }

Result<Gpu::Memory> Gpu::memory() const {
  size_t free = 0, total = 0;
  if (Status status = check(driver_->memory_info(&free, &total), "asking for the GPU's memory"); !status.ok()) return status;
  return Memory{free, total};
}

namespace {

int allocate(const Driver& driver, Pointer* at, uint64_t bytes) { return driver.alloc(at, bytes); }
int allocate(const Driver& driver, void** at, uint64_t bytes) { return driver.host_alloc(at, bytes, 0); }
void release(const Driver& driver, Pointer at) { driver.free(at); }
void release(const Driver& driver, void* at) { driver.host_free(at); }

}  // namespace

template <class Handle>
Result<Memory<Handle>> Memory<Handle>::create(const Gpu& gpu, uint64_t bytes, const char* what) {
  Memory memory;
  // An empty one has an address too.
  const int error = allocate(gpu.driver(), &memory.at_, bytes > 0 ? bytes : 1);
  if (error == error_out_of_memory) {
    return Status{Code::out_of_memory, std::string(std::is_same_v<Handle, Pointer> ? "the GPU has no " : "the system has no pinned ") +
                                           "memory left for " + what + ", " + std::to_string(bytes >> 20) + " MiB"};
  }
  if (error != success) return gpu.driver().failure(error, "allocating memory");
  memory.gpu_ = &gpu;
  memory.bytes_ = bytes;
  return memory;
}

template <class Handle>
Memory<Handle>::~Memory() {
  if (!at_) return;
  // Whoever destroys it may be another thread than the one that made it.
  if (gpu_->enter().ok()) release(gpu_->driver(), at_);
}

template class Memory<Pointer>;
template class Memory<void*>;

Result<Kernels> Kernels::load(const Gpu& gpu, const DevicePlan& plan) {
  Kernels kernels;
  kernels.gpu_ = &gpu;
  const Driver& driver = gpu.driver();
  for (const Cubin& cubin : std::span(plan.cubins, plan.cubin_count)) {
    Module module = nullptr;
    const int error = driver.module_load(&module, cubin.begin);
    if (error == error_no_binary || error == error_invalid_image || error == error_invalid_ptx || error == error_unsupported_ptx) {
      return Status{Code::unsupported, std::string("the NVIDIA driver refuses the package's code for ") + plan.arch + " (" +
                                           cubin.name + "): " + driver.failure(error, "loading it").message() +
                                           "; update the driver, or build the package with an older toolkit"};
    }
    if (Status status = gpu.check(error, "loading the package's kernels"); !status.ok()) return status;
    kernels.modules_.push_back(module);
  }
  for (const DeviceFunction& function : std::span(plan.functions, plan.function_count)) {
    Function found = nullptr;
    int error = driver.module_function(&found, kernels.modules_[function.cubin], function.name);
    if (error == error_not_found) return Status{Code::corrupt, std::string("the package's code has no kernel ") + function.name};
    if (Status status = gpu.check(error, "finding the package's kernels"); !status.ok()) return status;
    int threads = 0, shared = 0;
    error = driver.function_attribute(&threads, function_max_threads, found);
    if (error == success) error = driver.function_attribute(&shared, function_static_shared, found);
    if (Status status = gpu.check(error, "asking for a kernel's limits"); !status.ok()) return status;
    const int64_t wanted = int64_t{shared} + function.shared_bytes;
    if (static_cast<int>(function.threads) > threads || wanted > gpu.shared_bytes()) {
      return Status{Code::unsupported, std::string("kernel ") + function.name + " wants " + std::to_string(function.threads) +
                                           " threads and " + std::to_string(wanted) + " bytes of shared memory a block, and " +
                                           gpu.name() + " gives it " + std::to_string(threads) + " and " +
                                           std::to_string(gpu.shared_bytes())};
    }
    // Another program may do the same with launches: the executor's to say.
    if (static_cast<int>(function.resident) > gpu.multiprocessors()) found = nullptr;
    if (found && function.shared_bytes > 0) {
      error = driver.set_function_attribute(found, function_dynamic_shared, static_cast<int>(function.shared_bytes));
      if (Status status = gpu.check(error, "giving a kernel its shared memory"); !status.ok()) return status;
    }
    kernels.functions_.push_back(found);
  }
  return kernels;
}

Kernels::~Kernels() {
  if (modules_.empty() || !gpu_->enter().ok()) return;
  for (const Module module : modules_) gpu_->driver().module_unload(module);
}

}  // namespace ern::cuda
