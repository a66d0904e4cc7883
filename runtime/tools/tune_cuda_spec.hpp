// What a measurement on a GPU is of, as `ernie-compile tune` writes it down for tune_cuda.cpp: arguments, and the launches of each variant. A line each:
//
//   step <tokens> <sequences> · slots <n>
//   then in the order of the kernel's arguments
//     weight <stream> <bf16|f32> <slabs> <n> <k> <exponent> row · data <bytes> · output <bytes> · scratch <bytes> · counters <bytes>
//     input <stream> <bf16|f32> 1 <rows> <columns> <exponent> row, which is filled as a weight is
//   then for each variant
//     variant <cubin>
//     launch <function> <threads> <shared bytes> <cluster> <grid x> <y> <z> <argument> ...      one or several, in order; `-` behind them: a null pointer
//     map <place among the launch's arguments> <bf16|f32> <swizzle> <rank> <dims> <strides but the first> <box>      of the launch before it
//
// Nothing here knows a device: what does not hold together ends the process before it is asked for anything.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <istream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "tools/tune_process.hpp"

namespace ern::tune {

enum class ArgKind { weight, input, data, output, scratch, counters };

struct ArgSpec {
  ArgKind kind = ArgKind::scratch;
  size_t bytes = 0;
  uint32_t stream = 0;
  bool bf16 = false;
  uint64_t elements = 0;
  float scale = 0;
};

struct MapSpec {
  size_t place = 0;
  bool bf16 = false;
  int swizzle = 0;  // bytes
  uint32_t rank = 0;
  uint64_t dims[5] = {}, strides[5] = {};
  uint32_t box[5] = {};
};

struct LaunchSpec {
  std::string name;
  unsigned threads = 0, shared_bytes = 0, cluster = 1, grid[3] = {};
  std::vector<size_t> args;
  size_t hidden = 0;  // null pointers behind them
  std::vector<MapSpec> maps;
};

struct VariantSpec {
  std::string cubin;
  std::vector<LaunchSpec> launches;
};

struct Spec {
  int32_t tokens = 1, sequences = 1;
  int slots = 1;
  std::vector<ArgSpec> args;
  std::vector<VariantSpec> variants;
};

inline ArgSpec read_arg(const std::string& word, std::istringstream& words) {
  ArgSpec arg;
  if (word == "weight" || word == "input") {
    std::string type, layout;
    uint64_t slabs = 0, n = 0, k = 0;
    int exponent = 0;
    words >> arg.stream >> type >> slabs >> n >> k >> exponent >> layout;
    if (layout != "row") fail("a weight in " + layout);
    arg.kind = word == "weight" ? ArgKind::weight : ArgKind::input, arg.bf16 = type == "bf16", arg.elements = slabs * n * k;
    arg.scale = std::ldexp(1.0f, exponent);
    arg.bytes = arg.elements * (arg.bf16 ? 2 : 4);
  } else {
    words >> arg.bytes;
    arg.kind = word == "data"       ? ArgKind::data
               : word == "output"   ? ArgKind::output
               : word == "counters" ? ArgKind::counters
                                    : ArgKind::scratch;
  }
  return arg;
}

inline LaunchSpec read_launch(std::istringstream& words, size_t args) {
  LaunchSpec launch;
  words >> launch.name >> launch.threads >> launch.shared_bytes >> launch.cluster >> launch.grid[0] >> launch.grid[1] >> launch.grid[2];
  for (std::string word; words >> word;) {
    if (word == "-") {
      ++launch.hidden;
      continue;
    }
    const size_t arg = std::strtoul(word.c_str(), nullptr, 10);
    if (arg >= args || launch.hidden > 0) fail("a launch with an argument that is not there");
    launch.args.push_back(arg);
  }
  return launch;
}

inline MapSpec read_map(std::istringstream& words, const LaunchSpec& launch) {
  MapSpec map;
  std::string type;
  words >> map.place >> type >> map.swizzle >> map.rank;
  if (map.place >= launch.args.size() || map.rank < 1 || map.rank > 5) fail("a map of an argument that is not there");
  map.bf16 = type == "bf16";
  for (uint32_t i = 0; i < map.rank; ++i) words >> map.dims[i];
  for (uint32_t i = 0; i + 1 < map.rank; ++i) words >> map.strides[i];
  for (uint32_t i = 0; i < map.rank; ++i) words >> map.box[i];
  return map;
}

inline Spec read_spec(std::istream& in) {
  Spec spec;
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string word;
    words >> word;
    if (word == "step") {
      words >> spec.tokens >> spec.sequences;
    } else if (word == "slots") {
      words >> spec.slots;
    } else if (word == "variant") {
      spec.variants.push_back({line.substr(word.size() + 1), {}});
    } else if (word == "launch") {
      if (spec.variants.empty()) fail("a launch of no variant");
      spec.variants.back().launches.push_back(read_launch(words, spec.args.size()));
    } else if (word == "map") {
      if (spec.variants.empty() || spec.variants.back().launches.empty()) fail("a map of no launch");
      LaunchSpec& launch = spec.variants.back().launches.back();
      launch.maps.push_back(read_map(words, launch));
    } else {
      spec.args.push_back(read_arg(word, words));
    }
    if (!words && !words.eof()) fail("a malformed spec: " + line);
  }
  return spec;
}

}  // namespace ern::tune
