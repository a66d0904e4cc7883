// What the tuner's measuring processes share: how they end, how they keep others from the device, the loop over commands.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/prctl.h>

#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

namespace ern::tune {

// `kind` is the answer's first word: `error` where the machine is to blame, `failed` where a variant is.
[[noreturn]] inline void end_with(const char* kind, const std::string& what) {
  std::cout << kind << ' ' << what << std::endl;
  std::_Exit(3);
}
[[noreturn]] inline void fail(const std::string& what) { end_with("error", what); }

// One process at a time measures on this machine; the lock goes with the process.
inline void lock_device(const std::string& path) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd < 0 || flock(fd, LOCK_EX) != 0) fail("cannot lock the device");
}

// A variant that hangs must not outlive a tuner that was killed.
inline void die_with_parent() { prctl(PR_SET_PDEATHSIG, SIGKILL); }

// Commands of stdin, a line each, until one that is not known, or the end. Times are answered variant by variant.
template <class Bench>
void serve(Bench& bench) {
  std::string line, word;
  while (std::getline(std::cin, line)) {
    std::istringstream words(line);
    words >> word;
    if (word == "check") {
      size_t which = 0;
      uint32_t seed = 0;
      std::string in, out;
      words >> which >> seed >> in >> out;
      std::cout << bench.check(which, seed, in, out) << std::endl;
    } else if (word == "time") {
      int rounds = 0;
      size_t which = 0;
      std::vector<size_t> list;
      words >> rounds;
      while (words >> which) list.push_back(which);
      int launches = 0;
      const std::vector<std::vector<double>> times = bench.time(rounds, list, launches);
      std::cout.precision(9);
      std::cout << "times " << launches;
      for (const auto& each : times) {
        for (const double ns : each) std::cout << ' ' << ns;
      }
      std::cout << std::endl;
    } else if (!bench.other(word, words)) {
      break;
    }
  }
}

}  // namespace ern::tune
