#pragma once

#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

#include "pare/analysis/latency.hpp"
#include "pare/pass/report.hpp"
#include "pare/pipeline/drop_estimate.hpp"
#include "pare/pipeline/head_report.hpp"

PARE_NAMESPACE_BEGIN

/// One model, measured.
struct Measurement {
  std::optional<double> metric = {};  ///< where one was given
  std::uint64_t weight_bytes = 0;
  Latency latency = {};  ///< of one call on the example
};

/// What a pipeline did: the model before and after, its stages, a row for every layer.
struct PipelineReport {
  Measurement before;                     ///< the captured model as LibTorch runs it
  Measurement after;                      ///< the compiled model
  std::optional<DropEstimate> drop = {};  ///< of the metric, with its interval, where samples were judged one by one
  std::vector<HeadReport> heads = {};     ///< of each head, where there are any
  Report steps;                           ///< stages, kept or rolled back, and layers
  std::string shortfall;                  ///< the limits that were not reached and by how much; empty within the budget

  [[nodiscard]] bool within_budget() const noexcept { return shortfall.empty(); }
  /// Tables: before and after, stages, layers. Lines end in `\n`.
  [[nodiscard]] std::string text() const;
  /// `{"before":{"metric","weight_bytes","latency_ms","latency_p99_ms"},"after":{…},"drop":{"seen","low","high","samples"},
  /// "heads":[{"name","before","after","drop","low","high","samples","max_drop"}],"shortfall","stages":[…],
  /// "layers":[…]}`, the last two as `Report::json`.
  [[nodiscard]] std::string json(int indent = 2) const;
};

std::ostream& operator<<(std::ostream& stream, const PipelineReport& report);

PARE_NAMESPACE_END

template <>
struct fmt::formatter<pare::PipelineReport> : fmt::formatter<std::string> {
  template <class Context>
  auto format(const pare::PipelineReport& report, Context& context) const {
    return fmt::formatter<std::string>::format(report.text(), context);
  }
};
