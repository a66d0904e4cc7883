// From what a C caller passes to what the engine takes: everything is checked here, on the caller's thread, and text
// becomes ids.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine.hpp"
#include "include/ern.h"
#include "status.hpp"

namespace ern {

// A struct that begins with its size, as this library knows it: fields that the caller's version doesn't have are zero.
// Fields that we don't know must be.
template <class Struct>
Result<Struct> read_struct(const Struct* given, const char* name) {
  Struct copy;
  std::memset(&copy, 0, sizeof copy);
  if (!given || given->size < sizeof(size_t) || given->size > 4096) {
    return Status{Code::invalid_argument, std::string(name) + ": NULL, or its size is not set"};
  }
  const size_t size = given->size;
  std::memcpy(&copy, given, size < sizeof copy ? size : sizeof copy);
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  for (size_t i = sizeof copy; i < size; ++i) {
    if (bytes[i] != 0)
      return Status{Code::unsupported, std::string(name) + ": it has a field that this library does not know"};
  }
  return copy;
}

// The ids of a prompt; each is below `rows`. May be empty.
Result<std::vector<int32_t>> encode_parts(const ern_part* parts, size_t count, const Tokenizer* tokenizer,
                                          int32_t rows);

Result<std::unique_ptr<Sequence>> make_sequence(const ern_request& request, const Engine& engine);

// Checks a forward pass.
Status check_logits(const ern_logits_request& request, const Engine& engine);

}  // namespace ern
