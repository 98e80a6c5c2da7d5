#pragma once

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// 1.5 * 2^23. A float32 of magnitude below 2^22 plus this holds its nearest integer in the low bits, halves to even;
/// subtracted again, it leaves that integer as a float. Loops with it become vectors, calls of `nearbyint` do not.
inline constexpr float kRoundsToEven = 12582912.0F;

PARE_NAMESPACE_END
