#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// What it costs a linear layer to lose some of its inputs, when the others are refitted: the state of one layer while
/// inputs leave it one after the other.
class Elimination {
 public:
  /// @param weight      `[outputs, features]` double, rows weighted by what their errors matter
  /// @param covariance  `[features, features]` double, of the inputs
  /// @param blocks      `[units, features of a unit]` int64
  Elimination(const at::Tensor& weight, const at::Tensor& covariance, at::Tensor blocks, double damping);
  /// The cost of each unit now, `[units]` double; of units that are gone, infinite.
  [[nodiscard]] at::Tensor costs() const;
  /// Removes units, refitting the rest.
  void remove(const std::vector<std::int64_t>& units);

 private:
  at::Tensor weight_, inverse_, blocks_, gone_;
};

/// The same without refitting, from the variances of the inputs alone: for layers too wide to invert.
/// @param variances  `[features]` double
at::Tensor elimination_costs(const at::Tensor& weight, const at::Tensor& variances, const at::Tensor& blocks);

PARE_NAMESPACE_END
