#include "pare/prune/block_pruner.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "check_outputs.hpp"
#include "graph/layer_pattern.hpp"
#include "pare/core/error.hpp"
#include "pare/graph/op_family.hpp"

PARE_NAMESPACE_BEGIN

namespace {

struct Branch {
  NodeId add;
  std::size_t shortcut;       // operand of the add: the value itself changes as earlier branches go
  std::vector<NodeId> nodes;  // what only the branch computes
  NodeId last;                // what computes the branch's result: it names the branch
};

// Everything that a value is computed from.
std::vector<bool> ancestors(const Graph& graph, ValueId value) {
  std::vector<bool> seen(graph.value_count(), false);
  std::vector<ValueId> open{value};
  while (!open.empty()) {
    const auto next = open.back();
    open.pop_back();
    if (seen[index(next)]) continue;
    seen[index(next)] = true;
    if (const auto* producer = graph.producer(next))
      for (const auto& operand : producer->operands) operand.each_value([&](ValueId input) { open.push_back(input); });
  }
  return seen;
}

std::vector<Branch> branches_of(const Graph& graph) {
  std::vector<Branch> branches;
  for (const auto id : graph.nodes()) {
    const auto& node = graph.node(id);
    if (!node.is("aten::add") || family_of(graph, id) != OpFamily::Addition || node.barrier) continue;
    for (const std::size_t side : {0U, 1U}) {
      const auto shortcut = node.input(side), branch = node.input(1 - side);
      const auto* last = graph.producer(branch);
      if (!last || shortcut == branch || graph.value(shortcut).type != graph.value(node.output()).type) continue;
      const auto needed = ancestors(graph, branch);
      if (!needed[index(shortcut)]) continue;
      const auto shared = ancestors(graph, shortcut);
      std::vector<NodeId> nodes;
      for (std::size_t i = 0; i < needed.size(); ++i)
        if (const auto* producer = graph.producer(ValueId{static_cast<std::uint32_t>(i)});
            needed[i] && !shared[i] && producer)
          nodes.push_back(producer->id);
      branches.push_back({id, side, std::move(nodes), last->id});
      break;
    }
  }
  return branches;
}

std::vector<std::vector<at::Tensor>> outputs_of(const Model& model, const Batches& batches) {
  std::vector<std::vector<at::Tensor>> all;
  for (const auto& batch : batches) all.push_back(model.run(batch));
  return all;
}

double difference(const std::vector<std::vector<at::Tensor>>& a, const std::vector<std::vector<at::Tensor>>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    for (std::size_t k = 0; k < a[i].size(); ++k)
      if (a[i][k].defined() && a[i][k].is_floating_point())
        sum += (a[i][k].to(at::kDouble) - b[i][k].to(at::kDouble)).square().mean().item<double>();
  return std::isfinite(sum) ? sum : std::numeric_limits<double>::max();
}

void drop(Rewriter& rewriter, const Branch& branch) {
  const auto add = rewriter.graph().node(branch.add);
  rewriter.replace_uses(add.output(), add.input(branch.shortcut));
  rewriter.eliminate_dead();
}

}  // namespace

void BlockPruner::validate() const {
  if (!(ratio.fraction > 0.0 && ratio.fraction < 1.0))
    fail("pare.prune.101", "", "ratio is {}: more than 0 and less than 1 can be removed", ratio.fraction);
}

Preserved BlockPruner::run(Model& model, Context& context) {
  validate();
  const auto& calibration = context.calibration();
  const at::NoGradGuard no_grad;
  const auto original = model.graph();
  std::vector<Branch> open;
  for (const auto& branch : branches_of(original)) {
    const bool stays = std::ranges::any_of(keep, [&](const std::string& pattern) {
      return std::ranges::any_of(branch.nodes, [&](NodeId id) { return names_layer(original.node(id), pattern); });
    });
    if (stays) {
      context.report().declined(branch.add, "its residual branch was asked to be kept");
    } else {
      open.push_back(branch);
    }
  }
  for (std::size_t i = 0; i < keep.size(); ++i)
    if (std::ranges::none_of(original.nodes(), [&](NodeId id) { return names_layer(original.node(id), keep[i]); }))
      fail("pare.prune.104", keep[i], "no layer or module has this name");
  if (open.empty()) fail("pare.prune.109", "", "the model has no residual branches that could go");

  const bool training = model.is_training();
  model.eval();
  const auto expected = outputs_of(model, calibration);
  check_outputs("pare.prune.103", expected);
  auto left = std::max<std::int64_t>(1, std::lround(ratio.fraction * static_cast<double>(open.size())));
  for (; left > 0 && !open.empty(); --left) {
    std::size_t best = 0;
    double least = std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < open.size(); ++i) {
      auto trial = model;
      Rewriter rewriter(trial);
      drop(rewriter, open[i]);
      if (const auto change = difference(expected, outputs_of(trial, calibration)); change < least) {
        least = change;
        best = i;
      }
    }
    context.report().done(original.node(open[best].add).name, original.node(open[best].add).op.name(),
                          fmt::format("branch that ends in {} dropped", original.node(open[best].last).name),
                          {{"output_change", least}});
    drop(context.rewriter(), open[best]);
    const auto gone = [&](const Branch& branch) { return !model.graph().contains(branch.add); };
    open.erase(open.begin() + static_cast<std::ptrdiff_t>(best));
    std::erase_if(open, gone);
  }
  for (const auto& branch : open) context.report().declined(branch.add, "its residual branch matters more");
  model.train(training);
  return Preserved::none();
}

PARE_NAMESPACE_END
