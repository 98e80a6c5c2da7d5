#include "trainable_quantization.hpp"

#include <ATen/ATen.h>

#include <algorithm>

#include "pare/core/error.hpp"
#include "pare/fuse/decompose_attention.hpp"
#include "pare/fuse/fold_batch_norm.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/smooth_quant.hpp"
#include "sites.hpp"

PARE_NAMESPACE_BEGIN

namespace {

/// `quantize` with settings that were made before.
struct Place {
  static constexpr std::string_view kName = "QuantizationAwareTraining";
  QuantizationSettings settings;
  Preserved run(Model& model, Context& context) { return quantize(model, context, settings); }
};

// Numbers start from the float weights, so nothing but scales and places is asked of the ladder.
QuantizationSettings without_rounding(QuantizationSettings settings) {
  settings.rounding = Rounding::Nearest;
  settings.correct_bias = false;
  settings.smooth = false;
  settings.round_biases = false;
  return settings;
}

template <class Pass>
void apply_to(Model& model, const Pass& pass, const Batches& calibration) {
  model = apply(pass, std::move(model), {.calibration = calibration, .backup_weights = false}).model;
}

}  // namespace

void validate_qat(const QatOptions& options, const QuantizationSettings& settings) {
  validate_quantization(settings);
  if (settings.exact_scales)
    fail("pare.quantize.110", "exact_scales", "training moves scales, so that they do not stay exact");
  if (options.weights != RangeTraining::Observed && options.weights != RangeTraining::LearnedStep)
    fail("pare.quantize.110", "weights", "ranges of weights are observed, or their step is learned");
  if (!(options.momentum > 0.0 && options.momentum <= 1.0))
    fail("pare.quantize.110", "momentum", "a momentum of {} is not in (0, 1]", options.momentum);
  if (!(options.average_decay >= 0.0 && options.average_decay < 1.0))
    fail("pare.quantize.110", "average_decay", "a decay of {} is not in [0, 1)", options.average_decay);
  if (options.delay < 0 || options.freeze_ranges_after < 0 || options.freeze_batch_norm_after < 0)
    fail("pare.quantize.110", "", "a delay of {} steps, ranges frozen after {}, batch norms after {}", options.delay,
         options.freeze_ranges_after, options.freeze_batch_norm_after);
}

TrainableQuantization::TrainableQuantization(Model model, const QuantizationSettings& settings,
                                             const Batches& calibration, const QatOptions& options)
    : float_(std::move(model)), weight_observer_(settings.weight_observer), options_(options) {
  validate_qat(options, settings);
  const at::NoGradGuard no_grad;
  float_.eval();
  if (!settings.weight_only) apply_to(float_, DecomposeAttention{}, calibration);
  if (!settings.weight_only && settings.smooth) apply_to(float_, SmoothQuant{}, calibration);
  auto folded = float_;
  apply_to(folded, FoldBatchNorm{}, calibration);
  folds_ = find_folds(float_, folded);
  const auto sites = find_sites(
      folded, {settings.keep_float, settings.layer_weights, settings.target ? *settings.target : onednn_target(),
               settings.activations, settings.layer_activations, settings.weight_only, settings.float_first_share});
  site_of_ = sites.site_of;
  auto placed = apply(Place{without_rounding(settings)}, std::move(folded),
                      {.calibration = calibration, .backup_weights = false});
  placed_ = std::move(placed.model);
  report_ = std::move(placed.report);
  make_quantizers(settings);
  make_live();
  if (options_.average_decay > 0.0)
    for (const auto& [path, tensor] : parameters()) average_.emplace(path, tensor.detach().clone());
  mark_parameters();
}

