// manifest.json of a package, as far as the runtime reads it. Text in, checked values out; no file is opened here.
//
//   "format"    1
//   "build"     "build-<hash>": the folder, beside manifest.json, that every path below is in
//   "build_id"  equals Plan::build_id of the library
//   "files"     { "lib/libern_model.so": { "sha256": "<64 hex digits>", "bytes": 1234 }, ... }: every file of that
//   folder other keys  are not ours and are skipped
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "status.hpp"

namespace ern {

struct ManifestFile {
  std::string path;  // within the build folder; plain names with '/' between them
  std::string sha256;
  uint64_t bytes = 0;
};

struct Manifest {
  std::string build;
  std::string build_id;
  std::vector<ManifestFile> files;

  const ManifestFile* find(std::string_view path) const;
};

Result<Manifest> parse_manifest(std::string_view text);

// Names of letters, digits and ". _ -", with single slashes between them, none of them "." or "..": a path that can't
// leave its folder.
bool is_plain_path(std::string_view path);

}  // namespace ern
