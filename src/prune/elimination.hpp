#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// What it costs a linear layer to lose some of its inputs, when the others are refitted: the state of one layer while
/// inputs leave it one after the other.
///
/// Only the part of the layer that reads the units takes part: what leaves changes the rest of the inverse, and nothing
/// that is asked here depends on it.
class Elimination {
 public:
  /// @param weight   `[outputs, units * width]`: the columns of the units, one unit after the other; rows weighted by
  ///                 what their errors matter
  /// @param inverse  `[units * width, units * width]` float: of the damped covariance of all inputs, at the same
  /// columns
  Elimination(const at::Tensor& weight, const at::Tensor& inverse, std::int64_t units);
  /// The cost of each unit now, `[units]` double; of units that are gone, infinite.
  [[nodiscard]] at::Tensor costs() const;
  /// Removes units, refitting the rest.
  void remove(const std::vector<std::int64_t>& units);

 private:
  void compact();

  std::int64_t units_, width_;
  double scale_;                       // of the inverse, which is kept at about one: its squares shall not overflow
  at::Tensor weight_, inverse_;        // of the units that are present
  std::vector<std::int64_t> present_;  // units that have columns here, ascending
  std::vector<bool> gone_;             // of those
  std::int64_t gone_count_ = 0;
};

/// The inverse of a covariance with `damping` of its mean variance added: `[features, features]` float.
at::Tensor damped_inverse(const at::Tensor& covariance, double damping);

/// The cost without refitting, from the variances of the inputs alone: for layers too wide to invert.
/// @param weight  `[outputs, units * width]`  @param variances  `[units * width]` double
at::Tensor elimination_costs(const at::Tensor& weight, const at::Tensor& variances, std::int64_t units);

PARE_NAMESPACE_END
