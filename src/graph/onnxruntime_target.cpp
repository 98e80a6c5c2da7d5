#include <array>

#include "pare/graph/target.hpp"

PARE_NAMESPACE_BEGIN

const TargetDescription& onnxruntime_target() {
  using enum OpFamily;
  // What a clamp leaves of the integers, QuantizeLinear's own saturation leaves, too.
  static constexpr std::array<std::string_view, 5> kClamps{"aten::relu", "aten::relu6", "aten::hardtanh", "aten::clamp",
                                                           "aten::clamp_min"};
  static constexpr std::array<FusionRule, 5> kRules{{
      {Convolution, true, false, kClamps, false},
      {TransposedConvolution, true, false, kClamps, false},
      {Linear, true, true, kClamps, true},
      {MatrixMultiply, false, false, kClamps, false},
      {Addition, false, false, kClamps, false},
  }};
  static const TargetDescription target = [] {
    auto result = onednn_target();
    result.name = "onnxruntime";
    result.fusion = kRules;
    for (auto& support : result.families) {
      if (support.family == Convolution) support.float_output = false;
      if (support.family == TransposedConvolution) {
        support.activations.clear();
        support.reason = "ONNX Runtime's kernel is float; only the weights are stored as integers";
      }
    }
    return result;
  }();
  return target;
}

PARE_NAMESPACE_END