void TrainableQuantization::make_quantizers(const QuantizationSettings& settings) {
  const auto& graph = placed_.graph();
  std::unordered_map<std::size_t, std::size_t> of_site;
  for (const auto id : graph.nodes()) {
    const auto& node = graph.node(id);
    if (family_of(node.op) != OpFamily::FakeQuantize) continue;
    const bool per_channel = node.is("aten::fake_quantize_per_channel_affine");
    const auto weight = table_weight(graph, node.input(0));
    FakeQuantizer::Description description;
    description.name = node.name;
    description.grid.min = *node.operand("quant_min").integer();
    description.grid.max = *node.operand("quant_max").integer();
    description.weight = weight != kNoValue && !site_of_.contains(index(node.input(0)));
    description.axis = per_channel ? *node.operand("axis").integer() : -1;
    description.grid.symmetric =
        description.weight ? settings.symmetric_weights : description.grid.min == -description.grid.max;
    description.training = description.weight ? options_.weights : options_.activations;
    description.momentum = options_.momentum;
    if (description.weight)
      for (std::size_t i = 0; i < folds_.size(); ++i)
        if (folds_[i].weight == graph.value(weight).name) fold_of_node_.emplace(index(id), i);
    const auto site = site_of_.find(index(node.input(0)));
    if (site != site_of_.end()) {
      const auto [known, fresh] = of_site.emplace(site->second, quantizers_.size());
      of_node_.emplace(index(id), known->second);
      if (!fresh) continue;
    } else {
      of_node_.emplace(index(id), quantizers_.size());
    }
    const auto scale =
        per_channel ? placed_.weight(node.input(1)) : at::scalar_tensor(*node.operand("scale").number(), at::kFloat);
    const auto zero_point = per_channel ? placed_.weight(node.input(2))
                                        : at::scalar_tensor(*node.operand("zero_point").integer(), at::kFloat);
    quantizers_.emplace_back(std::move(description), scale, zero_point);
  }
}

void TrainableQuantization::make_live() {
  live_ = placed_;
  unfold(live_, float_, folds_);
  run_placed_ = std::make_unique<Interpreter>(placed_.graph());
  run_live_ = std::make_unique<Interpreter>(live_.graph());
}

bool TrainableQuantization::batch_norm_is_live() const {
  return training_ && !batch_norm_frozen_ && steps_ <= options_.freeze_batch_norm_after;
}

Weights TrainableQuantization::weights(bool live) const {
  auto table = live ? live_.weights() : placed_.weights();
  const auto& own = float_.weights();
  for (auto& [path, weight] : table)
    if (const auto trained = own.find(path); trained != own.end()) weight.tensor = trained->second.tensor;
  for (const auto& fold : folds_) {
    const auto weight = float_.weight(fold.weight);
    const auto bias = fold.bias.empty() ? at::Tensor() : float_.weight(fold.bias);
    auto& held = table.at(fold.weight).tensor;
    if (!live) {
      const auto affine = fold.affine(float_);
      held = fold_weight(weight, affine, fold.axis, fold.groups);
      table.at(fold.folded_bias).tensor = fold_bias(bias, affine, weight.scalar_type());
      continue;
    }
    const auto quantized = std::ranges::any_of(
        fold_of_node_, [&](const auto& entry) { return folds_[entry.second].weight == fold.weight; });
    if (quantized) held = fold_weight(weight, fold.rounding_affine(float_), fold.axis, fold.groups);
    auto& shift = table.at(fold.folded_bias).tensor;
    shift = fold.bias_is_added ? at::zeros_like(placed_.weight(fold.folded_bias)) : bias;
  }
  return table;
}

at::Tensor TrainableQuantization::fake_quantize(NodeId node, const at::Tensor& values, bool unfold) {
  auto& quantizer = quantizers_[of_node_.at(index(node))];
  const bool weight = quantizer.description().weight;
  if (training_ && steps_ <= options_.freeze_ranges_after) quantizer.observe(values, weight_observer_);
  if (training_ && !weight && steps_ <= options_.delay) return values;
  const auto rounded = quantizer(values);
  const auto fold = fold_of_node_.find(index(node));
  if (!unfold || fold == fold_of_node_.end()) return rounded;
  const auto& norm = folds_[fold->second];
  return norm.unfold_weight(rounded, norm.rounding_affine(float_), float_.weight(norm.weight));
}

