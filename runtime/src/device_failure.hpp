// The device that runs the model is lost: what the engine's thread throws to itself on the way out of a step. Every
// later call on that device would fail as well, so the engine ends what it has and refuses what comes.
#pragma once

#include <exception>
#include <utility>

#include "status.hpp"

namespace ern {

class DeviceFailure : public std::exception {
 public:
  explicit DeviceFailure(Status status) : status_(std::move(status)) {}
  const Status& status() const { return status_; }
  const char* what() const noexcept override { return status_.message().c_str(); }

 private:
  Status status_;
};

}  // namespace ern
