// Does this CPU, under this operating system, run code of a level? Asked before the first kernel runs, so the answer is
// a message and not SIGILL.
#pragma once

#include "plan.hpp"
#include "status.hpp"

namespace ern {

const char* arch_name(ArchLevel level);

// `unsupported`, with what is missing by name, where kernels of this level can't run.
Status check_cpu(ArchLevel level);

}  // namespace ern
