#pragma once

#include <string_view>

#include "pare/pass/context.hpp"

PARE_NAMESPACE_BEGIN

/// Evens out the ranges of neighbouring layers' channels without changing the function (Nagel et al., "Data-Free
/// Quantization Through Weight Equalization and Bias Correction", 2019).
///
/// Before: `W2 f(W1 x + b1)` with a positively homogeneous `f` (none, ReLU, leaky ReLU), so `f(s y) = s f(y)` for `s >
/// 0`; after, for every channel c between them:
///
///     s_c = sqrt(r1_c r2_c) / r2_c     r1_c: largest |W1| of output channel c, r2_c: largest |W2| of input channel c
///     W1_c = W1_c / s_c,  b1_c = b1_c / s_c,  W2_,c = s_c W2_,c
///
/// which gives both the range `sqrt(r1 r2)`. Chains of layers are swept until the scales settle. It matters where
/// weights are quantized per tensor, above all in depthwise networks.
///
/// Preconditions: batch norms are folded; the second layer is the only reader of the first; neither shares its weight.
/// ReLU6 is not homogeneous: its upper bound would have to move with each channel, so such pairs are declined.
struct CrossLayerEqualization {
  int sweeps = 20;          ///< at most
  double tolerance = 1e-3;  ///< a sweep whose scales all lie this close to 1 is the last

  static constexpr std::string_view kName = "CrossLayerEqualization";
  Preserved run(Model& model, Context& context);
};

PARE_NAMESPACE_END
