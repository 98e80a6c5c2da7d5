#pragma once

#include <cstdint>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// Longest row of `softmax_to_integers`.
constexpr std::int64_t kLongestSoftmax = 4096;

/// Whether `softmax_to_integers` is the faster one here: it wants vector registers of 64 bytes.
[[nodiscard]] bool prefers_own_softmax();

/// The softmax of each row of `[rows, count]` floats onto the grid `scale * q`, q from 0 to 255: what an int8 product
/// of attention reads. Its exponentials are exact to 3e-6, far below a step of that grid, for two thirds of the
/// instructions of a softmax in float32. Rows of nothing but -inf become zeros.
/// @param count 1 to `kLongestSoftmax`
void softmax_to_integers(const float* source, std::uint8_t* result, std::int64_t rows, std::int64_t count, float scale);

PARE_NAMESPACE_END
