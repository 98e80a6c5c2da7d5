#include "parameter_follower.hpp"

#include <ATen/ATen.h>

#include "graph/layer_pattern.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

// Where an op has its layer's input and weight.
struct Operands {
  std::size_t input, weight;
  bool rounds_input;
  bool per_channel;  // output channels along axis 0
};

const Operands* operands_of(const std::string& op) {
  static const std::unordered_map<std::string, Operands> table{{"aten::conv1d", {0, 1, true, true}},
                                                               {"aten::conv2d", {0, 1, true, true}},
                                                               {"aten::conv3d", {0, 1, true, true}},
                                                               {"aten::conv_transpose1d", {0, 1, true, false}},
                                                               {"aten::conv_transpose2d", {0, 1, true, false}},
                                                               {"aten::conv_transpose3d", {0, 1, true, false}},
                                                               {"aten::linear", {0, 1, true, true}},
                                                               {"aten::embedding", {1, 0, false, true}}};
  const auto found = table.find(op);
  return found == table.end() ? nullptr : &found->second;
}

bool is_layer(const std::string& path, const std::string& pattern) {
  for (std::string_view module = path; !module.empty();) {
    if (fits_pattern(module, pattern)) return true;
    const auto dot = module.rfind('.');
    module = dot == std::string_view::npos ? std::string_view() : module.substr(0, dot);
  }
  return false;
}

Bits bits_for(const std::string& path, Bits usual, const std::vector<std::pair<std::string, Bits>>& exceptions) {
  for (const auto& [pattern, bits] : exceptions)
    if (is_layer(path, pattern)) return bits;
  return usual;
}

}  // namespace

ParameterFollower::ParameterFollower(const torch::nn::Module& module, QuantizationSettings settings,
                                     const QatOptions& options)
    : module_(module), settings_(std::move(settings)), options_(options) {
  for (const auto& item : module.named_parameters()) {
    Layer layer;
    const auto dot = item.key().rfind('.');
    layer.parameter = item.value();
    layer.path = dot == std::string::npos ? item.key() : item.key().substr(0, dot);
    layer.name = item.key();
    // A module may hold further weights, each with an input of its own.
    layer.prefix = layer.name == layer.path + ".weight" ? layer.path : layer.name;
    for (const auto& pattern : settings_.keep_float) layer.kept_float |= is_layer(layer.path, pattern);
    layers_.emplace(item.value().unsafeGetTensorImpl(), std::move(layer));
  }
}

std::unique_ptr<FakeQuantizer> ParameterFollower::weight_quantizer(const Layer& layer) const {
  FakeQuantizer::Description description;
  description.name = layer.name + ".fake_quantize";
  const auto bits = bits_for(layer.path, settings_.weights, settings_.layer_weights);
  description.grid =
      settings_.symmetric_weights ? IntegerGrid::signed_symmetric(bits) : IntegerGrid::signed_affine(bits);
  description.axis = layer.per_channel && !std::holds_alternative<PerTensor>(settings_.granularity) ? 0 : -1;
  description.weight = true;
  description.training = options_.weights;
  const auto plain = layer.parameter.detach();
  const auto rows = description.axis < 0 ? plain.reshape({1, -1}) : plain.flatten(1);
  try {
    const auto chosen = settings_.weight_observer(rows, description.grid);
    const bool whole = description.axis < 0;
    return std::make_unique<FakeQuantizer>(description, whole ? chosen.scale.squeeze() : chosen.scale,
                                           whole ? chosen.zero_point.squeeze() : chosen.zero_point);
  } catch (const Error& error) {
    if (error.id() != "pare.numerics.101") throw;
    fail("pare.quantize.101", layer.path, "this weight holds NaN or infinities; nothing can be quantized with it");
  }
}

std::unique_ptr<FakeQuantizer> ParameterFollower::input_quantizer(const Layer& layer, const at::Tensor& input) const {
  FakeQuantizer::Description description;
  description.name = layer.prefix + ".input.fake_quantize";
  description.grid =
      IntegerGrid::unsigned_affine(bits_for(layer.path, settings_.activations, settings_.layer_activations));
  description.training = options_.activations;
  description.momentum = options_.momentum;
  auto observer = settings_.observer;
  try {
    observer.observe(input.detach());
  } catch (const Error& error) {
    if (error.id() != "pare.numerics.101") throw;
    fail("pare.quantize.101", layer.path, "the first input that this layer sees holds NaN or infinities");
  }
  const auto chosen = choose_qparams(observer.range(description.grid), description.grid);
  return std::make_unique<FakeQuantizer>(description, at::scalar_tensor(chosen.scale, at::kFloat),
                                         at::scalar_tensor(chosen.zero_point, at::kFloat));
}

bool ParameterFollower::moves(const Layer& layer) const {
  return module_.is_training() && layer.steps <= options_.freeze_ranges_after;
}

