#include <torch/torch.h>

#include <iostream>
#include <map>
#include <set>

#include "examples/models/captured.hpp"
#include "pare/analysis/channel_groups.hpp"
#include "pare/analysis/cost.hpp"
#include "pare/analysis/size_model.hpp"
#include "pare/graph/verify.hpp"
#include "pare/pass/apply.hpp"
#include "pare/prune/l2.hpp"
#include "pare/prune/pruner.hpp"
#include "tests/support/catch.hpp"

namespace {

// Multiply-accumulates from the tensors of a real run.
std::int64_t executed_macs(const pare::Model& model, const models::Tensors& inputs) {
  std::map<std::size_t, std::vector<std::int64_t>> sizes;
  const torch::NoGradGuard no_grad;
  static_cast<void>(model.run(inputs, [&](pare::ValueId value, const at::Tensor& tensor) {
    sizes[pare::index(value)] = tensor.sizes().vec();
  }));
  const auto& graph = model.graph();
  std::int64_t macs = 0;
  for (const auto id : graph.nodes()) {
    const auto& node = graph.node(id);
    if (node.outputs.empty() || node.condition == pare::Condition::Training) continue;
    macs += pare::macs_of(graph, node, [&](pare::ValueId value) {
      return graph.value(value).kind == pare::ValueKind::Weight ? model.weight(value).sizes().vec()
                                                                : sizes[pare::index(value)];
    });
  }
  return macs;
}

// How many parameters a backward pass reaches.
std::size_t trained(pare::Model model, const models::Tensors& inputs) {
  model.detach_weights();
  at::Tensor sum;
  for (const auto& output : model.run(inputs))
    if (output.defined() && output.is_floating_point())
      sum = sum.defined() ? sum + output.square().mean() : output.square().mean();
  sum.backward();
  return static_cast<std::size_t>(std::ranges::count_if(
      model.parameters(), [](const at::Tensor& parameter) { return parameter.grad().defined(); }));
}

// Units that an average or a variance is taken over: without them it is another number, however small they are.
std::set<std::int64_t> averaged(const pare::Model& model, const pare::ChannelGroups& groups) {
  std::set<std::int64_t> units;
  const auto& graph = model.graph();
  for (const auto id : graph.nodes()) {
    const auto& node = graph.node(id);
    if (!node.is("aten::layer_norm") && !node.is("aten::mean")) continue;
    const auto rank = static_cast<std::int64_t>(graph.value(node.input(0)).type.rank());
    std::vector<std::int64_t> axes{rank - 1};
    if (node.is("aten::mean")) axes = node.operands[1].integers().value_or(std::vector<std::int64_t>{});
    for (auto axis : axes)
      for (const auto unit : groups.units_along(node.input(0), axis < 0 ? axis + rank : axis)) units.insert(unit);
  }
  return units;
}

}  // namespace

TEST_CASE("the zoo prunes at every ratio, costs what was predicted, runs and trains", "[pruner][zoo]") {
  for (const auto& name : models::names()) {
    INFO(name);
    const auto [bundle, model] = models::captured(name, 0, true);
    const auto inputs = bundle.example(2);
    const auto example = bundle.example(1);
    for (const double ratio : {0.1, 0.3, 0.5, 0.7}) {
      INFO(ratio);
      const auto pruned = pare::apply(pare::Pruner{.importance = pare::L2{}, .ratio = pare::Ratio{ratio}}, model).model;
      CHECK_NOTHROW(pare::verify(pruned));
      const pare::Cost cost(pruned);
      CHECK(cost.macs() < pare::Cost(model).macs());
      auto dims = pruned.graph().example_dims();
      CHECK(pare::Cost(pruned, dims).macs() == executed_macs(pruned, inputs));
      std::int64_t parameters = 0;
      for (const auto& parameter : pruned.parameters()) parameters += parameter.numel();
      CHECK(cost.parameters() == parameters);
      if (ratio == 0.7) CHECK(trained(pruned, inputs) == trained(model, inputs));
    }
  }
}

TEST_CASE("units whose contribution is zero leave the outputs as they were", "[pruner][zoo]") {
  const torch::NoGradGuard no_grad;
  for (const auto& name : models::names()) {
    INFO(name);
    auto [bundle, model] = models::captured(name, 0, true);
    const auto inputs = bundle.example(2);
    model.detach_weights();
    const pare::ChannelGroups groups(model);
    const auto excluded = averaged(model, groups);
    std::vector<std::int64_t> removed;
    for (const auto& group : groups.groups()) {
      for (std::size_t u = 1; !group.is_frozen() && u < group.size(); u += 4) {
        if (excluded.contains(group.units[u])) continue;
        removed.push_back(group.units[u]);
        for (const auto& slice : group.slices)
          if (slice.is_parameter)
            model.weight(slice.path)
                .index_fill_(slice.dim, torch::tensor(at::IntArrayRef(slice.of(u).data(), slice.of(u).size())), 0);
      }
    }
    REQUIRE_FALSE(removed.empty());
    const auto expected = model.run(inputs);
    const auto removal = groups.removal(removed);
    auto pruned = model;
    pare::Rewriter rewriter(pruned);
    for (const auto& weight : removal.weights) rewriter.narrow(weight.path, weight.dim, weight.kept);
    for (const auto& constant : removal.constants)
      rewriter.set_operand(constant.node, constant.position, constant.operand);
    for (const auto& replacement : removal.replacements)
      rewriter.replace(replacement.node, replacement.op, replacement.operands);
    for (const auto& type : removal.types) rewriter.set_type(type.value, type.type);
    using Quantity = pare::SizeModel::Quantity;
    pare::SizeModel sizes(model, groups);  // what a search believes that it gains
    sizes.remove(removed);
    const pare::Cost cost(pruned);
    CHECK(static_cast<std::int64_t>(sizes.total(Quantity::Macs)) == cost.macs());
    CHECK(static_cast<std::int64_t>(sizes.total(Quantity::Parameters)) == cost.parameters());
    const auto actual = pruned.run(inputs);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      if (!expected[i].defined() || !expected[i].is_floating_point()) continue;
      const auto scale = std::max(1.0, expected[i].abs().max().item<double>());
      CHECK((expected[i] - actual[i]).abs().max().item<double>() < 1e-5 * scale);
    }
  }
}

TEST_CASE("squares that are summed once a weight are those of its numbers", "[pruner]") {
  struct OwnSquares {
    at::Tensor operator()(const pare::SliceView& view) const {
      if (!view.slice.produces && !view.slice.consumes) return {};
      return view.weight.to(at::kDouble).square().sum(1);
    }
  };
  for (const auto* name : {"resnet8", "mobilenetv2", "shufflenetv2", "unet", "lstm", "transformer", "llama"}) {
    CAPTURE(name);
    const auto [bundle, model] = models::captured(name);
    const auto quick = pare::apply(pare::Pruner{.importance = pare::L2{}, .ratio = pare::Ratio{0.5}}, model).model;
    const auto own = pare::apply(pare::Pruner{.importance = OwnSquares{}, .ratio = pare::Ratio{0.5}}, model).model;
    bool any = false;
    for (const auto& [path, weight] : quick.weights()) {
      CHECK(at::equal(weight.tensor, own.weight(path)));
      any = any || weight.tensor.numel() < model.weight(path).numel();
    }
    CHECK(any);
  }
}
