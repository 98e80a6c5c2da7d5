#include "pare/graph/fusion.hpp"
#include "graph/padding.hpp"

#include <algorithm>
#include <array>
#include <optional>

PARE_NAMESPACE_BEGIN

namespace {

constexpr std::array<std::string_view, 12> kActivations{
    "aten::relu", "aten::relu6",   "aten::hardtanh", "aten::clamp",      "aten::clamp_min", "aten::hardswish",
    "aten::silu", "aten::sigmoid", "aten::tanh",     "aten::leaky_relu", "aten::elu",       "aten::gelu"};
constexpr std::array<std::string_view, 5> kClipping{"aten::relu", "aten::relu6", "aten::hardtanh", "aten::clamp",
                                                    "aten::clamp_min"};

constexpr std::array<FusionRule, 5> kDefaultRules{{
    {OpFamily::Convolution, true, true, kActivations, false},
    {OpFamily::TransposedConvolution, true, false, kActivations, false},
    {OpFamily::Linear, true, true, kActivations, true},
    {OpFamily::MatrixMultiply, false, false, kClipping, false},
    {OpFamily::Addition, false, false, kClipping, false},
}};

constexpr std::array<std::string_view, 4> kDropouts{"aten::dropout", "aten::feature_dropout", "aten::alpha_dropout",
                                                    "aten::feature_alpha_dropout"};

bool is_any(const Node& node, std::span<const std::string_view> names) {
  return std::ranges::find(names, node.op.base()) != names.end();
}

bool is_kernel(OpFamily family) {
  return family != OpFamily::PassThrough && family != OpFamily::FakeQuantize && family != OpFamily::Other;
}

/// Builds the regions of one graph.
class Matcher {
 public:
  Matcher(const Graph& graph, std::span<const FusionRule> rules) : graph_(graph), rules_(rules) {
    std::size_t position = 0;
    position_.resize(1);
    for (const auto id : graph.nodes()) {
      if (index(id) >= position_.size()) position_.resize(index(id) + 1);
      position_[index(id)] = position++;
    }
    taken_.resize(position_.size(), false);
  }

  std::vector<FusedRegion> run() {
    // From the back: the later of two kernels claims the residual add that both could take.
    std::vector<FusedRegion> regions;
    for (const auto pass : {Takes::Sums, Takes::Activations, Takes::Nothing}) {  // a sum may be taken before it takes
      const auto& order = graph_.nodes();
      for (auto it = order.rbegin(); it != order.rend(); ++it) {
        if (taken_[index(*it)] || graph_.node(*it).barrier) continue;
        const auto family = family_of(graph_, *it);
        if (!is_kernel(family) || is_table_op(*it)) continue;
        if (takes(family) == pass) regions.push_back(grow(*it, family));
      }
    }
    std::ranges::sort(regions, {}, [&](const FusedRegion& r) { return position_[index(r.nodes.back())]; });
    return regions;
  }

 private:
  /// What a kernel may absorb.
  enum class Takes : std::uint8_t { Sums, Activations, Nothing };

  [[nodiscard]] Takes takes(OpFamily family) const {
    if (family == OpFamily::Convolution || family == OpFamily::TransposedConvolution || family == OpFamily::Linear)
      return Takes::Sums;
    return rule(family) != nullptr ? Takes::Activations : Takes::Nothing;
  }

  const FusionRule* rule(OpFamily family) const {
    const auto found = std::ranges::find(rules_, family, &FusionRule::family);
    return found == rules_.end() ? nullptr : &*found;
  }

  // A node on a weight's way from the table: part of the region that uses the weight.
  bool is_table_op(NodeId id) const {
    const auto& node = graph_.node(id);
    return !node.operands.empty() && node.output() != kNoValue && table_weight(graph_, node.output()) != kNoValue;
  }

  // The only user of a value that stays inside the model. Looked through: dropout that rests in evaluation, and the
  // choice between what training and evaluation make, where evaluation takes the value as it is (stochastic depth).
  const Node* sole_user(ValueId value, std::vector<NodeId>& passed) const {
    for (;;) {
      const auto* user = only_user(value);
      if (!user || user->barrier || user->condition == Condition::Training) return nullptr;
      const bool dropout = is_any(*user, kDropouts) && !user->operand("train").boolean(false).value_or(true);
      if (!dropout && !user->is("pare::training_select")) return user;
      passed.push_back(user->id);
      value = user->output();
    }
  }

