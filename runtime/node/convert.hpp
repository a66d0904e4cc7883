// Between JavaScript values and C++: small checked readers and makers over node_api.h. A reader that fails leaves a JavaScript exception pending
// and returns false or an empty value; callers then return at once.
#pragma once

#define NAPI_VERSION 8
#include <node_api.h>

#include <cstdint>
#include <string>
#include <vector>

#include "include/ern.h"

namespace ern::node {

inline napi_value undefined(napi_env env) {
  napi_value value = nullptr;
  napi_get_undefined(env, &value);
  return value;
}

inline const char* status_name(ern_status status) {
  switch (status) {
    case ERN_OK: return "OK";
    case ERN_INVALID_ARGUMENT: return "INVALID_ARGUMENT";
    case ERN_NOT_FOUND: return "NOT_FOUND";
    case ERN_CORRUPT: return "CORRUPT";
    case ERN_UNSUPPORTED: return "UNSUPPORTED";
    case ERN_OUT_OF_MEMORY: return "OUT_OF_MEMORY";
    case ERN_BUSY: return "BUSY";
    case ERN_CANCELLED: return "CANCELLED";
    case ERN_IO: return "IO";
    case ERN_INTERNAL: return "INTERNAL";
    case ERN_DEVICE: return "DEVICE";
  }
  return "INTERNAL";
}

inline napi_value make_string(napi_env env, const char* text, size_t bytes) {
  napi_value value = nullptr;
  napi_create_string_utf8(env, text, bytes, &value);
  return value;
}

inline napi_value make_number(napi_env env, double number) {
  napi_value value = nullptr;
  napi_create_double(env, number, &value);
  return value;
}

// An Error whose `code` is the status name.
inline napi_value make_error(napi_env env, ern_status status, const std::string& message) {
  napi_value error = nullptr;
  napi_create_error(env, make_string(env, status_name(status), NAPI_AUTO_LENGTH), make_string(env, message.data(), message.size()), &error);
  return error;
}

inline napi_value throw_status(napi_env env, ern_status status, const std::string& message) {
  napi_throw(env, make_error(env, status, message));
  return nullptr;
}

inline void set(napi_env env, napi_value object, const char* name, napi_value value) { napi_set_named_property(env, object, name, value); }
inline void set(napi_env env, napi_value object, const char* name, double value) { set(env, object, name, make_number(env, value)); }
inline void set(napi_env env, napi_value object, const char* name, const std::string& text) { set(env, object, name, make_string(env, text.data(), text.size())); }

inline napi_value get(napi_env env, napi_value object, const char* name) {
  napi_value value = nullptr;
  napi_get_named_property(env, object, name, &value);
  return value;
}

inline bool is_undefined(napi_env env, napi_value value) {
  napi_valuetype type = napi_undefined;
  return value == nullptr || napi_typeof(env, value, &type) != napi_ok || type == napi_undefined;
}

// The host layer (src/host) has checked types and ranges; these fall back to zero rather than fail.
inline double number(napi_env env, napi_value value) {
  double result = 0;
  napi_get_value_double(env, value, &result);
  return result;
}
inline double number(napi_env env, napi_value object, const char* name) { return number(env, get(env, object, name)); }

inline bool boolean(napi_env env, napi_value value) {
  bool result = false;
  napi_get_value_bool(env, value, &result);
  return result;
}

inline std::string string(napi_env env, napi_value value) {
  size_t bytes = 0;
  if (napi_get_value_string_utf8(env, value, nullptr, 0, &bytes) != napi_ok) return {};
  std::string text(bytes, '\0');
  napi_get_value_string_utf8(env, value, text.data(), bytes + 1, &bytes);
  return text;
}

// The elements of an Int32Array or Float32Array, copied; empty for anything else.
template <class T>
std::vector<T> elements(napi_env env, napi_value value, napi_typedarray_type expected) {
  bool typed = false;
  napi_is_typedarray(env, value, &typed);
  if (!typed) return {};
  napi_typedarray_type type;
  size_t length = 0;
  void* data = nullptr;
  napi_get_typedarray_info(env, value, &type, &length, &data, nullptr, nullptr);
  if (type != expected || length == 0) return {};
  return std::vector<T>(static_cast<const T*>(data), static_cast<const T*>(data) + length);
}
inline std::vector<int32_t> int32s(napi_env env, napi_value value) { return elements<int32_t>(env, value, napi_int32_array); }
inline std::vector<float> float32s(napi_env env, napi_value value) { return elements<float>(env, value, napi_float32_array); }

// A new typed array over a buffer of its own, filled by `fill(void*)`.
template <class Fill>
napi_value make_typed(napi_env env, napi_typedarray_type type, size_t length, Fill fill) {
  napi_value buffer = nullptr, array = nullptr;
  void* data = nullptr;
  if (napi_create_arraybuffer(env, length * 4, &data, &buffer) != napi_ok) return throw_status(env, ERN_OUT_OF_MEMORY, "no memory for an array");
  if (length > 0) fill(data);
  napi_create_typedarray(env, type, length, buffer, 0, &array);
  return array;
}

// A prompt: texts own their bytes, so `parts` is valid as long as this object stands still.
struct Parts {
  std::vector<std::string> texts;
  std::vector<int32_t> ids;
  std::vector<std::vector<int32_t>> id_lists;
  std::vector<ern_part> parts;

  // From an Int32Array, or an array of { kind, text } and { kind: "tokens", ids }.
  void read(napi_env env, napi_value tokens, napi_value segments) {
    if (!is_undefined(env, tokens)) {
      ids = int32s(env, tokens);
      parts.push_back({ERN_PART_TOKENS, ids.data(), ids.size()});
      return;
    }
    uint32_t count = 0;
    napi_get_array_length(env, segments, &count);
    // Reserved, so that what the parts point to stands still.
    texts.reserve(count);
    id_lists.reserve(count);
    for (uint32_t i = 0; i < count; i++) {
      napi_value segment = nullptr;
      napi_get_element(env, segments, i, &segment);
      const std::string kind = string(env, get(env, segment, "kind"));
      if (kind == "tokens") {
        const auto& list = id_lists.emplace_back(int32s(env, get(env, segment, "ids")));
        parts.push_back({ERN_PART_TOKENS, list.data(), list.size()});
      } else {
        const auto& text = texts.emplace_back(string(env, get(env, segment, "text")));
        parts.push_back({kind == "template" ? ERN_PART_TEMPLATE : ERN_PART_USER, text.data(), text.size()});
      }
    }
  }
};

}  // namespace ern::node
