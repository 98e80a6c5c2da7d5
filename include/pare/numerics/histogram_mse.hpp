#pragma once

#include "pare/numerics/histogram.hpp"

PARE_NAMESPACE_BEGIN

/// The range with the least mean squared quantization error on what was seen: saturation against resolution.
///
/// Candidates shrink both ends together, then each end alone around the best.
class HistogramMSE {
 public:
  /// @throws Error `pare.numerics.101` for NaN or infinities
  void observe(const at::Tensor& values) { histogram_.observe(values); }
  void merge(const HistogramMSE& other) { histogram_.merge(other.histogram_); }
  [[nodiscard]] bool empty() const noexcept { return histogram_.empty(); }
  /// @throws Error `pare.numerics.103` before anything was seen
  [[nodiscard]] Range range(const IntegerGrid& grid) const;
  [[nodiscard]] const Histogram& histogram() const noexcept { return histogram_; }

 private:
  Histogram histogram_;
};

PARE_NAMESPACE_END