  const Node* only_user(ValueId value) const {
    const auto& uses = graph_.uses(value);
    if (uses.size() == 1) {
      if (uses[0].node == kNoNode) return nullptr;
      const auto& user = graph_.node(uses[0].node);
      return user.is("pare::training_select") && user.input(1) != value ? nullptr : &user;
    }
    const Node* chosen = nullptr;
    for (const auto& use : uses) {
      if (use.node == kNoNode) return nullptr;
      const auto& user = graph_.node(use.node);
      if (user.condition == Condition::Training) continue;
      if (chosen || !user.is("pare::training_select") || user.input(1) != value) return nullptr;
      chosen = &user;
    }
    return chosen;
  }

  void take(FusedRegion& region, NodeId id, const std::vector<NodeId>& passed = {}) {
    for (const auto dropout : passed) region.nodes.push_back(dropout);
    region.nodes.push_back(id);
    taken_[index(id)] = true;
    region.output = graph_.node(id).output();
  }

  FusedRegion grow(NodeId anchor, OpFamily family) {
    FusedRegion region;
    region.family = family;
    region.anchor = anchor;
    take(region, anchor);
    read_operands(region);
    const auto* fusion = rule(family);
    if (!fusion || graph_.node(anchor).outputs.size() != 1) return region;
    if (region.bias == kNoValue && family == OpFamily::Linear) take_bias(region);
    if (fusion->batch_norm) take_batch_norm(region);
    if (fusion->residual_add) take_residual(region);
    take_activation(region, *fusion);
    if (fusion->channel_scale) take_channel_scale(region);
    return region;
  }

  void read_operands(FusedRegion& region) {
    const auto& node = graph_.node(region.anchor);
    const auto set_weight = [&](std::size_t weight, int bias) {
      region.weight = table_weight(graph_, node.input(weight), &region.weight_nodes);
      if (bias >= 0 && static_cast<std::size_t>(bias) < node.operands.size())
        region.bias = node.operand(static_cast<std::size_t>(bias)).value();
    };
    std::size_t first = 0;
    switch (region.family) {
      case OpFamily::Convolution:
      case OpFamily::TransposedConvolution:
        set_weight(1, 2);
        break;
      case OpFamily::Linear:
        if (node.is("aten::linear")) {
          set_weight(1, 2);
        } else if (node.is("aten::addmm")) {
          const bool plain = node.operand("beta").number() == 1.0 && node.operand("alpha").number() == 1.0;
          if (plain) set_weight(2, 0);  // factors of product and bias: a layer that no rewrite takes for a plain one
          first = 1;
        } else {
          set_weight(1, -1);
        }
        break;
      case OpFamily::Embedding:
        set_weight(0, -1);
        first = 1;
        break;
      case OpFamily::MatrixMultiply:
        first = node.is("aten::addmm") || node.is("aten::baddbmm") ? 1 : 0;
        region.inputs = {node.input(first), node.input(first + 1)};
        return;
      case OpFamily::Addition:
      case OpFamily::Multiplication:
        region.inputs = {node.input(0), node.input(1)};
        return;
      case OpFamily::Attention:
        region.inputs = {node.input(0), node.input(1), node.input(2)};
        return;
      case OpFamily::Concatenation:
        node.operand(0).each_value([&](ValueId value) { region.inputs.push_back(value); });
        return;
      default:
        break;
    }
    region.inputs = {node.input(first)};
  }

  void take_bias(FusedRegion& region) {
    std::vector<NodeId> passed;
    const auto* add = sole_user(region.output, passed);
    if (!add || !add->is("aten::add.Tensor") || !passed.empty()) return;
    const auto& uses = graph_.uses(region.output);
    const auto other = add->input(uses[0].operand == 0 ? 1 : 0);
    if (other == kNoValue || graph_.value(other).kind != ValueKind::Weight) return;
    const auto& type = graph_.value(other).type;
    if (type.rank() != 1 || add->operand(2).number().value_or(1) != 1 ||
        !(type.sizes[0] == graph_.value(region.output).type.sizes.back()))
      return;
    region.bias = other;
    region.bias_add = add->id;
    take(region, add->id);
  }

  void take_batch_norm(FusedRegion& region) {
    std::vector<NodeId> passed;
    const auto* norm = sole_user(region.output, passed);
    if (!norm || !norm->is("aten::batch_norm") || !passed.empty() || norm->input(0) != region.output) return;
    if (norm->operand("training").boolean(false).value_or(true)) return;
    if (norm->operand("running_mean").value() == kNoValue) return;
    if (graph_.value(region.output).type.rank() != 2 && region.family == OpFamily::Linear) return;  // another axis
    region.batch_norm = norm->id;
    take(region, norm->id);
  }

