#include "manifest.hpp"

#include <algorithm>

#include "json.hpp"

namespace ern {
namespace {

bool is_plain(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
}
bool is_hex(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); }

Status corrupt(std::string message) { return {Code::corrupt, "manifest.json: " + std::move(message)}; }

std::string_view text_of(const json::Value& object, std::string_view name) {
  const auto value = object.find(name);
  return value ? value->string().value_or("") : std::string_view();
}

Result<ManifestFile> parse_file(const json::Value& value) {
  ManifestFile file;
  if (!is_plain_path(value.name())) return corrupt("a path that is not plain names within the build folder");
  file.path = value.name();
  file.sha256 = text_of(value, "sha256");
  if (file.sha256.size() != 64 || !std::all_of(file.sha256.begin(), file.sha256.end(), is_hex)) {
    return corrupt(file.path + ": \"sha256\" is not 64 lower-case hexadecimal digits");
  }
  const auto bytes = value.find("bytes");
  const auto size = bytes ? bytes->integer() : std::nullopt;
  if (!size || *size < 0) return corrupt(file.path + ": \"bytes\" is not a size");
  file.bytes = static_cast<uint64_t>(*size);
  return file;
}

}  // namespace

bool is_plain_path(std::string_view path) {
  if (path.empty() || path.size() > 255) return false;
  for (size_t at = 0; at <= path.size();) {
    const std::string_view name = path.substr(at, path.find('/', at) - at);
    if (name.empty() || name == "." || name == ".." || !std::all_of(name.begin(), name.end(), is_plain)) return false;
    at += name.size() + 1;
  }
  return true;
}

const ManifestFile* Manifest::find(std::string_view path) const {
  const auto found =
      std::find_if(files.begin(), files.end(), [&](const ManifestFile& file) { return file.path == path; });
  return found == files.end() ? nullptr : &*found;
}

Result<Manifest> parse_manifest(std::string_view text) {
  auto parsed = json::Document::parse(text);
  if (!parsed.ok()) return corrupt(parsed.status().message());
  const json::Value root = parsed.value().root();
  const auto format = root.find("format");
  if (!format || format->integer() != 1) return corrupt("\"format\" is not 1, the only one this runtime reads");
  Manifest manifest;
  manifest.build = text_of(root, "build");
  const std::string_view build = manifest.build;
  if (!build.starts_with("build-") || !is_plain_path(build) || build.find('/') != build.npos)
    return corrupt("\"build\" is not the name of a build folder");
  manifest.build_id = text_of(root, "build_id");
  if (manifest.build_id.empty()) return corrupt("\"build_id\" is missing");
  const auto files = root.find("files");
  if (!files || !files->is(json::Kind::object)) return corrupt("\"files\" is not an object");
  manifest.files.reserve(files->size());
  for (auto value = files->first(); value; value = value->next()) {
    auto file = parse_file(*value);
    if (!file.ok()) return file.status();
    manifest.files.push_back(std::move(file.value()));
  }
  return manifest;
}

}  // namespace ern
