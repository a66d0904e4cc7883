// `ern-pack`: writes the weights of a package, in the layouts that its kernels read, from the safetensors files of a
// checkpoint. Streams: memory is a few buffers a thread, whatever the size of the checkpoint. It carries out a plan and
// decides nothing; the plan is src/weights/pack-plan.ts's.
//
//   ern-pack plan.json out.safetensors [--threads n]          out must not exist, and is removed again on failure
//   ern-pack --unpack plan.json packed.safetensors out.bin    the way back, see unpack.hpp
//
// On stdout one JSON object a line: {"done": bytes, "total": bytes} while it works and at the end, or
// {"code", "message", "place"} and exit status 1.
//
// Build: g++ -std=c++20 -O2 -pthread -I runtime runtime/pack/main.cpp runtime/src/json.cpp -o ern-pack

#include <atomic>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <deque>
#include <exception>
#include <fstream>
#include <iterator>
#include <mutex>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <vector>

#include "pack.hpp"
#include "plan.hpp"
#include "unpack.hpp"

namespace ern::pack {
namespace {

// A reader that went away ends the packer here, by SIGPIPE: a killed compiler leaves no packer behind.
void print_progress(int64_t done, int64_t total) {
  std::printf("{\"done\":%lld,\"total\":%lld}\n", static_cast<long long>(done), static_cast<long long>(total));
  std::fflush(stdout);
}

Failure read_plan(const std::string& path, Plan& plan) {
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!file) return Error{"usage", "cannot read the plan", path};
  return PlanReader().read(text, plan);
}

// Threads take units in order, so that reading stays nearly sequential; the first failure stops all of them.
class Crew {
 public:
  Crew(const Plan& plan, const std::vector<File>& sources, const File& out)
      : plan_(plan), sources_(sources), out_(out), units_(cut(plan)) {}

  Failure run(unsigned threads) {
    std::deque<Packer> packers;  // all buffers before the first thread, so that running out of memory is met here
    for (unsigned i = 0; i < threads; i++) packers.emplace_back(plan_, sources_, out_);
    std::vector<std::jthread> crew;
    std::unique_lock lock(mutex_);
    for (Packer& packer : packers) {
      try {
        crew.emplace_back([this, &packer] { work(packer); });
      } catch (const std::system_error&) {  // a limit on threads: fewer will do
        if (crew.empty()) throw;
        break;
      }
      running_++;
    }
    while (running_ > 0) {
      if (ended_.wait_for(lock, std::chrono::milliseconds(100)) == std::cv_status::timeout)
        print_progress(done_, plan_.data_bytes);
    }
    return failure_;
  }

 private:
  void work(Packer& packer) {
    for (;;) {
      const size_t next = next_++;
      if (next >= units_.size() || stop_) break;
      const Unit& unit = units_[next];
      if (Failure failure = packer.pack(unit)) {
        stop_ = true;
        const std::lock_guard lock(mutex_);
        if (!failure_) failure_ = std::move(failure);
      }
      done_ += (unit.n1 - unit.n0) * unit.ks() * size_of(unit.weight->dtype);
    }
    const std::lock_guard lock(mutex_);
    running_--;
    ended_.notify_one();
  }

  const Plan& plan_;
  const std::vector<File>& sources_;
  const File& out_;
  const std::vector<Unit> units_;
  std::atomic<size_t> next_ = 0;
  std::atomic<int64_t> done_ = 0;
  std::atomic<bool> stop_ = false;
  std::mutex mutex_;
  std::condition_variable ended_;
  unsigned running_ = 0;  // under mutex_, as failure_ is
  Failure failure_;
};

Failure pack(const std::string& plan_path, const std::string& out_path, unsigned threads) {
  Plan plan;
  if (Failure failure = read_plan(plan_path, plan)) return failure;
  std::vector<File> sources;
  if (Failure failure = open_sources(plan, sources)) return failure;
  File out;
  if (Failure failure = out.create(out_path, plan.file_bytes())) return failure;
  Failure failure = out.write(plan.head.data(), plan.head_bytes(), 0);
  if (!failure) failure = Crew(plan, sources, out).run(threads);
  if (!failure) failure = out.finish();
  if (!failure) print_progress(plan.data_bytes, plan.data_bytes);
  return failure;
}

Failure unpack(const std::string& plan_path, const std::string& packed_path, const std::string& out_path) {
  Plan plan;
  if (Failure failure = read_plan(plan_path, plan)) return failure;
  File packed, out;
  if (Failure failure = packed.open_source(packed_path, plan.file_bytes())) return failure;
  const int64_t total = Unpacker::bytes(plan);
  if (Failure failure = out.create(out_path, total)) return failure;
  if (Failure failure = Unpacker(plan, packed, out).unpack([&](int64_t done) { print_progress(done, total); }))
    return failure;
  return out.finish();
}

Failure run(const std::vector<std::string>& args) {
  if (args.size() == 4 && args[0] == "--unpack") return unpack(args[1], args[2], args[3]);
  unsigned threads = std::min(std::max(std::thread::hardware_concurrency(), 1u), 8u);
  if (args.size() == 4 && args[2] == "--threads") {
    const std::string& text = args[3];
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), threads);
    // Each thread has 15 MiB of buffers: 32 keep the packer under the 512 MiB that it may use.
    if (error != std::errc() || end != text.data() + text.size() || threads < 1 || threads > 32) {
      return Error{"usage", "found " + text + " threads, expected 1 to 32", "--threads"};
    }
  } else if (args.size() != 2) {
    return Error{"usage", "expected: ern-pack [--unpack] plan.json files, as main.cpp's head says", ""};
  }
  return pack(args[0], args[1], threads);
}

}  // namespace
}  // namespace ern::pack

int main(int argc, char** argv) {
  ern::pack::Failure failure;
  try {
    failure = ern::pack::run({argv + 1, argv + argc});
  } catch (const std::exception& error) {  // no memory, or no thread
    failure = ern::pack::Error{"resources", error.what(), ""};
  }
  if (!failure) return 0;
  using ern::pack::json_quote;
  const std::string line = "{\"code\":" + json_quote(failure->code) + ",\"message\":" + json_quote(failure->message);
  std::puts((line + ",\"place\":" + json_quote(failure->place) + "}").c_str());
  return 1;
}
