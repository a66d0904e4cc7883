// What NVIDIA's management library says of a GPU, if the library is there: its driver's version, and clocks.
#pragma once

#include <dlfcn.h>

#include <string>

namespace ern::cuda {

struct Management {
  std::string driver;                                         // "" : not known
  unsigned megahertz = 0, most_megahertz = 0, memory_megahertz = 0;  // of the multiprocessors now and at most, of memory now; 0: not known
};

// `ordinal`: as the management library counts.
inline Management ask_management(int ordinal) {
  Management found;
  void* const library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) return found;
  const auto call = [library](const char* name) { return dlsym(library, name); };
  const auto init = reinterpret_cast<int (*)()>(call("nvmlInit_v2"));
  const auto version = reinterpret_cast<int (*)(char*, unsigned)>(call("nvmlSystemGetDriverVersion"));
  const auto handle = reinterpret_cast<int (*)(unsigned, void**)>(call("nvmlDeviceGetHandleByIndex_v2"));
  const auto clock = reinterpret_cast<int (*)(void*, int, unsigned*)>(call("nvmlDeviceGetClockInfo"));
  const auto limit = reinterpret_cast<int (*)(void*, int, unsigned*)>(call("nvmlDeviceGetMaxClockInfo"));
  if (!init || !version || !handle || !clock || !limit || init() != 0) return found;
  char text[96] = "";
  if (version(text, sizeof text) == 0) found.driver = text;
  void* device = nullptr;
  if (handle(static_cast<unsigned>(ordinal), &device) != 0) return found;
  constexpr int multiprocessors = 1, memory = 2;
  clock(device, multiprocessors, &found.megahertz);
  limit(device, multiprocessors, &found.most_megahertz);
  clock(device, memory, &found.memory_megahertz);
  return found;
}

}  // namespace ern::cuda
