#include "pare/distill/fit_options.hpp"

#include <cmath>

#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

void FitOptions::validate() const {
  const auto want = [](bool good, const char* name, const auto& value, const char* range) {
    if (!good) fail("pare.distill.120", name, "{} is out of range: {}", value, range);
  };
  want(epochs >= 1, "epochs", epochs, "at least 1");
  want(steps >= 0, "steps", steps, "at least 0");
  want(rate > 0 && std::isfinite(rate), "rate", rate, "positive");
  want(weight_decay >= 0, "weight_decay", weight_decay, "at least 0");
  want(momentum >= 0 && momentum < 1, "momentum", momentum, "0 to 1");
  want(warm_up.fraction >= 0 && warm_up.fraction <= 1, "warm_up", warm_up.fraction, "0 to 1");
  want(clip >= 0, "clip", clip, "at least 0");
  want(accumulate >= 1, "accumulate", accumulate, "at least 1");
  want(patience >= 0, "patience", patience, "at least 0");
  want(checkpoint_every >= 1, "checkpoint_every", checkpoint_every, "at least 1");
}

PARE_NAMESPACE_END
