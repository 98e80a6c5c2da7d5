#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <iosfwd>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pare/core/literals.hpp"

PARE_NAMESPACE_BEGIN

/// What is to become of each layer: a table that prints, can be edited, and is read back.
///
///     layer                 bits  weights  damage     ms       reason
///     features.0            8     864      0          0.02113  int4 would cost 0.18
///     features.1.conv.0     4     288      0.0021     0.00871
///
/// Bits of 32 leave a layer float, bits of 16 compute it in bf16. Hand it to the quantizer and to `compile`:
///
///     pare::Quantizer{.keep_float = plan.float_layers(), .layer_weights = plan.layer_weights()}
///     for (auto& name : plan.bf16_layers()) options.node_precision[name] = torch::kBFloat16;
class Plan {
 public:
  /// One layer.
  struct Layer {
    std::string name;
    Bits weights = {8};
    std::int64_t entries = 0;  ///< weights in it
    double damage = 0;         ///< predicted
    std::string reason = {};   ///< why, in a line
    double latency_ms = 0;     ///< predicted, with what follows the layer up to the next one; 0: unknown
    friend bool operator==(const Layer&, const Layer&) = default;
  };

  /// One channel group: the share of its units that goes.
  struct Group {
    std::string name;  ///< `ChannelGroup::name`
    Ratio ratio = {0};
    std::int64_t units = 0;  ///< in it
    double damage = 0;       ///< predicted
    std::string reason = {};
    friend bool operator==(const Group&, const Group&) = default;
  };

  std::vector<Layer> layers;
  std::vector<Group> groups = {};

  /// Reads what `text()` printed, edited or not: columns `layer` and `bits` are needed, `#` starts a comment, and
  /// names with spaces stand in double quotes. A header with the columns `group` and `ratio` starts a table of groups.
  /// @throws Error `pare.plan.101` with the line for what is no plan
  [[nodiscard]] static Plan parse(std::string_view text);
  [[nodiscard]] std::string text() const;

  /// Bits of a weight in the mean over all layers of the plan; 0 for an empty one.
  [[nodiscard]] double average_bits() const;
  /// The sum of the layers' and groups' predicted damage.
  [[nodiscard]] double damage() const;
  /// The sum of the layers' predicted latencies: that of a call.
  [[nodiscard]] double latency_ms() const;
  /// For `Quantizer::layer_weights`: the layers of 8 bits and fewer.
  [[nodiscard]] std::vector<std::pair<std::string, Bits>> layer_weights() const;
  /// For `Quantizer::keep_float`: the layers of 32 and 16 bits.
  [[nodiscard]] std::vector<std::string> float_layers() const;
  /// For `CompileOptions::node_precision`: the layers of 16 bits.
  [[nodiscard]] std::vector<std::string> bf16_layers() const;

  /// For `Pruner::group_ratios`: the groups that lose units.
  [[nodiscard]] std::vector<std::pair<std::string, Ratio>> group_ratios() const;

  friend bool operator==(const Plan&, const Plan&) = default;
};

std::ostream& operator<<(std::ostream& stream, const Plan& plan);

PARE_NAMESPACE_END

template <>
struct fmt::formatter<pare::Plan> : fmt::formatter<std::string_view> {
  template <class FormatContext>
  auto format(const pare::Plan& plan, FormatContext& context) const {
    return fmt::formatter<std::string_view>::format(plan.text(), context);
  }
};
