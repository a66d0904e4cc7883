// How fast the first GPU is at most:
//
//     gpu_limits [<cubin>]
//
// Bytes read plus bytes written a second by copies within its memory, which is what decoding is held against; operations of bf16 products a second, which is
// what prefill is held against; and clocks under the last of them. The best of some runs counts, of copies by the copy engine or by a kernel. Without
// gpu_limits.cu's cubin only the copy engine's are there, and no figure for products (0). Prints one JSON object; ends with 1 and a message where there is no GPU.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <vector>

#include "src/cuda/driver.hpp"
#include "tools/gpu_limits.hpp"
#include "tools/gpu_management.hpp"

using namespace ern;
using namespace ern::cuda;

namespace {

constexpr size_t bytes = size_t{1} << 28;  // far more than the L2 holds, and free beside an engine
constexpr int copies = 16, repeats = 8;
// Some 20 ms on an H100: long enough for the clocks that a long step has.
constexpr int rounds = 32768;

struct Limits {
  double bytes_per_second = 0, operations_per_second = 0;
  Management clocks;
};

class Measurement {
 public:
  Measurement(const Driver& driver, const std::vector<char>& cubin) : driver_(driver), cubin_(cubin) {}

  // 0, or what failed; the process ends behind it, and everything with it.
  int run(Limits& found) {
    prepare();
    double copying = best_seconds([&](int) { copy_by_engine(); });
    if (copy_) copying = std::min(copying, best_seconds([&](int) { copy_by_kernel(); }));
    found.bytes_per_second = 2.0 * copies * static_cast<double>(bytes) / copying;
    if (multiply_) {
      const double operations = limits::operations_of_round * rounds * multiprocessors_;
      found.operations_per_second = operations / best_seconds([&](int i) {
        multiply();
        if (i + 1 == repeats) found.clocks = ask_management(0);  // while it works
      });
    }
    if (found.clocks.megahertz == 0) found.clocks = ask_management(0);
    return error_;
  }

 private:
  template <typename Call>
  void then(Call call) {
    if (error_ == success) error_ = call();
  }

  void prepare() {
    Device device = 0;
    Context context = nullptr;
    then([&] { return driver_.device_get(&device, 0); });
    then([&] { return driver_.device_attribute(&multiprocessors_, attribute_multiprocessors, device); });
    then([&] { return driver_.context_retain(&context, device); });
    then([&] { return driver_.context_set(context); });
    then([&] { return driver_.stream_create(&stream_, stream_non_blocking); });
    then([&] { return driver_.alloc(&from_, bytes); });
    then([&] { return driver_.alloc(&to_, bytes); });
    then([&] { return driver_.event_create(&begin_, 0); });
    then([&] { return driver_.event_create(&end_, 0); });
    then([&] { return driver_.set_bytes(from_, 0x5A, bytes, stream_); });
    if (cubin_.empty()) return;
    Module module = nullptr;
    then([&] { return driver_.module_load(&module, cubin_.data()); });
    then([&] { return driver_.module_function(&copy_, module, "gpu_copy"); });
    then([&] { return driver_.module_function(&multiply_, module, "gpu_multiply"); });
  }

  template <typename Run>
  double best_seconds(Run run) {
    double best = 1e30;
    for (int i = 0; i < repeats; ++i) {
      float milliseconds = 0;
      then([&] { return driver_.event_record(begin_, stream_); });
      run(i);
      then([&] { return driver_.event_record(end_, stream_); });
      then([&] { return driver_.event_synchronize(end_); });
      then([&] { return driver_.event_elapsed(&milliseconds, begin_, end_); });
      if (error_ == success && milliseconds > 0) best = std::min(best, milliseconds / 1e3);
    }
    return best;
  }

  void copy_by_engine() {
    for (int i = 0; i < copies; ++i) then([&] { return driver_.copy(to_, from_, bytes, stream_); });
  }

  void copy_by_kernel() {
    uint64_t words = bytes / 16;
    void* arguments[] = {&to_, &from_, &words};
    for (int i = 0; i < copies; ++i) launch(copy_, static_cast<unsigned>(multiprocessors_) * 8, arguments);
  }

  void multiply() {
    int count = rounds;
    void* arguments[] = {&to_, &count};
    launch(multiply_, static_cast<unsigned>(multiprocessors_), arguments);
  }

  void launch(Function function, unsigned blocks, void** arguments) {
    const LaunchConfig config{{blocks, 1, 1}, {limits::threads, 1, 1}, 0, stream_, nullptr, 0};
    then([&] { return driver_.launch(&config, function, arguments, nullptr); });
  }

  const Driver& driver_;
  const std::vector<char>& cubin_;
  int error_ = success;
  int multiprocessors_ = 0;
  Stream stream_ = nullptr;
  Event begin_ = nullptr, end_ = nullptr;
  Pointer from_ = 0, to_ = 0;
  Function copy_ = nullptr, multiply_ = nullptr;
};

}  // namespace

int main(int count, char** words) {
  std::vector<char> cubin;
  if (count > 1) {
    std::ifstream file(words[1], std::ios::binary);
    cubin.assign(std::istreambuf_iterator<char>(file), {});
    if (cubin.empty()) return std::fprintf(stderr, "%s: can't be read\n", words[1]), 1;
  }
  const auto driver = Driver::get();
  if (!driver.ok()) return std::fprintf(stderr, "%s\n", driver.status().message().c_str()), 1;
  Limits found;
  if (const int error = Measurement(*driver.value(), cubin).run(found); error != success)
    return std::fprintf(stderr, "%s\n", driver.value()->failure(error, "measuring it").message().c_str()), 1;
  std::printf("{\"bytesPerSecond\": %.0f, \"operationsPerSecond\": %.0f, \"megahertz\": %u, \"memoryMegahertz\": %u}\n", found.bytes_per_second,
              found.operations_per_second, found.clocks.megahertz, found.clocks.memory_megahertz);
}
