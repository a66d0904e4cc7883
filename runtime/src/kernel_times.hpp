// Times of launches, step after step, as one row a kernel.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "executor.hpp"

namespace ern {

class KernelTimes {
 public:
  explicit KernelTimes(const Program& program) : samples_(program.launch_count) {
    for (uint32_t i = 0; i < program.launch_count; ++i) names_.push_back(program.launches[i].name);
  }
  // One more launch, behind the program's own.
  void add_launch(const char* name) { names_.push_back(name), samples_.emplace_back(); }
  void note(size_t launch, double us) { samples_[launch].push_back(us); }

  // `step_us`: of whole steps.
  std::vector<KernelTime> rows(std::vector<double> step_us) {
    std::vector<KernelTime> rows{{nullptr, static_cast<int32_t>(names_.size()), median(step_us)}};
    for (size_t i = 0; i < names_.size(); ++i) {
      const auto same = [&](const KernelTime& row) { return row.kernel && std::strcmp(row.kernel, names_[i]) == 0; };
      const auto found = std::ranges::find_if(rows, same);
      const auto at = static_cast<size_t>(found - rows.begin());
      if (at == rows.size()) rows.push_back({names_[i], 0, 0});
      ++rows[at].launches;
      rows[at].us += median(samples_[i]);
    }
    return rows;
  }

 private:
  static double median(std::vector<double>& values) {
    std::ranges::sort(values);
    return values.empty() ? 0 : values[values.size() / 2];
  }

  std::vector<const char*> names_;
  std::vector<std::vector<double>> samples_;  // by launch
};

// Steps that a profile is the median of, and those before them that do not count.
inline constexpr int profiled_steps = 11, warming_steps = 2;

}  // namespace ern
