// Is a plan one that the runtime can walk? Plans are written by the compiler, so what this finds is a bug there, found
// before it becomes a wild pointer.
#pragma once

#include "plan.hpp"
#include "status.hpp"

namespace ern {

Status check_plan(const Plan& plan);

}  // namespace ern
