// All threads, or one? A step of a small model has less work than its threads need to meet, and where another process
// wants the cores too, a team waits for whichever of its threads has none. Which is faster is measured as steps go by;
// the results are the same either way, since kernels give the same bits with any number of threads. One choice for each
// bucket.
#pragma once

#include <algorithm>
#include <cstdint>

namespace ern {

class TeamChoice {
 public:
  // Should the next step, of a team of `threads`, run on one?
  bool alone(int threads) {
    ++steps_;
    // What it may cost: alone is at most so many times slower than together.
    const double worst = prefers_alone_ ? alone_ * last_rows_ : together_ * last_rows_ * threads;
    if (trial_left_ == 0 && steps_ >= next_trial_ && worst < longest_trial) trial_left_ = worst < short_step ? 3 : 1;
    return (trial_left_ > 0) != prefers_alone_;
  }

  // The step that alone() was asked about took so long, with so many rows.
  void note(bool was_alone, int64_t ns, int32_t rows) {
    last_rows_ = rows;
    const double time = static_cast<double>(ns) / rows;
    double& mean = was_alone ? alone_ : together_;
    // A trial counts by its best step: the first one finds the data in other cores' caches.
    mean = mean == 0 ? time : trial_left_ > 0 ? std::min(mean, time) : mean + (time - mean) / 8;
    if (trial_left_ == 0 || --trial_left_ > 0) return;
    const bool better_alone = alone_ < together_;
    // Trying what keeps losing costs ever less; a change of mind means that things move, and is looked at again soon.
    interval_ = better_alone == prefers_alone_ ? std::min<int64_t>(4 * interval_, longest_interval) : first_interval;
    prefers_alone_ = better_alone;
    (prefers_alone_ ? together_ : alone_) = 0;  // the next trial begins afresh
    next_trial_ = steps_ + interval_;
  }

 private:
  static constexpr double longest_trial = 100e6, short_step = 10e6;  // ns
  static constexpr int64_t first_interval = 128, longest_interval = 1 << 14;

  double together_ = 0, alone_ = 0;  // ns a row; 0: not known
  bool prefers_alone_ = false;
  int trial_left_ = 0;  // steps
  int64_t steps_ = 0, next_trial_ = 3, interval_ = first_interval;
  int32_t last_rows_ = 1;
};

}  // namespace ern
