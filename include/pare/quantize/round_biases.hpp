#pragma once

#include <string_view>

#include "pare/pass/context.hpp"

PARE_NAMESPACE_BEGIN

/// Rounds the biases of integer layers to the grid of the sums that they are added to: `b = n * s_x * s_w`, n an int32
/// (Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
/// 2018), so that back ends that hold biases as integers (ONNX, microcontrollers) compute the same.
///
/// Before: a fake-quantized graph; a layer reads integers of scale `s_x` and has weights with a scale `s_w` a channel
/// or one for all. After: its bias `[out]` moved by at most `s_x * s_w / 2`, a small part of what results are rounded
/// to. Biases that others read too, of weights in groups, and numbers that 32 bits do not hold stay as they are.
/// `Quantizer` ends with it for exact scales and for a target whose results are integers (`onnxruntime_target`);
/// `QuantizationAwareTraining` converts without, so that the result is what was trained.
struct RoundBiases {
  static constexpr std::string_view kName = "RoundBiases";
  Preserved run(Model& model, Context& context);
};

PARE_NAMESPACE_END
