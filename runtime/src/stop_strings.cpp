#include "stop_strings.hpp"

#include <algorithm>

#include "utf8.hpp"

namespace ern {
namespace {

constexpr size_t max_stops = 256;
constexpr size_t max_stop_bytes = 64u << 10;

}  // namespace

Result<StopMatcher> StopMatcher::create(std::span<const std::string> stops) {
  if (stops.size() > max_stops) {
    return Status(Code::invalid_argument, std::to_string(stops.size()) + " stop strings, more than " + std::to_string(max_stops));
  }
  StopMatcher matcher;
  for (size_t index = 0; index < stops.size(); index++) {
    const std::string& text = stops[index];
    const std::string name = "stop string " + std::to_string(index);
    if (text.empty()) return Status(Code::invalid_argument, name + " is empty");
    if (text.size() > max_stop_bytes) return Status(Code::invalid_argument, name + " has more than " + std::to_string(max_stop_bytes) + " bytes");
    if (!utf8::is_valid(text)) return Status(Code::invalid_argument, name + " is not UTF-8");
    Stop stop;
    stop.text = text;
    stop.fail.assign(text.size() + 1, 0);
    for (uint32_t i = 1, border = 0; i < text.size(); i++) {
      while (border > 0 && text[i] != text[border]) border = stop.fail[border];
      if (text[i] == text[border]) border++;
      stop.fail[i + 1] = border;
    }
    matcher.stops_.push_back(std::move(stop));
  }
  return matcher;
}

bool StopMatcher::push(std::string_view text, std::string& out) {
  if (stopped()) return true;
  if (stops_.empty()) {
    out += text;
    return false;
  }
  // Every state is at most held_'s size plus the bytes consumed, so a match never begins in text that is already out.
  for (const char c : text) {
    held_ += c;
    size_t longest = 0;
    for (size_t index = 0; index < stops_.size(); index++) {
      Stop& stop = stops_[index];
      while (stop.state > 0 && stop.text[stop.state] != c) stop.state = stop.fail[stop.state];
      if (stop.text[stop.state] == c) stop.state++;
      if (stop.state == stop.text.size() && stop.state > longest) {
        longest = stop.state;
        matched_ = static_cast<int>(index);
      }
    }
    if (longest == 0) continue;
    out.append(held_, 0, held_.size() - longest);
    held_.clear();
    return true;
  }
  size_t keep = 0;
  for (const Stop& stop : stops_) keep = std::max<size_t>(keep, stop.state);
  out.append(held_, 0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return false;
}

void StopMatcher::finish(std::string& out) {
  out += held_;
  held_.clear();
  for (Stop& stop : stops_) stop.state = 0;
}

}  // namespace ern
