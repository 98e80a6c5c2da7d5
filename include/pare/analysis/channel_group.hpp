#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <iosfwd>
#include <span>
#include <string>
#include <vector>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// Channels that can be removed one by one, each with everything that has to go with it.
///
/// A unit is a hidden channel as the whole model sees it: a row of the convolution that computes it, its entries in the
/// batch norm, a column of every layer that reads it; or a head of attention, a neuron of a feed-forward network, a
/// hidden unit of an LSTM with all its gates. Units of a group take up the same axes. Prints as
///
///     layer1.0.conv1.weight:0, 16 units
///       layer1.0.conv1.weight axis 0, 1 of 16 a unit, output
///       layer1.0.bn1.bias     axis 0, 1 of 16 a unit
///       ...
struct ChannelGroup {
  /// The part of one axis of a weight that belongs to the group.
  struct Slice {
    std::string path;
    std::int64_t dim = 0;
    std::int64_t count = 0;  ///< entries of the whole axis, other groups' included
    bool is_parameter = true;
    bool produces = false;              ///< the axis of a layer's outputs; otherwise inputs or per channel
    bool consumes = false;              ///< the axis of a layer's inputs
    bool scales = false;                ///< the scale of a batch norm
    std::int64_t entries = 1;           ///< of the axis that a unit takes up
    std::vector<std::int64_t> indices;  ///< `[units x entries]`: those of each unit, ascending, unit after unit

    /// The indices of one unit.
    [[nodiscard]] std::span<const std::int64_t> of(std::size_t unit) const {
      const auto each = static_cast<std::size_t>(entries);
      return std::span(indices).subspan(unit * each, each);
    }
    /// Whether the slice is its whole axis, an entry a unit, in order.
    [[nodiscard]] bool is_whole() const;
  };

  std::string name;                 ///< path and axis of the first slice, e.g. `layer1.0.conv1.weight:0`
  std::vector<std::int64_t> units;  ///< the analysis's names of the units, ascending
  std::vector<Slice> slices;        ///< producers first, each by path
  std::vector<std::string>
      constants;       ///< what in the graph depends on the count: `attention.view (aten::view): size = [batch, 12]`
  std::string frozen;  ///< why the group must stay whole; empty: it can be pruned

  [[nodiscard]] std::size_t size() const noexcept { return units.size(); }
  [[nodiscard]] bool is_frozen() const noexcept { return !frozen.empty(); }
  /// A line for the group, one for each slice and constant.
  [[nodiscard]] std::string text() const;
};

std::ostream& operator<<(std::ostream& stream, const ChannelGroup& group);

PARE_NAMESPACE_END

template <>
struct fmt::formatter<pare::ChannelGroup> : fmt::formatter<std::string_view> {
  template <class FormatContext>
  auto format(const pare::ChannelGroup& group, FormatContext& context) const {
    return fmt::formatter<std::string_view>::format(group.text(), context);
  }
};
