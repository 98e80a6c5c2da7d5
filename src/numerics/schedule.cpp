#include "pare/numerics/schedule.hpp"

#include <cmath>

#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

// The share of the way that is behind at a share of the time.
double progress(Schedule::Shape shape, double time) {
  switch (shape) {
    case Schedule::Shape::OneShot:
      return 0.0;
    case Schedule::Shape::Linear:
      return time;
    case Schedule::Shape::Cubic:
      return 1.0 - std::pow(1.0 - time, 3.0);
    case Schedule::Shape::OneCycle: {
      constexpr double kSteepness = 14.0, kDelay = 5.0;  // the paper's
      return (1.0 + std::exp(kDelay - kSteepness)) / (1.0 + std::exp(kDelay - kSteepness * time));
    }
  }
  return time;
}

}  // namespace

double Schedule::at(std::int64_t step) const {
  validate();
  if (step >= end) return to;
  if (step <= begin) return from;
  const auto reached = begin + (step - begin) / every * every;
  if (reached == begin) return from;
  const double time = static_cast<double>(reached - begin) / static_cast<double>(end - begin);
  return from + (to - from) * progress(shape, time);
}

bool Schedule::due(std::int64_t step) const {
  validate();
  return step >= begin && step <= end && ((step - begin) % every == 0 || step == end);
}

void Schedule::validate() const {
  if (begin < 0 || end <= begin) fail("pare.numerics.121", "", "a schedule from step {} to step {}", begin, end);
  if (every < 1) fail("pare.numerics.121", "", "a schedule that changes every {} steps", every);
  if (!std::isfinite(from) || !std::isfinite(to)) fail("pare.numerics.121", "", "a schedule from {} to {}", from, to);
}

PARE_NAMESPACE_END
