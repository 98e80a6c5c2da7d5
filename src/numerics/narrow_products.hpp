#pragma once

#include <cstdint>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// Fewest and most features of `narrow_products`: windows of depthwise convolutions have 9, 25 or 49.
constexpr std::int64_t kFewestNarrowFeatures = 9, kMostNarrowFeatures = 64;

/// `X' X` of a tall and narrow matrix, for which a general matrix product takes several times as long.
/// @param rows `[samples, features]`, one after the other
/// @param samples at least 1
/// @param products `[features, features]`
void narrow_products(const float* rows, std::int64_t samples, std::int64_t features, float* products);

PARE_NAMESPACE_END
