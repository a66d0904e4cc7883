#include "cpu_check.hpp"

#include <cpuid.h>

#include <string>

namespace ern {
namespace {

enum Register { eax, ebx, ecx, edx };

// Where CPUID shows a feature, and the first level that uses it. Names as /proc/cpuinfo and src/toolchain/arch.ts spell
// them.
struct Feature {
  const char* name;
  ArchLevel level;
  unsigned leaf, subleaf;
  Register reg;
  int bit;
};

constexpr Feature features[] = {
    {"avx", ArchLevel::x86_64_v3, 1, 0, ecx, 28},
    {"fma", ArchLevel::x86_64_v3, 1, 0, ecx, 12},
    {"movbe", ArchLevel::x86_64_v3, 1, 0, ecx, 22},
    {"f16c", ArchLevel::x86_64_v3, 1, 0, ecx, 29},
    {"xsave", ArchLevel::x86_64_v3, 1, 0, ecx, 26},
    {"avx2", ArchLevel::x86_64_v3, 7, 0, ebx, 5},
    {"bmi1", ArchLevel::x86_64_v3, 7, 0, ebx, 3},
    {"bmi2", ArchLevel::x86_64_v3, 7, 0, ebx, 8},
    {"abm", ArchLevel::x86_64_v3, 0x80000001, 0, ecx, 5},
    {"avx512f", ArchLevel::x86_64_v4, 7, 0, ebx, 16},
    {"avx512bw", ArchLevel::x86_64_v4, 7, 0, ebx, 30},
    {"avx512cd", ArchLevel::x86_64_v4, 7, 0, ebx, 28},
    {"avx512dq", ArchLevel::x86_64_v4, 7, 0, ebx, 17},
    {"avx512vl", ArchLevel::x86_64_v4, 7, 0, ebx, 31},
    {"avx512_vnni", ArchLevel::x86_64_v4_vnni, 7, 0, ecx, 11},
    {"avx512_bf16", ArchLevel::x86_64_v4_bf16, 7, 1, eax, 5},
};

bool has(const Feature& feature) {
  unsigned regs[4] = {};
  if (!__get_cpuid_count(feature.leaf, feature.subleaf, &regs[eax], &regs[ebx], &regs[ecx], &regs[edx])) return false;
  return (regs[feature.reg] >> feature.bit & 1) != 0;
}

// The register state that the operating system saves between threads (XCR0): a CPU can have vectors that its system
// doesn't keep.
uint64_t saved_state() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c >> 27 & 1) == 0) return 0;  // OSXSAVE: xgetbv exists
  uint32_t low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

}  // namespace

const char* arch_name(ArchLevel level) {
  switch (level) {
    case ArchLevel::x86_64_v3: return "x86-64-v3";
    case ArchLevel::x86_64_v4: return "x86-64-v4";
    case ArchLevel::x86_64_v4_vnni: return "x86-64-v4-vnni";
    case ArchLevel::x86_64_v4_bf16: return "x86-64-v4-bf16";
  }
  return "unknown";
}

Status check_cpu(ArchLevel level) {
  std::string missing;
  const auto add = [&missing](const char* name) { missing += missing.empty() ? name : std::string(", ") + name; };
  for (const Feature& feature : features) {
    if (feature.level <= level && !has(feature)) add(feature.name);
  }
  if (missing.empty()) {
    const uint64_t ymm = 0x6, zmm = 0xE6;  // bits of XCR0: SSE, AVX; with AVX-512 also opmask and both halves of zmm
    const uint64_t wanted = level >= ArchLevel::x86_64_v4 ? zmm : ymm;
    if ((saved_state() & wanted) != wanted) add("the operating system's support for its vector registers");
  }
  if (missing.empty()) return {};
  return {Code::unsupported, std::string("this package was compiled for ") + arch_name(level) +
                                 ", and this CPU lacks " + missing +
                                 "; build it again with a lower --arch, or with --arch native on this machine"};
}

}  // namespace ern
