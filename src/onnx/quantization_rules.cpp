// Fake-quantize of activations: QuantizeLinear and DequantizeLinear.
#include <ATen/ATen.h>

#include "onnx/rules.hpp"

PARE_NAMESPACE_BEGIN

namespace onnx {

namespace {

// input, scale, zero point, quant_min, quant_max
void per_tensor(Emitter& out, const Node& node) {
  const auto number = [&](std::size_t position) -> double {
    if (const auto given = node.operand(position).number()) return *given;
    const auto* held = node.input(position) == kNoValue ? nullptr : out.constant(node.input(position));
    if (!held || held->tensor.numel() != 1) Emitter::refuse(node, "scale or zero point are computed");
    return held->tensor.item<double>();
  };
  const QParams qparams{number(1), static_cast<std::int64_t>(number(2)), static_cast<std::int64_t>(number(3)),
                        static_cast<std::int64_t>(number(4))};
  const bool fits =
      qparams.quant_min < 0 ? qparams.quant_min >= -128 && qparams.quant_max <= 127 : qparams.quant_max <= 255;
  if (!fits) Emitter::refuse(node, "integers from {} to {}", qparams.quant_min, qparams.quant_max);
  out.alias(node, out.requantize(out.input(node, 0), qparams, node.name));
  out.set_qparams(node.output(), qparams);
}

void per_channel(Emitter&, const Node& node) { Emitter::refuse(node, "an activation with a scale a channel"); }

constexpr RuleEntry kQuantizationRules[] = {
    {"aten::fake_quantize_per_tensor_affine", per_tensor},
    {"aten::fake_quantize_per_channel_affine", per_channel},
};

}  // namespace

std::span<const RuleEntry> quantization_rules() { return kQuantizationRules; }

}  // namespace onnx

PARE_NAMESPACE_END
