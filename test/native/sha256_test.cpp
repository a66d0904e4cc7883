// FIPS 180-4's examples, the CPU's instructions against the portable code, and every way to cut a message.
#include "sha256.hpp"

#include <vector>

#include "check.hpp"

using ern::Sha256;

namespace {

std::string hex(std::string_view text, size_t first_part = 0) {
  Sha256 hash;
  hash.update(text.data(), first_part);
  hash.update(text.data() + first_part, text.size() - first_part);
  return hash.finish_hex();
}

}  // namespace

int main() {
  for (const bool hardware : {true, false}) {
    Sha256::allow_hardware(hardware);
    CHECK_EQUAL(hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    CHECK_EQUAL(hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    CHECK_EQUAL(hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"), "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    CHECK_EQUAL(hex(std::string(1000000, 'a')), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  }
  std::string text;
  for (int i = 0; i < 300; i++) text += static_cast<char>(i * 37 + i / 7);
  for (size_t size = 0; size <= text.size(); size++) {
    const std::string_view part = std::string_view(text).substr(0, size);
    Sha256::allow_hardware(false);
    const std::string expected = hex(part);
    Sha256::allow_hardware(true);
    for (size_t cut = 0; cut <= size; cut += 13) CHECK_EQUAL(hex(part, cut), expected);
  }
  return check::result();
}
