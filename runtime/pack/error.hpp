// What the packer says when it stops: a code that the driver (src/weights/packer.ts) turns into a diagnostic, a message
// for people, and the file or weight it is about. The packer is a program of its own, so this is not the runtime's
// Status, whose codes belong to ern.h.
#pragma once

#include <cerrno>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

namespace ern::pack {

struct Error {
  std::string code;  // usage, plan, source-missing, source-changed, source-io, disk-full, io, padding, resources
  std::string message;
  std::string place;
};
using Failure = std::optional<Error>;

// What errno says about reading (`reading`) or writing `path`.
inline Error errno_error(const std::string& path, bool reading) {
  const int number = errno;
  const bool full = number == ENOSPC || number == EDQUOT || number == EFBIG;
  const char* code = full ? "disk-full" : !reading ? "io" : number == ENOENT ? "source-missing" : "source-io";
  return {code, full ? "no space is left on the disk" : std::strerror(number), path};
}

// A JSON string. Bytes outside ASCII go through as they are: paths are UTF-8 here, or were refused when the plan was
// read.
inline std::string json_quote(std::string_view text) {
  static constexpr char hex[] = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += "\\u00";
      out += hex[c >> 4];
      out += hex[c & 15];
    } else {
      out += c;
    }
  }
  return out + '"';
}

}  // namespace ern::pack
