#include "driver.hpp"

#include <dlfcn.h>

#include <mutex>

namespace ern::cuda {
namespace {

constexpr const char* library = "libcuda.so.1";
// The least that says how old a driver is.
constexpr const char* missing_driver =
    "this package runs on an NVIDIA GPU, and the driver's libcuda.so.1 can't be opened: install the driver (in a "
    "container, start it with --gpus all)";

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

Status open(Driver& driver) {
  void* const handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (!handle) return {Code::unsupported, missing_driver};
  const auto find = [handle](const char* symbol) { return dlsym(handle, symbol); };
  if (const auto version = reinterpret_cast<int (*)(int*)>(find("cuDriverGetVersion"))) {
    int number = 0;
    if (version(&number) == success && number < oldest_driver) {
      return {Code::unsupported, "the NVIDIA driver knows CUDA " + version_text(number) +
                                     ", and this package needs one that knows " + version_text(oldest_driver) +
                                     " or newer: update the driver"};
    }
  }
  const char* missing = nullptr;
#define ERN_CUDA_FIND(name, symbol, ...)                                                                               \
  driver.name = reinterpret_cast<int (*)(__VA_ARGS__)>(find(#symbol));                                                 \
  if (!driver.name && !missing) missing = #symbol;
  ERN_CUDA_CALLS(ERN_CUDA_FIND)
#undef ERN_CUDA_FIND
  // An older driver calls this one by its first name; both take the same arguments.
  if (!driver.event_elapsed) {
    driver.event_elapsed = reinterpret_cast<int (*)(float*, Event, Event)>(find("cuEventElapsedTime"));
    if (driver.event_elapsed && missing == std::string("cuEventElapsedTime_v2")) missing = nullptr;
  }
  if (missing) {
    return {Code::unsupported, std::string("the NVIDIA driver's libcuda.so.1 lacks ") + missing + ": update the driver"};
  }
  if (const int error = driver.init(0); error != success) {
    const char* name = nullptr;
    driver.error_name(error, &name);
    const std::string said = name ? name : std::to_string(error);
    if (error == error_no_device) return {Code::unsupported, "the NVIDIA driver finds no GPU (" + said + ")"};
    return {Code::unsupported, "the NVIDIA driver does not start: " + said};
  }
  return {};
}

}  // namespace

Result<const Driver*> Driver::get() {
  static std::mutex mutex;
  static Driver driver;
  static bool opened = false;
  const std::lock_guard lock(mutex);
  if (!opened) {
    // A failure is not kept: the driver may come up later.
    if (Status status = open(driver); !status.ok()) return status;
    opened = true;
  }
  return static_cast<const Driver*>(&driver);
}

Status Driver::failure(int error, const char* what) const {
  const char *name = nullptr, *text = nullptr;
  error_name(error, &name);
  error_string(error, &text);
  std::string message = std::string("the GPU failed in ") + what + ": " + (name ? name : "error " + std::to_string(error));
  if (text) message += std::string(" (") + text + ")";
  return {error == error_out_of_memory ? Code::out_of_memory : Code::device, std::move(message)};
}

}  // namespace ern::cuda
