#pragma once

#include <cstdint>

#include "pare/numerics/coordinate_rounding.hpp"

PARE_NAMESPACE_BEGIN

/// How `Quantizer{.rounding = Rounding::Learned}` rounds weights: without labels, from the calibration batches alone.
struct LearnedRounding {
  CoordinateRounding solver = {};
  /// Samples of a layer's input over all batches; layers with more than an eighth as many inputs per output channel get
  /// eight samples an input.
  std::int64_t samples = 65536;
};

PARE_NAMESPACE_END
