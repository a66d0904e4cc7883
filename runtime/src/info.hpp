// What an engine says of itself as JSON, for people and for the bindings (EngineInfo in src/host/api.ts).
#pragma once

#include <string>

#include "engine.hpp"

namespace ern {

inline constexpr const char* runtime_version = "0.1.0";

std::string info_json(const Engine& engine);

}  // namespace ern