  void take_residual(FusedRegion& region) {
    std::vector<NodeId> passed;
    const auto* add = sole_user(region.output, passed);
    if (!add || !add->is("aten::add.Tensor") || taken_[index(add->id)]) return;
    if (add->operand(2).number().value_or(1) != 1) return;
    const auto through = passed.empty() ? region.output : graph_.node(passed.back()).output();
    const auto lhs = add->input(0), rhs = add->input(1);
    if (lhs == rhs || lhs == kNoValue || rhs == kNoValue) return;
    const auto other = lhs == through ? rhs : lhs;
    if (graph_.value(other).kind == ValueKind::Weight) return;
    if (!(graph_.value(other).type == graph_.value(region.output).type)) return;
    region.residual_add = add->id;
    region.residual = other;
    take(region, add->id, passed);
  }

  void take_activation(FusedRegion& region, const FusionRule& fusion) {
    std::vector<NodeId> passed;
    const auto* next = sole_user(region.output, passed);
    if (!next || taken_[index(next->id)] || !is_any(*next, fusion.activations) || next->outputs.size() != 1) return;
    if (next->is("aten::clamp.Tensor") || next->is("aten::clamp_min.Tensor")) return;  // bounds are tensors
    region.activation = next->id;
    take(region, next->id, passed);
  }

  void take_channel_scale(FusedRegion& region) {
    std::vector<NodeId> passed;
    const auto* mul = sole_user(region.output, passed);
    if (!mul || !mul->is("aten::mul.Tensor") || taken_[index(mul->id)]) return;
    const auto through = passed.empty() ? region.output : graph_.node(passed.back()).output();
    const auto other = mul->input(0) == through ? mul->input(1) : mul->input(0);
    if (other == kNoValue || graph_.value(other).kind != ValueKind::Weight) return;
    const auto& scale = graph_.value(other).type;
    const auto& result = graph_.value(region.output).type;
    if (scale.rank() != 1 || result.rank() < 2 || scale.dtype != result.dtype ||
        !(scale.sizes[0] == result.sizes.back()))
      return;
    region.channel_scale = mul->id;
    region.scale = other;
    take(region, mul->id, passed);
  }

  const Graph& graph_;
  std::span<const FusionRule> rules_;
  std::vector<std::size_t> position_;  // by NodeId
  std::vector<bool> taken_;            // by NodeId
};

}  // namespace

std::span<const FusionRule> default_fusion_rules() noexcept { return kDefaultRules; }

std::vector<FusedRegion> match_regions(const Graph& graph, std::span<const FusionRule> rules) {
  return Matcher(graph, rules).run();
}

bool scales_integers(const Graph& graph, const Node& node) {
  if (!node.is("aten::mul") || node.operands.size() < 2 || node.operand(0).value() == kNoValue) return false;
  const auto* conversion = graph.producer(node.input(0));
  if (!conversion || !conversion->is("aten::to")) return false;
  const auto& table = graph.value(conversion->input(0));
  const auto factor = node.operand(1).value();
  return table.kind == ValueKind::Weight && table.type.dtype == at::kChar &&
         (factor == kNoValue ? node.operand(1).number().has_value() : graph.value(factor).kind == ValueKind::Weight);
}

ValueId table_weight(const Graph& graph, ValueId value, std::vector<NodeId>* path) {
  constexpr std::array<std::string_view, 16> through{"pare::dequantize",
                                                     "aten::t",
                                                     "aten::transpose",
                                                     "aten::permute",
                                                     "aten::numpy_T",
                                                     "aten::reshape",
                                                     "aten::view",
                                                     "aten::contiguous",
                                                     "aten::to",
                                                     "aten::fake_quantize_per_tensor_affine",
                                                     "aten::fake_quantize_per_channel_affine",
                                                     "aten::flatten",
                                                     "aten::unsqueeze",
                                                     "aten::squeeze",
                                                     "aten::alias",
                                                     "aten::detach"};
  std::vector<NodeId> nodes;
  while (value != kNoValue) {
    if (graph.value(value).kind == ValueKind::Weight) {
      if (path) path->assign(nodes.rbegin(), nodes.rend());
      return value;
    }
    const auto* node = graph.producer(value);
    if (!node || node->barrier || !(is_any(*node, through) || scales_integers(graph, *node))) return kNoValue;
    nodes.push_back(node->id);
    value = node->input(0);
  }
  return kNoValue;
}

bool passes_integers(const Graph& graph, NodeId id) {
  const auto& node = graph.node(id);
  if (node.barrier) return false;
  const auto family = family_of(node.op);
  if (family == OpFamily::Concatenation) return true;
  if (family != OpFamily::PassThrough) return false;
  // Dropout that is always on doubles what it leaves.
  if (const auto at = node.op.argument("train"); at >= 0 && node.operand("train").boolean(false).value_or(true))
    return false;
  return !pads_constant(node) || pads_zero(node);
}

PARE_NAMESPACE_END
