// From a package folder to what the engine needs of it: everything is checked against the manifest before it is used,
// and used from the bytes that were checked. The weights have a file of their own (weights.hpp), since they are mapped,
// not read.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "manifest.hpp"
#include "plan.hpp"
#include "status.hpp"
#include "text_config.hpp"
#include "tokenizer.hpp"

namespace ern {

// What a package says about text. A package without tokenizer.model works on ids alone.
struct TextParts {
  std::unique_ptr<const Tokenizer> tokenizer;
  std::vector<int32_t> stop_ids;
  GenerationDefaults generation;
};

class Package {
 public:
  // Reads the manifest of the package in `folder` and checks every listed file but the weights against it: sizes and
  // SHA-256. `corrupt` if the package is not the one that `plan` was compiled into. An empty `folder` is a package of
  // the plan alone: no manifest, no text.
  static Result<Package> open(const std::string& folder, const Plan& plan);

  // Builds the tokenizer, which takes a tenth of a second for a real one: call it beside the loading of the weights.
  // Once.
  Result<TextParts> load_text(const Plan& plan);

  // The weights file: its path, and what the manifest says of it. Only for plans that have one.
  const std::string& weights_path() const { return weights_path_; }
  const ManifestFile& weights() const { return weights_; }

 private:
  std::string weights_path_;
  ManifestFile weights_;
  std::vector<std::byte> tokenizer_model_;
  std::string text_json_;
};

}  // namespace ern
