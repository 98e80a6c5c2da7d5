#include "reconstruct.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "pare/core/error.hpp"
#include "pare/graph/interpreter.hpp"
#include "refit.hpp"
#include "statistics.hpp"

PARE_NAMESPACE_BEGIN

namespace {

using Kept = std::vector<std::int64_t>;
constexpr std::int64_t kRefitSamples = 65536;  // that a refit sees, if the batches have as many

at::Tensor chosen(const at::Tensor& tensor, std::int64_t axis, const std::optional<Kept>& kept) {
  return kept ? tensor.index_select(axis, at::tensor(*kept, at::TensorOptions(at::kLong).device(tensor.device())))
              : tensor;
}

// The entries of one axis of a value that are left.
struct Cut {
  std::int64_t axis;
  std::int64_t whole;  // entries there were
  Kept kept;
};

// @return undefined where an axis has another size than at capture (heads times samples): which entries went is not
// known there
at::Tensor cut(const at::Tensor& whole, const std::vector<Cut>& cuts) {
  auto result = whole;
  for (const auto& [axis, size, kept] : cuts) {
    if (whole.size(axis) != size) return {};
    result = chosen(result, axis, kept);
  }
  return result;
}

[[noreturn]] void not_finite(const std::string& path) {
  fail("pare.prune.103", path,
       "on the calibration batches the layer meets NaN or infinite values, or they hold no samples");
}

class Walk {
 public:
  Walk(const Model& original, const Model& pruned, Rewriter& rewriter, const ChannelGroups& groups,
       const Pruning& pruning, const Batches& calibration, const PruningSettings& settings)
      : original_(original),
        pruned_(pruned),
        rewriter_(rewriter),
        groups_(groups),
        settings_(settings),
        calibration_(calibration) {
    for (const auto& choice : pruning.choices) gone_.insert(choice.units.begin(), choice.units.end());
    const auto& removal = pruning.removal;
    for (const auto& weight : removal.weights) kept_[weight.path][weight.dim] = weight.kept;
    for (const auto& constant : removal.constants) edited_.insert(constant.node);
    for (const auto& replacement : removal.replacements) edited_.insert(replacement.node);
    for (auto& region : match_regions(original.graph())) {
      const auto anchor = region.anchor;
      regions_.emplace(anchor, std::move(region));
    }
    for (const auto& batch : calibration) batches_.push_back(batch);
    for (const auto& batch : batches_) dims_.push_back(Interpreter::bind_dims(original.graph(), batch));
    before_.resize(batches_.size());
    after_.resize(batches_.size());
    for (std::size_t b = 0; b < batches_.size(); ++b) {
      before_[b].resize(original.graph().value_count());
      after_[b].resize(original.graph().value_count());
      for (std::size_t i = 0; i < batches_[b].size(); ++i)
        before_[b][index(original.graph().inputs()[i])] = batches_[b][i];
    }
    differs_.resize(original.graph().value_count(), false);
  }

  void run() {
    const auto& graph = original_.graph();
    std::vector<std::size_t> last(graph.value_count(), 0);
    for (std::size_t i = 0; i < graph.nodes().size(); ++i)
      for (const auto& operand : graph.node(graph.nodes()[i]).operands)
        operand.each_value([&](ValueId value) { last[index(value)] = i; });
    for (std::size_t i = 0; i < graph.nodes().size(); ++i) {
      const auto& node = graph.node(graph.nodes()[i]);
      if (node.condition == Condition::Training) continue;
      step(node);
      for (const auto& operand : node.operands)
        operand.each_value([&](ValueId value) {
          if (last[index(value)] != i) return;
          for (auto& values : before_) values[index(value)] = at::Tensor();
          for (auto& values : after_) values[index(value)] = at::Tensor();
        });
    }
  }

 private:
  [[nodiscard]] bool touched(const Node& node) const {
    bool result = edited_.contains(node.id);
    for (const auto& operand : node.operands)
      operand.each_value([&](ValueId value) {
        const auto& held = original_.graph().value(value);
        result = result || differs_[index(value)] || (held.kind == ValueKind::Weight && kept_.contains(held.name)) ||
                 refitted_.contains(held.name);
      });
    return result;
  }

  void step(const Node& node) {
    for (std::size_t b = 0; b < batches_.size(); ++b) call(original_, node, b, before_[b], before_[b]);
    if (!touched(node)) return;
    for (const auto output : node.outputs) differs_[index(output)] = true;
    if (settings_.reconstruct) refit_layer(node);
    if (settings_.recalibrate) move_statistics(node);
    call_pruned(node);
  }

