#pragma once

#include <cstdint>
#include <iosfwd>
#include <string>
#include <vector>

#include "pare/core/batches.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// What the results of a model's layers look like on calibration data: which will be hard to quantize, and why.
///
/// Layers are fused regions: what is described is the value behind bias, norm, residual and activation. Two sweeps over
/// the batches, in evaluation mode; memory does not grow with their number.
class ActivationStats {
 public:
  /// One layer's result.
  struct Layer {
    std::string name;
    double low = 0, high = 0;
    double mean = 0, deviation = 0;
    double kurtosis = 0;  ///< excess: 0 for a normal distribution, large where few values are far out
    double outliers = 0;  ///< share of values more than six deviations from the mean
    /// Along the second axis of a convolution's result and of four axes or more, else along the last; 1 where that
    /// axis is not as long in every batch.
    std::int64_t channels = 0;
    std::int64_t dead = 0;      ///< channels that are zero throughout
    double channel_spread = 1;  ///< largest range of a channel by the median one, of channels that are not dead
  };

  /// @throws Error `pare.analysis.106` without batches, `.110` for a value that is NaN or infinite, with the layer
  ActivationStats(const Model& model, const Batches& batches);
  [[nodiscard]] const std::vector<Layer>& layers() const noexcept { return layers_; }
  /// A line for each layer, in order.
  [[nodiscard]] std::string text() const;

 private:
  std::vector<Layer> layers_;
};

std::ostream& operator<<(std::ostream& stream, const ActivationStats& stats);

PARE_NAMESPACE_END
