#pragma once

#include "pare/numerics/histogram.hpp"

PARE_NAMESPACE_BEGIN

/// The range between two quantiles: with 99.9, one value in a thousand may saturate at either end.
///
/// Accurate to a bin of the histogram, about 1/4000 of the whole range, and wider rather than narrower.
class Percentile {
 public:
  /// @param percent in (50, 100]. @throws Error `pare.numerics.104` outside
  explicit Percentile(double percent = 99.99);
  /// @throws Error `pare.numerics.101` for NaN or infinities
  void observe(const at::Tensor& values) { histogram_.observe(values); }
  void merge(const Percentile& other) { histogram_.merge(other.histogram_); }
  [[nodiscard]] bool empty() const noexcept { return histogram_.empty(); }
  /// @throws Error `pare.numerics.103` before anything was seen
  [[nodiscard]] Range range(const IntegerGrid& grid) const;

 private:
  double percent_;
  Histogram histogram_;
};

PARE_NAMESPACE_END
