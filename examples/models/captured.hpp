#pragma once

#include <cstdint>
#include <string>

#include "examples/models/registry.hpp"
#include "pare/capture/capture.hpp"

namespace models {

/// A model of the zoo beside what was captured from it.
struct Captured {
  Bundle bundle;
  pare::Model model;
};

/// How a model's inputs may differ in size: in the batch, and sentences in their length too.
pare::CaptureOptions varying_sizes(const Bundle& bundle);

/// Makes a model with random weights of this seed, settles it, and captures it in evaluation mode.
/// @param varying  with `varying_sizes`; otherwise in the batch alone
Captured captured(const std::string& name, std::uint64_t seed = 0, bool varying = false);

}  // namespace models