  void call(const Model& model, const Node& node, std::size_t b, const std::vector<at::Tensor>& from,
            std::vector<at::Tensor>& to) const {
    if (node.outputs.empty()) return;
    const auto results = Interpreter::call(node, dims_[b], false, [&](ValueId value) {
      if (value == kNoValue) return at::Tensor();
      if (model.graph().value(value).kind == ValueKind::Weight) return model.weight(value).detach();
      return &from == &after_[b] && !differs_[index(value)] ? before_[b][index(value)] : from[index(value)];
    });
    for (std::size_t i = 0; i < node.outputs.size(); ++i) to[index(node.outputs[i])] = results[i];
  }
  void call_pruned(const Node& node) {
    const auto& graph = pruned_.graph();
    for (std::size_t b = 0; b < batches_.size(); ++b) call(pruned_, graph.node(node.id), b, after_[b], after_[b]);
  }
  [[nodiscard]] const at::Tensor& now(std::size_t b, ValueId value) const {
    return differs_[index(value)] ? after_[b][index(value)] : before_[b][index(value)];
  }
  [[nodiscard]] std::optional<Kept> kept_of(const std::string& path, std::int64_t axis) const {
    const auto found = kept_.find(path);
    if (found == kept_.end() || !found->second.contains(axis)) return std::nullopt;
    return found->second.at(axis);
  }
  // What a value of the original has lost, along every axis: units may lie across the channels of a layer.
  [[nodiscard]] std::vector<Cut> cuts_of(ValueId value) const {
    std::vector<Cut> cuts;
    const auto rank = static_cast<std::int64_t>(original_.graph().value(value).type.rank());
    for (std::int64_t axis = 0; axis < rank; ++axis) {
      const auto units = groups_.units_along(value, axis);
      Cut one{axis, static_cast<std::int64_t>(units.size()), {}};
      for (std::int64_t i = 0; i < one.whole; ++i)
        if (!gone_.contains(units[static_cast<std::size_t>(i)])) one.kept.push_back(i);
      if (one.kept.size() < units.size()) cuts.push_back(std::move(one));
    }
    return cuts;
  }
  [[nodiscard]] const std::string& path(ValueId value) const { return original_.graph().value(value).name; }

  // How much of the shortcut's loss this layer has to make up for, in its own units: the batch norm between scales it.
  [[nodiscard]] at::Tensor shortfall(const FusedRegion& region, const std::optional<Kept>& outputs, std::size_t b,
                                     std::int64_t channel_axis) const {
    if (region.residual_add == kNoNode || !differs_[index(region.residual)]) return {};
    const auto &was = before_[b][index(region.residual)], &is = now(b, region.residual);
    if (!was.defined() || !is.defined()) return {};
    const auto left = cut(was, cuts_of(region.residual));
    if (!left.defined() || left.sizes() != is.sizes()) return {};
    auto lost = left - is;
    if (region.batch_norm == kNoNode) return lost;
    const auto& norm = original_.graph().node(region.batch_norm);
    const auto read = [&](const char* name) {
      const auto value = norm.operand(name).value();
      return value == kNoValue ? at::Tensor() : chosen(original_.weight(value).detach().to(at::kFloat), 0, outputs);
    };
    const auto variance = read("running_var"), gamma = read("weight");
    if (!variance.defined()) return {};
    auto scale = (variance + norm.operand("eps").number().value_or(1e-5)).rsqrt();
    if (gamma.defined()) scale = scale * gamma;
    const auto floor = 0.05 * scale.abs().mean();  // a channel that hardly counts cannot make up for anything
    const auto inverse = at::where(scale.abs() > floor, 1.0 / scale, at::zeros_like(scale));
    return lost * inverse.reshape(shape_of(lost, channel_axis));
  }
  static std::vector<std::int64_t> shape_of(const at::Tensor& like, std::int64_t axis) {
    std::vector<std::int64_t> shape(static_cast<std::size_t>(like.dim()), 1);
    shape[static_cast<std::size_t>(axis)] = -1;
    return shape;
  }

