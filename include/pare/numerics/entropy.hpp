#pragma once

#include "pare/numerics/histogram.hpp"

PARE_NAMESPACE_BEGIN

/// The range whose quantized distribution loses the least information: minimal Kullback-Leibler divergence from what
/// was seen, with saturated values heaped on the ends (Migacz, "8-bit Inference with TensorRT", 2017). What saturates
/// is missing in the quantized distribution, which is scaled up there and so favours ranges that next to nothing lies
/// in.
///
/// Zeros are left out, as there: they are exact and would drown the rest.
class Entropy {
 public:
  /// @throws Error `pare.numerics.101` for NaN or infinities
  void observe(const at::Tensor& values) { histogram_.observe(values); }
  void merge(const Entropy& other) { histogram_.merge(other.histogram_); }
  [[nodiscard]] bool empty() const noexcept { return histogram_.empty(); }
  /// @throws Error `pare.numerics.103` before anything was seen
  [[nodiscard]] Range range(const IntegerGrid& grid) const;

 private:
  Histogram histogram_;
};

PARE_NAMESPACE_END
