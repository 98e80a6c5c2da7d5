#pragma once

#include <ATen/core/Tensor.h>

#include "pare/core/qparams.hpp"

PARE_NAMESPACE_BEGIN

/// A range and the error it leaves in the results of the layer that reads the values.
struct RangeChoice {
  Range range;
  double error = 0;
};

/// Chooses between a saturating range and the whole one by the squared error of `rows * weights^T` against `results`.
///
/// What a saturating range cuts off is wrong in one direction; a value-wise measure such as the mean squared error does
/// not see that it adds up over a layer's inputs.
/// @param rows    samples of the layer's input, `[n, features]` float
/// @param weights the layer's weights as it will use them, `[outputs, features]` float
/// @param results what the layer should give, `[n, outputs]` float
RangeChoice choose_range(const at::Tensor& rows, const at::Tensor& weights, const at::Tensor& results, Range saturating,
                         Range whole, const IntegerGrid& grid);

PARE_NAMESPACE_END
