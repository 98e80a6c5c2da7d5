#pragma once

#include <optional>
#include <string>
#include <vector>

#include "pare/execute/compile.hpp"
#include "pare/graph/model.hpp"

namespace zoo {

/// What compiling a smaller model won over compiling the original, layer by layer.
struct Gain {
  struct Row {
    std::string layer;
    double before_ms = 0, after_ms = 0;
    std::optional<double> macs_left = {};  ///< share of the layer's multiply-accumulates; none: it has no such layer
    /// Milliseconds that the layer takes beyond its share: what kept the whole from being as much faster as it is
    /// smaller. A step without multiply-accumulates is asked for the share of the whole.
    double lost_ms = 0;
  };
  double before_ms = 0, after_ms = 0;  ///< medians of whole calls, in turns
  double macs_left = 1;
  std::vector<Row> rows = {};  ///< what lost most comes first

  /// A table of the first `count` rows.
  [[nodiscard]] std::string text(std::size_t count) const;
};

/// Compiles both models, times them in turns and profiles each, for about `seconds` in all.
Gain measure_gain(const pare::Model& before, const pare::Model& after, const pare::CompileOptions& options,
                  const std::vector<torch::Tensor>& inputs, double seconds);

}  // namespace zoo
