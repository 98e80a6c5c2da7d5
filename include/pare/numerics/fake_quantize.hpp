#pragma once

#include <ATen/core/Tensor.h>

#include "pare/core/qparams.hpp"

PARE_NAMESPACE_BEGIN

/// Scale and zero point that map `range`, widened to contain 0, onto `grid`.
///
/// 0 is always an integer, so zero padding and ReLU are exact. The scale is rounded to float, as kernels hold it. A
/// range that is only the point 0 (a constant channel of zeros) gets scale 1: every value is then exactly
/// representable.
/// @throws Error `pare.numerics.102` for a range that is not finite or upside down
[[nodiscard]] QParams choose_qparams(Range range, const IntegerGrid& grid);

/// Scales and zero points of the rows of a matrix.
struct RowQParams {
  at::Tensor scale;       ///< `[rows]` float
  at::Tensor zero_point;  ///< `[rows]` int32; all 0 on a symmetric grid
};

/// `choose_qparams` for each row. @param low,high `[rows]` float
[[nodiscard]] RowQParams choose_row_qparams(const at::Tensor& low, const at::Tensor& high, const IntegerGrid& grid);

/// Rounds to the grid and back; half to even, saturating: what `aten::fake_quantize_per_tensor_affine` computes.
[[nodiscard]] at::Tensor fake_quantize(const at::Tensor& values, const QParams& qparams);
/// The same for the rows of `[rows, columns]`.
[[nodiscard]] at::Tensor fake_quantize(const at::Tensor& rows, const RowQParams& qparams, const IntegerGrid& grid);

/// Smallest and largest element. An empty tensor gives `{0, 0}`.
/// @throws Error `pare.numerics.101` for a tensor that holds NaN or an infinity
[[nodiscard]] Range finite_extrema(const at::Tensor& values);

/// `10 log10(sum reference^2 / sum (reference - approximation)^2)` in dB; infinite when they are equal.
[[nodiscard]] double sqnr_db(const at::Tensor& reference, const at::Tensor& approximation);

PARE_NAMESPACE_END
