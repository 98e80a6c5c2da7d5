#include "pare/graph/target.hpp"

#include <algorithm>

PARE_NAMESPACE_BEGIN

const TargetDescription::Support* TargetDescription::find(OpFamily family) const noexcept {
  const auto found = std::ranges::find(families, family, &Support::family);
  return found == families.end() ? nullptr : &*found;
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
      .families = {
          {.family = Convolution, .weights = weights, .activations = activations, .reason = {}},
          {.family = TransposedConvolution, .weights = weights, .activations = activations, .reason = {}},
          {.family = Linear, .weights = weights, .activations = activations, .reason = {}},
          {.family = MatrixMultiply, .weights = {}, .activations = activations, .reason = {}},
          {.family = Attention, .weights = {}, .activations = activations, .reason = {}},
          {.family = Addition, .weights = {}, .activations = activations, .reason = {}},
          {.family = Multiplication, .weights = {}, .activations = activations, .reason = {}},
          {.family = Concatenation, .weights = {}, .activations = activations, .reason = {}},
          {.family = AveragePooling, .weights = {}, .activations = activations, .reason = {}},
          {.family = Activation, .weights = {}, .activations = activations, .reason = {}},
          {.family = PassThrough, .weights = {}, .activations = activations, .reason = {}},
          {.family = Normalization, .weights = {}, .activations = {}, .reason = float_inside},
          {.family = Softmax, .weights = {}, .activations = {}, .reason = float_inside},
          {.family = Recurrent, .weights = weights, .activations = {}, .reason = weight_only},
          {.family = Embedding, .weights = weights, .activations = {}, .reason = weight_only},
      }};
  return target;
}

PARE_NAMESPACE_END
