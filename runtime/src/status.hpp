// What a call of the runtime says when it fails: a code from ern.h and a message for people. No exception crosses the C boundary,
// and the parts below it return this too, so a failure is visible in every signature. Success costs nothing.
#pragma once

#include <optional>
#include <string>
#include <utility>

namespace ern {

// Same order as ern_status in include/ern.h (static_asserted there where both are seen).
enum class Code : int { ok = 0, invalid_argument, not_found, corrupt, unsupported, out_of_memory, busy, cancelled, io, internal, device };

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}
  bool ok() const { return code_ == Code::ok; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  Code code_ = Code::ok;
  std::string message_;
};

// A value, or why there is none.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}
  Result(Status status) : status_(std::move(status)) {}
  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }
  T& value() { return *value_; }
  const T& value() const { return *value_; }

 private:
  std::optional<T> value_;
  Status status_;
};

}  // namespace ern
