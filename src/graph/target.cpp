#include "pare/graph/target.hpp"

#include <algorithm>

PARE_NAMESPACE_BEGIN

const TargetDescription::Support* TargetDescription::find(OpFamily family) const noexcept {
  const auto found = std::ranges::find(families, family, &Support::family);
  return found == families.end() ? nullptr : &*found;
}

bool TargetDescription::supports_weight(OpFamily family, const Scheme& scheme) const noexcept {
  const auto* support = find(family);
  return support && std::ranges::find(support->weights, scheme) != support->weights.end();
}

bool TargetDescription::supports_activation(OpFamily family, const Scheme& scheme) const noexcept {
  const auto* support = find(family);
  return support && std::ranges::find(support->activations, scheme) != support->activations.end();
}

const TargetDescription& onednn_target() {
  using enum OpFamily;
  using enum TargetDescription::Granularity;
  using Scheme = TargetDescription::Scheme;
  static const std::vector<Scheme> activations{{.is_signed = false, .symmetric = false}, {.is_signed = true}};
  static const std::vector<Scheme> weights{{.granularity = PerChannel}, {.granularity = PerTensor}};
  static const std::string weight_only = "only the weights are stored as integers";
  static const std::string float_inside = "computed in float; the result may be quantized for an integer consumer";
  static const TargetDescription target{
      .name = "onednn",
      .families =
          {
              {.family = Convolution,
               .weights = weights,
               .activations = activations,
               .integer_output = true,
               .reason = {}},
              {.family = TransposedConvolution,
               .weights = weights,
               .activations = activations,
               .integer_output = true,
               .reason = {}},
              {.family = Linear, .weights = weights, .activations = activations, .integer_output = true, .reason = {}},
              {.family = MatrixMultiply,
               .weights = {},
               .activations = activations,
               .integer_output = true,
               .reason = {}},
              {.family = Attention, .weights = {}, .activations = activations, .integer_output = true, .reason = {}},
              {.family = Addition, .weights = {}, .activations = activations, .integer_output = true, .reason = {}},
              {.family = Multiplication,
               .weights = {},
               .activations = activations,
               .integer_output = true,
               .reason = {}},
              {.family = Concatenation,
               .weights = {},
               .activations = activations,
               .integer_output = true,
               .reason = {}},
              {.family = AveragePooling,
               .weights = {},
               .activations = activations,
               .integer_output = true,
               .reason = {}},
              {.family = Activation, .weights = {}, .activations = activations, .integer_output = true, .reason = {}},
              {.family = PassThrough, .weights = {}, .activations = activations, .integer_output = true, .reason = {}},
              {.family = Normalization,
               .weights = {},
               .activations = {},
               .integer_output = true,
               .reason = float_inside},
              {.family = Softmax, .weights = {}, .activations = {}, .integer_output = true, .reason = float_inside},
              {.family = Recurrent,
               .weights = weights,
               .activations = {},
               .integer_output = false,
               .reason = weight_only},
              {.family = Embedding,
               .weights = weights,
               .activations = {},
               .integer_output = false,
               .reason = weight_only},
          },
      .bf16 = true};
  return target;
}

PARE_NAMESPACE_END
