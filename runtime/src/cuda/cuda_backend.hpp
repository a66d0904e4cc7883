// Entry of a GPU package's plan: DevicePlan::open.
#pragma once

#include <memory>

#include "../backend.hpp"
#include "../plan.hpp"

namespace ern::cuda {

Result<std::unique_ptr<Backend>> open_backend(const Plan& plan);

}  // namespace ern::cuda