std::vector<at::Tensor> TrainableQuantization::run(const std::vector<at::Tensor>& inputs) {
  if (training_) begin_step();
  const bool live = batch_norm_is_live();
  const auto& model = live ? live_ : placed_;
  const auto& interpreter = live ? run_live_ : run_placed_;
  return interpreter->run(model.graph(), weights(live), training_, inputs, {},
                          [&](const Node& node, std::vector<c10::IValue>& stack) {
                            if (node.is("aten::batch_norm")) {
                              if (norm_momentum_) stack[6] = *norm_momentum_;
                              if (!live) stack[5] = false;  // one that nothing takes in keeps its statistics as well
                            }
                            if (!of_node_.contains(index(node.id))) return false;
                            stack = {fake_quantize(node.id, stack.front().toTensor(), live)};
                            return true;
                          });
}

void TrainableQuantization::train(bool on) {
  if (on) float_.train(true);  // throws for a model that was captured in evaluation mode only
  float_.eval();
  training_ = on;
}

void TrainableQuantization::begin_step() {
  update_average();
  ++steps_;
}

void TrainableQuantization::reestimate_batch_norm(const Batches& batches) {
  const at::NoGradGuard no_grad;
  const auto was_training = training_;
  const auto steps = steps_;
  const auto frozen = std::exchange(batch_norm_frozen_, false);
  const auto options = std::exchange(options_, [&] {
    auto still = options_;
    still.freeze_ranges_after = 0;
    still.freeze_batch_norm_after = QatOptions::kNever;
    return still;
  }());
  std::vector<std::pair<at::Tensor, at::Tensor>> statistics;
  for (const auto& [path, weight] : float_.weights())
    if (!weight.is_parameter) statistics.emplace_back(weight.tensor, weight.tensor.clone());
  const auto restore = [&] {
    training_ = was_training;
    steps_ = steps;
    batch_norm_frozen_ = frozen;
    options_ = options;
    norm_momentum_.reset();
  };
  try {
    train(true);
    double count = 0;
    for (const auto& batch : batches) {
      norm_momentum_ = 1.0 / ++count;
      (void)run(batch);
    }
  } catch (...) {
    restore();
    for (auto& [tensor, before] : statistics) tensor.copy_(before);
    throw;
  }
  restore();
}

TrainableQuantization::NamedTensors TrainableQuantization::range_parameters() const {
  NamedTensors result;
  for (const auto& quantizer : quantizers_)
    for (const auto& [name, tensor] : quantizer.parameters()) result.emplace_back(name, tensor);
  return result;
}

TrainableQuantization::NamedTensors TrainableQuantization::parameters() const {
  auto all = model_parameters();
  for (auto& range : range_parameters()) all.push_back(std::move(range));
  return all;
}

void TrainableQuantization::mark_parameters() const {
  if (average_.empty()) return;
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> sums;
  for (const auto& [path, tensor] : parameters()) sums.push_back(tensor.detach().sum(at::kDouble).cpu());
  sums_ = at::stack(sums);
}

void TrainableQuantization::update_average() const {
  if (average_.empty()) return;
  const at::NoGradGuard no_grad;
  const auto before = sums_;
  mark_parameters();
  if (sums_.equal(before)) return;
  for (const auto& [path, tensor] : parameters()) {
    auto& average = average_.at(path);
    average.lerp_(tensor.detach(), 1.0 - options_.average_decay);
  }
}

Model TrainableQuantization::convert() const {
  const at::NoGradGuard no_grad;
  auto result = placed_;
  Rewriter rewriter(result);
  const auto table = weights(false);
  for (const auto& [path, weight] : table) rewriter.set_weight(path, weight.tensor.detach().clone());
  for (const auto id : placed_.graph().nodes()) {
    const auto found = of_node_.find(index(id));
    if (found == of_node_.end()) continue;
    const auto& quantizer = quantizers_[found->second];
    const auto& node = placed_.graph().node(id);
    if (quantizer.description().axis < 0) {
      rewriter.set_operand(id, 1, quantizer.scale().item<double>());
      rewriter.set_operand(id, 2, quantizer.zero_point().item<std::int64_t>());
    } else {
      rewriter.set_weight(placed_.graph().value(node.input(1)).name, quantizer.scale().clone());
      rewriter.set_weight(placed_.graph().value(node.input(2)).name, quantizer.zero_point().clone());
    }
    // On their grid already, so that whoever packs them has nothing left to round.
    const auto& source = placed_.graph().value(node.input(0));
    if (source.kind == ValueKind::Weight && placed_.graph().is_own_weight(source.id))
      rewriter.set_weight(source.name, quantizer(table.at(source.name).tensor).detach());
  }
  result.eval();
  return result;
}

