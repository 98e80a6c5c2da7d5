#pragma once

#include <cstdint>
#include <optional>

#include "pare/graph/fusion.hpp"

PARE_NAMESPACE_BEGIN

/// The axis of a region's table weight along which output channels lie, or nothing when reshapes hide it.
///
/// Convolution `[out, in / groups, ...]` and linear `[out, in]`: 0. Transposed convolution `[in, out / groups, ...]`:
/// 1; its channel c of group g is output `g * (out / groups) + c`. `matmul(x, w)` with w `[in, out]`: 1.
std::optional<std::int64_t> output_axis(const Graph& graph, const FusedRegion& region);

/// Whether in evaluation mode nothing but this region reads its table weight, nor what is computed from it on the way.
bool owns_weight(const Graph& graph, const FusedRegion& region);

/// Groups of a convolution region, 1 for everything else.
std::int64_t groups_of(const Graph& graph, const FusedRegion& region);

PARE_NAMESPACE_END
