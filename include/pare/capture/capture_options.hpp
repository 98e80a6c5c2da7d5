#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// A size that may differ from run to run.
struct VaryingDim {
  /// One dimension of one input. Inputs are counted flat, as `tensors_of` lists them.
  struct Place {
    std::size_t input = 0;
    std::int64_t dim = 0;
  };
  std::string name = "batch";
  std::vector<Place> where = {{}};  ///< all of these have this size
  /// Second size to capture at; 0: chosen (a batch: 2 and 3; others are less than the example's by the largest power of
  /// two in it, up to 32). Sizes inside are read off the two: a half of both is a half only where both are even, so
  /// give a network that halves five times an example of 64 or 96, not of 50.
  std::int64_t other_size = 0;
};

/// What `capture` should assume and check.
struct CaptureOptions {
  /// Which sizes vary. Empty: dimension 0 of every input is the batch.
  std::vector<VaryingDim> dims = {};
  /// Captures the example's sizes as they are: every size is fixed.
  bool fixed_sizes = false;
  /// Also captures training mode, so that the Model trains as the module does.
  bool training = true;
  /// Replays against the module's own forward on fresh values at another size, and refuses what differs.
  bool verify = true;
  /// Names for the inputs, flat; missing ones are `x`, `x1`, ….
  std::vector<std::string> input_names = {};
};

PARE_NAMESPACE_END
