#pragma once

#include <cstdint>
#include <string>

#include "pare/core/qparams.hpp"

PARE_NAMESPACE_BEGIN

namespace mcu {

/// What a program that `write_c` wrote needs, and how its integers are read.
struct CSource {
  std::string header;              ///< path of the header
  std::string prefix;              ///< of its functions and macros
  std::int64_t flash_bytes = 0;    ///< constant data: weights, offsets, multipliers
  std::int64_t arena_bytes = 0;    ///< activations that live at the same time
  std::int64_t scratch_bytes = 0;  ///< further RAM where PARE_USE_CMSIS_NN is defined
  std::int64_t macs = 0;           ///< multiply-accumulates of a call
  QParams input;                   ///< of the input
  double output_scale = 1.0;       ///< real score = scale * integer
};

}  // namespace mcu

PARE_NAMESPACE_END
