// The inputs of a step as plan.hpp describes them, written to the memory of space `inputs` or to a copy of it.
#pragma once

#include <cstddef>
#include <span>

#include "executor.hpp"
#include "plan.hpp"

namespace ern {

// `base`: of the inputs, Inputs::bytes of the program. `no_ids`: they come from elsewhere.
Step fill_inputs(const Plan& plan, const Program& program, std::span<const StepItem> items, std::byte* base, bool no_ids);

}  // namespace ern