void ParameterFollower::round_weight(Layer& layer, c10::IValue& weight) {
  const auto w = weight.toTensor();
  if (!layer.weight) {
    if (!module_.is_training() && !discovers_)
      fail("pare.quantize.123", layer.path,
           "this layer was never reached in calibration or training, so its range is not known; run it in training "
           "mode once, or calibrate with batches that reach it");
    const at::NoGradGuard no_grad;
    layer.weight = weight_quantizer(layer);
  }
  if (module_.is_training() && at::GradMode::is_enabled()) ++layer.steps;
  if (moves(layer)) layer.weight->observe(w, settings_.weight_observer);
  weight = (*layer.weight)(w);
}

void ParameterFollower::round_input(Layer& layer, c10::IValue& input) {
  const auto x = input.toTensor();
  if (settings_.weight_only || !x.is_floating_point() || x.numel() == 0) return;
  if (!layer.input) {
    const at::NoGradGuard no_grad;
    layer.input = input_quantizer(layer, x);
  }
  if (moves(layer)) layer.input->observe(x, settings_.weight_observer);
  if (!module_.is_training() || layer.steps > options_.delay) input = (*layer.input)(x);
}

void ParameterFollower::forward_call(const c10::OperatorHandle& op, torch::jit::Stack& stack) {
  const auto& name = op.operator_name().name;
  const auto first = stack.size() - op.schema().arguments().size();
  const auto layer_of = [&](const c10::IValue& argument) -> Layer* {
    if (!argument.isTensor()) return nullptr;
    const auto found = layers_.find(argument.toTensor().unsafeGetTensorImpl());
    return found == layers_.end() || found->second.kept_float || !found->second.parameter.is_floating_point()
               ? nullptr
               : &found->second;
  };
  if (const auto* operands = operands_of(name)) {
    if (auto* layer = layer_of(stack[first + operands->weight])) {
      layer->per_channel = operands->per_channel;
      round_weight(*layer, stack[first + operands->weight]);
      if (operands->rounds_input) round_input(*layer, stack[first + operands->input]);
    }
  } else if (name == "aten::t") {  // `linear` in C++: a product with the transposed weight
    if (auto* layer = layer_of(stack[first]); layer && layer->parameter.dim() == 2) {
      round_weight(*layer, stack[first]);
      op.callBoxed(stack);
      if (layer->transposed.defined()) transposed_.erase(layer->transposed.unsafeGetTensorImpl());
      layer->transposed = stack.back().toTensor();
      transposed_[layer->transposed.unsafeGetTensorImpl()] = layer;
      return;
    }
  } else if (const bool added = name == "aten::addmm"; added || name == "aten::matmul" || name == "aten::mm") {
    const auto input = first + (added ? 1 : 0);
    const auto found = transposed_.find(stack[input + 1].toTensor().unsafeGetTensorImpl());
    if (found != transposed_.end()) round_input(*found->second, stack[input]);
  }
  op.callBoxed(stack);
}

std::vector<std::pair<std::string, at::Tensor>> ParameterFollower::range_parameters() const {
  std::map<std::string, at::Tensor> sorted;
  for (const auto& [impl, layer] : layers_)
    for (const auto* quantizer : {layer.weight.get(), layer.input.get()})
      if (quantizer) sorted.merge(quantizer->parameters());
  return {sorted.begin(), sorted.end()};
}

std::map<std::string, at::Tensor> ParameterFollower::state() const {
  std::map<std::string, at::Tensor> state;
  for (const auto& [impl, layer] : layers_) {
    for (const auto* quantizer : {layer.weight.get(), layer.input.get()})
      if (quantizer)
        for (const auto& [name, tensor] : quantizer->state()) state.emplace(name, tensor.detach().clone());
    if (layer.weight) state.emplace(layer.prefix + ".qat.steps", at::scalar_tensor(layer.steps, at::kLong));
  }
  return state;
}

void ParameterFollower::load_state(const std::map<std::string, at::Tensor>& given) {
  auto expected = state();
  std::map<const c10::TensorImpl*, Layer> found;  // layers that the state knows and this forward has not reached yet
  for (const auto& [impl, layer] : layers_) {
    const auto scale = given.find(layer.name + ".fake_quantize.scale");
    if (layer.weight || scale == given.end() || layer.parameter.dim() < 2) continue;
    Layer reached{
        layer.path, layer.name, layer.prefix, layer.parameter, layer.kept_float, scale->second.dim() > 0, {}, {},
        0,          {}};
    reached.weight = weight_quantizer(reached);
    if (given.contains(layer.prefix + ".input.fake_quantize.zero_point"))
      reached.input = input_quantizer(reached, at::zeros({1}));
    for (const auto* quantizer : {reached.weight.get(), reached.input.get()})
      if (quantizer) expected.merge(quantizer->state());
    expected.emplace(layer.prefix + ".qat.steps", at::scalar_tensor(0, at::kLong));
    found.emplace(impl, std::move(reached));
  }
  check_state(expected, given);
  transposed_.clear();
  for (auto& [impl, layer] : found) layers_[impl] = std::move(layer);
  for (auto& [impl, layer] : layers_) {
    if (!layer.weight) continue;
    layer.weight->load(given);
    if (layer.input) layer.input->load(given);
    layer.steps = given.at(layer.prefix + ".qat.steps").item<std::int64_t>();
  }
}

PARE_NAMESPACE_END