Model TrainableQuantization::convert_average() const {
  if (average_.empty())
    fail("pare.quantize.112", "", "no averages are kept: set QatOptions::average_decay, 0.999 for instance");
  update_average();
  const auto parameters = this->parameters();
  std::vector<at::Tensor> own;
  const auto write = [](const at::Tensor& to, const at::Tensor& from) { to.variable_data().copy_(from); };
  for (const auto& [path, tensor] : parameters) {
    own.push_back(tensor.detach().clone());
    write(tensor, average_.at(path));
  }
  const auto restore = [&] {
    for (std::size_t i = 0; i < parameters.size(); ++i) write(parameters[i].second, own[i]);
  };
  try {
    auto result = convert();
    restore();
    return result;
  } catch (...) {
    restore();
    throw;
  }
}

std::map<std::string, at::Tensor> TrainableQuantization::range_state() const {
  update_average();
  std::map<std::string, at::Tensor> state;
  for (const auto& quantizer : quantizers_)
    for (const auto& [name, tensor] : quantizer.state()) state.emplace(name, tensor.detach().clone());
  for (const auto& [name, tensor] : average_) state.emplace("average." + name, tensor.clone());
  state.emplace("qat.steps", at::scalar_tensor(steps_, at::kLong));
  state.emplace("qat.batch_norm_frozen", at::scalar_tensor(batch_norm_frozen_, at::kBool));
  return state;
}

std::map<std::string, at::Tensor> TrainableQuantization::state() const {
  auto state = range_state();
  for (const auto& [path, weight] : float_.weights()) state.emplace(path, weight.tensor.detach().clone());
  return state;
}

void TrainableQuantization::load_range_state(const std::map<std::string, at::Tensor>& state) {
  check_state(range_state(), state);
  for (const auto& quantizer : quantizers_) quantizer.load(state);
  for (auto& [name, tensor] : average_) tensor.copy_(state.at("average." + name));
  steps_ = state.at("qat.steps").item<std::int64_t>();
  batch_norm_frozen_ = state.at("qat.batch_norm_frozen").item<bool>();
  mark_parameters();
}

void TrainableQuantization::load_state(const std::map<std::string, at::Tensor>& state) {
  check_state(this->state(), state);
  auto ranges = state;
  for (const auto& [path, weight] : float_.weights()) {
    weight.tensor.variable_data().copy_(state.at(path));
    ranges.erase(path);
  }
  load_range_state(ranges);
}

// The nodes between a value of the float graph and one of the quantized graph, in order; weights as the float graph has
// them.
std::vector<NodeId> TrainableQuantization::inserted_before(ValueId placed) const {
  std::vector<NodeId> nodes;
  for (const auto* node = graph().producer(placed); node && !float_.graph().contains(node->id);
       node = graph().producer(node->input(0)))
    nodes.push_back(node->id);
  return {nodes.rbegin(), nodes.rend()};
}

bool TrainableQuantization::is_rounded(ValueId placed) const {
  return std::ranges::any_of(inserted_before(placed), [&](NodeId node) { return of_node_.contains(index(node)); });
}

at::Tensor TrainableQuantization::simulate(ValueId placed, const at::Tensor& value) {
  auto result = value;
  const auto nodes = inserted_before(placed);
  for (const auto id : nodes) {
    const auto fold = fold_of_node_.find(index(id));
    if (fold == fold_of_node_.end()) continue;
    const auto& norm = folds_[fold->second];
    result = fold_weight(value, norm.rounding_affine(float_), norm.axis, norm.groups);
  }
  for (const auto id : nodes) {
    const auto& node = graph().node(id);
    if (of_node_.contains(index(id))) {
      result = fake_quantize(id, result, true);
    } else if (family_of(node.op) == OpFamily::PassThrough) {  // cuts a weight into groups
      result = Interpreter::call(node, {}, training_, [&](ValueId) { return result; }).front();
    }
  }
  return result;
}

PARE_NAMESPACE_END