  void refit_layer(const Node& node) {
    const auto found = regions_.find(node.id);
    if (found == regions_.end()) return;
    const auto& region = found->second;
    if (region.weight == kNoValue || region.inputs.size() != 1 || !differs_[index(region.inputs[0])]) return;
    if (original_.graph().uses(region.weight).size() != 1) return;  // tied: refitting it here changes it elsewhere
    const auto form = matrix_form(pruned_.graph(), region);         // its ids hold there as well
    if (!form || form->groups != 1 || form->features > settings_.max_features) return;
    const auto& weight_path = path(region.weight);
    const auto outputs = kept_of(weight_path, form->axis);
    const auto rank = static_cast<std::int64_t>(original_.graph().value(node.output()).type.rank());
    const auto outputs_axis = form->kernel.empty() ? rank - 1 : 1;
    const auto limit = samples_of_batch(calibration_, kRefitSamples, form->features);
    const auto cuts = cuts_of(node.output());
    Refit refit(to_rows(*form, pruned_.weight(weight_path).detach()));
    for (std::size_t b = 0; b < batches_.size(); ++b) {
      const auto& input = now(b, region.inputs[0]);
      auto target = cut(before_[b][index(node.output())], cuts);
      if (!target.defined()) return;
      if (region.bias != kNoValue && region.bias_add == kNoNode) {
        target =
            target - chosen(original_.weight(region.bias).detach(), 0, outputs).reshape(shape_of(target, outputs_axis));
      }
      if (const auto lost = shortfall(region, outputs, b, outputs_axis); lost.defined()) target = target + lost;
      refit.observe(features_of(*form, input.to(at::kFloat), limit)[0],
                    outputs_of(*form, target.to(at::kFloat), limit));
    }
    if (!refit.is_finite()) not_finite(weight_path);
    const auto solution = refit.solve(settings_.ridge);
    rewriter_.set_weight(weight_path, from_rows(*form, solution.weight, pruned_.weight(weight_path).sizes())
                                          .to(pruned_.weight(weight_path).scalar_type()));
    refitted_.insert(weight_path);
    for (const auto id : region.weight_nodes) {
      const auto& between = original_.graph().node(id);
      differs_[index(between.output())] = true;
      call_pruned(between);
    }
    if (region.bias != kNoValue && original_.graph().value(region.bias).kind == ValueKind::Weight &&
        original_.graph().uses(region.bias).size() == 1) {
      const auto& bias_path = path(region.bias);
      const auto bias = pruned_.weight(bias_path).detach();
      rewriter_.set_weight(bias_path, bias + solution.offset.to(bias.scalar_type()));
      refitted_.insert(bias_path);
    } else if (region.batch_norm != kNoNode) {
      offsets_[region.batch_norm] = solution.offset;
    }
  }

  // A batch norm in evaluation mode: its running statistics move with its inputs'.
  void move_statistics(const Node& node) {
    if (!node.is("aten::batch_norm") || node.operand("running_mean").value() == kNoValue) return;
    const auto x = node.input(0);
    if (!differs_[index(x)]) return;
    const auto mean_value = node.operand("running_mean").value(), variance_value = node.operand("running_var").value();
    const auto& mean_path = path(mean_value);
    if (original_.graph().value(mean_value).kind != ValueKind::Weight) return;
    const auto cuts = cuts_of(x);
    Moments was, is;
    for (std::size_t b = 0; b < batches_.size(); ++b) {
      const auto left = cut(before_[b][index(x)], cuts);
      if (!left.defined()) return;
      was.observe(left);
      is.observe(now(b, x));
    }
    if (!was.is_finite() || !is.is_finite()) not_finite(mean_path);
    const auto mean = pruned_.weight(mean_value).detach(), variance = pruned_.weight(variance_value).detach();
    const auto set = [&](ValueId value, const at::Tensor& tensor, c10::ScalarType dtype) {
      rewriter_.set_weight(path(value), tensor.to(dtype));
      refitted_.insert(path(value));
    };
    const auto offset = offsets_.find(node.id);
    if (offset != offsets_.end()) {
      set(mean_value, mean.to(at::kDouble) - offset->second, mean.scalar_type());
      return;
    }
    set(mean_value, mean.to(at::kDouble) + is.mean() - was.mean(), mean.scalar_type());
    // What did not vary in so few samples says nothing of how it varies: all that is left of it is rounding.
    const auto spread = was.variance(), running = variance.to(at::kDouble);
    const auto ratio = at::where(spread > 1e-6 * (was.mean().square() + running),
                                 (is.variance() / spread).clamp(0.01, 100.0), at::ones_like(spread));
    set(variance_value, running * ratio, variance.scalar_type());
  }

  const Model& original_;
  const Model& pruned_;
  Rewriter& rewriter_;
  const ChannelGroups& groups_;
  const PruningSettings& settings_;
  const Batches& calibration_;
  std::set<std::int64_t> gone_;  // units
  std::map<std::string, std::map<std::int64_t, Kept>> kept_;
  std::set<NodeId> edited_;
  std::set<std::string> refitted_;
  std::map<NodeId, FusedRegion> regions_;
  std::map<NodeId, at::Tensor> offsets_;  // what a layer before a batch norm misses on average, by norm
  std::vector<Batch> batches_;
  std::vector<std::vector<std::int64_t>> dims_;
  std::vector<std::vector<at::Tensor>> before_, after_;  // by batch and value; `after_` only where they differ
  std::vector<bool> differs_;
};

}  // namespace

void reconstruct(const Model& original, const Model& pruned, Rewriter& rewriter, const ChannelGroups& groups,
                 const Pruning& pruning, const Batches& calibration, const PruningSettings& settings) {
  const at::NoGradGuard no_grad;
  Walk(original, pruned, rewriter, groups, pruning, calibration, settings).run();
}

PARE_NAMESPACE_END
