#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// First and second moments of a layer's input features, group by group: what error-compensated rounding and bias
/// correction need to know of the calibration data.
///
/// Memory is `groups * (features + features^2)` doubles, however many samples are added.
class Gram {
 public:
  /// Adds samples, `[groups, samples, features]` float.
  /// @throws Error `pare.numerics.105` when groups or features are not those seen before
  void observe(const at::Tensor& features);
  /// The same, a few groups at a time and by all threads, where the features of all of them would be large.
  /// @param features those of groups `[first, first + count)`; called from several threads
  /// @param together at most so many groups at a time
  void observe(std::int64_t groups, std::int64_t together,
               const std::function<at::Tensor(std::int64_t first, std::int64_t count)>& features);
  void merge(const Gram& other);
  [[nodiscard]] bool empty() const noexcept { return samples_ == 0; }
  [[nodiscard]] std::int64_t samples() const noexcept { return samples_; }
  /// Means, `[groups, features]` double. @pre not empty
  [[nodiscard]] at::Tensor mean() const;
  /// `E[x x^T]`, or with `centred` the covariance: `[groups, features, features]` double. @pre not empty
  [[nodiscard]] at::Tensor second_moment(bool centred) const;

 private:
  void add(const at::Tensor& sum, const at::Tensor& products, std::int64_t samples);
  at::Tensor sum_;       // [groups, features]
  at::Tensor products_;  // [groups, features, features]
  std::int64_t samples_ = 0;
};

PARE_NAMESPACE_END
