// Measures how fast the memory of the first GPU is: the best of some copies within it, bytes read plus bytes written a second, which is what decoding is
// held against, and the clocks under it. Prints one JSON object; ends with 1 and a message where there is no GPU.

#include <algorithm>
#include <cstdio>

#include "src/cuda/driver.hpp"
#include "tools/gpu_management.hpp"

using namespace ern;
using namespace ern::cuda;

namespace {

constexpr size_t bytes = size_t{1} << 30;  // far more than the L2 holds
constexpr int copies = 4, repeats = 8;

// 0, or what failed.
int measure(const Driver& driver, double& best, Management& clocks) {
  Device device = 0;
  Context context = nullptr;
  Pointer from = 0, to = 0;
  Event begin = nullptr, end = nullptr;
  Stream stream = nullptr;
  int error = driver.device_get(&device, 0);
  const auto then = [&error](auto call) {
    if (error == success) error = call();
  };
  then([&] { return driver.context_retain(&context, device); });
  then([&] { return driver.context_set(context); });
  then([&] { return driver.stream_create(&stream, stream_non_blocking); });
  then([&] { return driver.alloc(&from, bytes); });
  then([&] { return driver.alloc(&to, bytes); });
  then([&] { return driver.event_create(&begin, 0); });
  then([&] { return driver.event_create(&end, 0); });
  then([&] { return driver.set_bytes(from, 0x5A, bytes, stream); });
  for (int i = 0; i < repeats; ++i) {
    float milliseconds = 0;
    then([&] { return driver.event_record(begin, stream); });
    for (int j = 0; j < copies; ++j) then([&] { return driver.copy(to, from, bytes, stream); });
    then([&] { return driver.event_record(end, stream); });
    if (i + 1 == repeats) clocks = ask_management(0);  // while it works
    then([&] { return driver.event_synchronize(end); });
    then([&] { return driver.event_elapsed(&milliseconds, begin, end); });
    if (error == success) best = std::max(best, 2.0 * copies * static_cast<double>(bytes) / (milliseconds / 1e3));
  }
  return error;  // the process ends here, and everything with it
}

}  // namespace

int main() {
  const auto driver = Driver::get();
  double best = 0;
  Management clocks;
  if (!driver.ok()) return std::fprintf(stderr, "%s\n", driver.status().message().c_str()), 1;
  if (const int error = measure(*driver.value(), best, clocks); error != success)
    return std::fprintf(stderr, "%s\n", driver.value()->failure(error, "measuring its memory").message().c_str()), 1;
  std::printf("{\"bytesPerSecond\": %.0f, \"megahertz\": %u, \"memoryMegahertz\": %u}\n", best, clocks.megahertz, clocks.memory_megahertz);
}
