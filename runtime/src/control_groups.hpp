// The limits that a container puts on this process: where the kernel shows them, and how many processors they leave.
// Linux control groups, version 2.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace ern {

// Folders of this process' group and of the groups around it, innermost first; each may limit it. Empty where there are
// none.
std::vector<std::string> control_groups();

// Processors that the groups' quotas allow at once, rounded up; INT32_MAX without a quota.
int32_t cpu_quota();

// Bytes that the groups' memory limits leave; files in the page cache make way, so they don't count as used. UINT64_MAX
// without a limit.
uint64_t memory_left();

}  // namespace ern
