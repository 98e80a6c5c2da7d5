#pragma once

#include <algorithm>

#include "pare/core/error.hpp"
#include "pare/numerics/fake_quantize.hpp"

PARE_NAMESPACE_BEGIN

/// The whole range seen: nothing saturates, outliers cost resolution.
class MinMax {
 public:
  /// @throws Error `pare.numerics.101` for NaN or infinities
  void observe(const at::Tensor& values) {
    if (values.numel() == 0) return;
    include(finite_extrema(values));
  }
  void merge(const MinMax& other) {
    if (!other.empty()) include(other.seen_);
  }
  [[nodiscard]] bool empty() const noexcept { return empty_; }
  /// @throws Error `pare.numerics.103` before anything was seen
  [[nodiscard]] Range range(const IntegerGrid&) const {
    if (empty_) fail("pare.numerics.103", "", "the observer has seen no values");
    return seen_;
  }

 private:
  void include(Range range) {
    seen_ = empty_ ? range : Range{std::min(seen_.low, range.low), std::max(seen_.high, range.high)};
    empty_ = false;
  }
  Range seen_;
  bool empty_ = true;
};

PARE_NAMESPACE_END
