#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// Names one node of a `Graph`; stable while the graph is edited.
enum class NodeId : std::uint32_t {};
/// Names one SSA value of a `Graph`; stable while the graph is edited.
enum class ValueId : std::uint32_t {};

/// "No node": the producer of an input or a weight.
inline constexpr NodeId kNoNode{std::numeric_limits<std::uint32_t>::max()};
/// "No value": an absent optional tensor.
inline constexpr ValueId kNoValue{std::numeric_limits<std::uint32_t>::max()};

/// The id as an index into the graph's tables.
constexpr std::size_t index(NodeId id) noexcept { return static_cast<std::size_t>(id); }
/// The id as an index into the graph's tables.
constexpr std::size_t index(ValueId id) noexcept { return static_cast<std::size_t>(id); }

PARE_NAMESPACE_END
