#pragma once

#include <string_view>

#include "pare/pass/context.hpp"

PARE_NAMESPACE_BEGIN

/// Moves the spread between activation channels from a layer norm's output into the weights that read it (Xiao et al.,
/// "SmoothQuant", 2023).
///
/// Before: `linear_i(layer_norm(x, gamma, beta), W_i, b_i)`; after, the same function with
///
///     s_j     = max|y_j|^strength / max_i|W_i,j|^(1 - strength)     y: the layer norm's output over calibration
///     gamma_j = gamma_j / s_j,  beta_j = beta_j / s_j
///     W_i,j   = s_j * W_i,j                                         along the input features
///
/// The `s_j` are normalised to a geometric mean of 1. Channels that are always 0, in activations or weights, keep 1.
///
/// Preconditions: every reader of the layer norm is a linear layer with a weight of its own; where something else reads
/// it too (the residual of a post-norm transformer), it declines.
struct SmoothQuant {
  double strength = 0.5;  ///< in [0, 1]: 0 leaves the spread with the activations, 1 moves all of it

  static constexpr std::string_view kName = "SmoothQuant";
  /// @throws Error `pare.quantize.103`
  void validate() const;
  /// @throws Error `pare.pass.102` without calibration where there is something to smooth, `pare.quantize.101` for NaN
  /// or
  ///         infinities met in calibration
  Preserved run(Model& model, Context& context);
};

PARE_NAMESPACE_END
