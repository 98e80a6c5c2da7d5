#pragma once

#include <optional>
#include <string_view>

#include "pare/pass/context.hpp"

PARE_NAMESPACE_BEGIN

/// Moves the spread between activation channels into the weights that read them (Xiao et al., "SmoothQuant", 2023).
///
/// Before: `linear_i(y, W_i, b_i)` for all linear layers i that read a sequence y, `[..., channels]` of rank 3 or more;
/// after, the same function with
///
///     s_j     = max|y_j|^strength / max_i|W_i,j|^(1 - strength)     over the calibration data
///     W_i,j   = s_j * W_i,j                                         along the input features
///     y_j     = y_j / s_j                                           as the layers read it
///
/// The `s_j` are normalised to a geometric mean of 1. Channels that are always 0, in activations or weights, keep 1.
///
/// Where y is the output of a layer norm that only these layers read, the division goes into its weight and bias and
/// costs nothing. Anywhere else (behind an activation, or where a residual reads the norm too, as in every post-norm
/// transformer) it is a product with the vector `1 / s`, which kernels do in passing; it is put in only where it takes
/// away `least_gain` of the error of the layers' results, measured on samples of the calibration data with weights and
/// activations rounded to 8 bits.
struct SmoothQuant {
  /// In [0, 1]: 0 leaves the spread with the activations, 1 moves all of it. Unset: the best of a few, site by site, by
  /// that same error.
  std::optional<double> strength = {};
  double least_gain = 0.6;  ///< in [0, 1)

  static constexpr std::string_view kName = "SmoothQuant";
  /// @throws Error `pare.quantize.103`
  void validate() const;
  /// @throws Error `pare.pass.102` without calibration where there is something to smooth, `pare.quantize.101` for NaN
  ///         or infinities met in calibration
  Preserved run(Model& model, Context& context);
};

PARE_NAMESPACE_END
