#pragma once

#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pare/analysis/latency_table.hpp"
#include "pare/analysis/machine_limits.hpp"
#include "pare/core/batches.hpp"
#include "pare/execute/compile_options.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// What every layer of a model takes when it is compiled: as it runs there, fused, among the others.
///
///     pare::LatencyTable table(".cache/pare");
///     pare::LayerLatency latency(int8, {image}, table);      // runs the model once, the next time nothing
///     fmt::print("{}", latency.text(pare::machine_limits(table)));
///
/// A step is known by what it does (operators, constants, sizes), its precision, and the precisions in which it finds
/// its operands and leaves its results; a model whose steps are all known is not run. What is unknown is timed by
/// compiling the model and running it whole (`CompiledModel::profile`).
class LayerLatency {
 public:
  /// One step, or a node that runs with another one and takes no time of its own.
  struct Row {
    std::string name;       ///< of its node
    std::string layer;      ///< weight that it is charged to: its own, or that of the nearest layer before it
    std::string op;         ///< e.g. `aten::conv2d`
    std::string precision;  ///< `int8`, `bf16`, `float32`
    double ms = 0;
    std::int64_t macs = 0;
    std::uint64_t bytes = 0;  ///< read and written: operands, weights and results at their widths
    bool guessed = false;     ///< of a prediction: from the same work between other neighbours, or from nothing
    /// Operations (two for a multiply-accumulate) for each byte moved.
    [[nodiscard]] double intensity() const;
    /// 10^9 operations in a second.
    [[nodiscard]] double gops() const;
  };

  /// Measures what the table does not know, and adds it there (`LatencyTable::save` is the caller's).
  /// @param inputs  what a call gets
  /// @param seconds about how long the model is run
  /// @throws Error as `compile` and `CompiledModel::run`
  LayerLatency(const Model& model, const Batch& inputs, LatencyTable& table, CompileOptions options = {},
               double seconds = 0.5);
  /// Runs nothing: steps that the table does not know take what the same work takes between other neighbours, or none
  /// (`Row::guessed`).
  [[nodiscard]] static LayerLatency predicted(const Model& model, const Batch& inputs, const LatencyTable& table,
                                              CompileOptions options = {});

  /// In order of execution; the last one is what a call takes beside its steps.
  [[nodiscard]] const std::vector<Row>& rows() const noexcept { return rows_; }
  /// Of a call: the sum of the rows.
  [[nodiscard]] double total_ms() const;
  /// Of everything that is charged to the layer of this weight.
  [[nodiscard]] double layer_ms(std::string_view weight) const;
  /// Whether the model was run for it.
  [[nodiscard]] bool was_timed() const noexcept { return timed_; }
  /// Rows that are guessed.
  [[nodiscard]] std::size_t guessed() const;
  /// A line for each step that takes time: milliseconds, percent, and the roofline: operations a byte, what was reached
  /// and how much of what the machine could at that intensity (Williams et al., "Roofline", 2009).
  [[nodiscard]] std::string text(const std::optional<MachineLimits>& limits = {}) const;

 private:
  LayerLatency() = default;
  std::vector<Row> rows_;
  bool timed_ = false;
};

std::ostream& operator<<(std::ostream& stream, const LayerLatency& latency);

PARE_NAMESPACE_END
