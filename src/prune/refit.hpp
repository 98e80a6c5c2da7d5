#pragma once

#include <ATen/core/Tensor.h>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// Fits a linear layer to targets by ridge regression around the weights it has:
///
///     min over D, b of  E |Y - (W + D) X - b|^2 + ridge * mean(diag(cov X)) |D|^2
class Refit {
 public:
  struct Solution {
    at::Tensor weight;  ///< `[outputs, features]`
    at::Tensor offset;  ///< `[outputs]` double: b
  };

  /// @param weight  `[outputs, features]`
  explicit Refit(const at::Tensor& weight);
  /// @param features  `[samples, features]` float  @param targets  `[samples, outputs]` float
  void observe(const at::Tensor& features, const at::Tensor& targets);
  /// Whether it saw samples, and neither NaN nor infinities among them.
  [[nodiscard]] bool is_finite() const;
  /// @pre is_finite()
  [[nodiscard]] Solution solve(double ridge) const;

 private:
  at::Tensor weight_, products_, cross_, features_, residuals_;
  std::int64_t samples_ = 0;
};

/// Mean and variance of each channel, over batches.
class Moments {
 public:
  /// @param values  `[N, C, ...]`
  void observe(const at::Tensor& values);
  /// Whether it saw samples, and neither NaN nor infinities among them.
  [[nodiscard]] bool is_finite() const;
  [[nodiscard]] at::Tensor mean() const;
  [[nodiscard]] at::Tensor variance() const;

 private:
  at::Tensor sum_, squares_;
  double count_ = 0;
};

PARE_NAMESPACE_END
