// The little that native tests need: CHECK says what failed and goes on; result() is what main returns.
#pragma once

#include <cstdio>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <string_view>

namespace check {

inline int failures = 0;

inline void report(bool good, const char* file, int line, const std::string& what) {
  if (good) return;
  failures++;
  if (failures <= 20) std::fprintf(stderr, "%s:%d: %s\n", file, line, what.c_str());
}

template <class T>
std::string show(const T& value) {
  if constexpr (requires(std::ostream& o) { o << value; }) {
    std::ostringstream out;
    out << value;
    return out.str();
  } else {
    std::string out = "[";
    for (const auto& item : value) out += (out.size() > 1 ? " " : "") + show(item);
    return out + "]";
  }
}

template <class A, class B>
void equal(const char* file, int line, const char* text, const A& found, const B& expected, const std::string& about = "") {
  if (found == expected) return;
  report(false, file, line, std::string(text) + ": found " + show(found) + ", expected " + show(expected) + (about.empty() ? "" : " for " + about));
}

inline std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    std::fprintf(stderr, "cannot read %s\n", path.c_str());
    std::exit(2);
  }
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// The last line of main.
inline int result() {
  if (failures != 0) std::fprintf(stderr, "%d checks failed\n", failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace check

#define CHECK(condition) check::report(static_cast<bool>(condition), __FILE__, __LINE__, #condition)
// CHECK_EQUAL(found, expected) or CHECK_EQUAL(found, expected, about)
#define CHECK_EQUAL(...) check::equal(__FILE__, __LINE__, #__VA_ARGS__, __VA_ARGS__)
