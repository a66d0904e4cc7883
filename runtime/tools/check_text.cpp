// Loads a tokenizer as the engine of a package will: what the engine would refuse is refused when the package is built. Linked from the objects of the
// package's own library.
//
//   check-text <tokenizer.model> <text.json>     says what is wrong on stdout, and then ends with 1; or nothing, and 0

#include <cstddef>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <span>
#include <string>

#include "src/tokenizer.hpp"

namespace {

std::string read(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return 2;
  const std::string model = read(arguments[1]), text = read(arguments[2]);
  const auto tokenizer = ern::Tokenizer::load(std::as_bytes(std::span(model)), text);
  if (tokenizer.ok()) return 0;
  std::fwrite(tokenizer.status().message().data(), 1, tokenizer.status().message().size(), stdout);
  return 1;
}
