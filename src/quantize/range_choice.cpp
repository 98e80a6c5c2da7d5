#include "range_choice.hpp"

#include <ATen/ATen.h>

#include "pare/numerics/fake_quantize.hpp"

PARE_NAMESPACE_BEGIN

RangeChoice choose_range(const at::Tensor& rows, const at::Tensor& weights, const at::Tensor& results, Range saturating,
                         Range whole, const IntegerGrid& grid) {
  const auto error = [&](Range range) {
    const auto rounded = fake_quantize(rows, choose_qparams(range, grid));
    return (at::matmul(rounded, weights.t()) - results).square().sum().to(at::kDouble).item<double>();
  };
  const RangeChoice narrow{saturating, error(saturating)}, wide{whole, error(whole)};
  return narrow.error <= wide.error ? narrow : wide;
}

PARE_NAMESPACE_END
