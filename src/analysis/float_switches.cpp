#include "pare/analysis/float_switches.hpp"

#include <ATen/ATen.h>

#include "pare/graph/fusion.hpp"
#include "pare/graph/rewriter.hpp"

PARE_NAMESPACE_BEGIN

namespace {

class SwitchInserter {
 public:
  explicit SwitchInserter(Model& model) : model_(model), rewriter_(model) {}

  void insert(NodeId anchor, const std::vector<ValueId>& inputs) {
    std::string path;
    for (const auto value : inputs) {
      const auto whole = unquantized(value, anchor);
      if (whole == value) continue;
      if (path.empty()) path = add_switch(anchor);
      const auto type = model_.graph().value(value).type;
      const auto chosen =
          rewriter_.insert_before(anchor, "aten::where.self", {model_.graph().weight(path), whole, value}, {type});
      const auto result = model_.graph().node(chosen).output();
      const auto operands = model_.graph().node(anchor).operands.size();
      for (std::size_t i = 0; i < operands; ++i) {
        auto operand = model_.graph().node(anchor).operand(i);
        bool reads = false;
        operand.each_value([&](ValueId& one) {
          if (one != value) return;
          one = result;
          reads = true;
        });
        if (reads) rewriter_.set_operand(anchor, i, std::move(operand));
      }
    }
  }

 private:
  std::string add_switch(NodeId anchor) {
    auto path = model_.graph().node(anchor).name + std::string(kFloatSwitch);
    rewriter_.add_weight(path, at::zeros({}, at::kBool));
    return path;
  }

  // The value without the fake-quantize that it comes from: ops that only move elements are repeated.
  ValueId unquantized(ValueId value, NodeId before) {
    const auto* producer = model_.graph().producer(value);
    if (!producer || producer->operands.empty()) return value;
    const auto node = *producer;
    if (family_of(node.op) == OpFamily::FakeQuantize) return node.input(0);
    if (!passes_integers(model_.graph(), node.id) || node.outputs.size() != 1) return value;
    auto operands = node.operands;
    bool changed = false;
    operands[0].each_value([&](ValueId& one) {
      const auto whole = unquantized(one, before);
      changed = changed || whole != one;
      one = whole;
    });
    if (!changed) return value;
    const auto type = model_.graph().value(value).type;
    const auto copy = rewriter_.insert_before(before, node.op.name(), std::move(operands), {type});
    return model_.graph().node(copy).output();
  }

  Model& model_;
  Rewriter rewriter_;
};

}  // namespace

Model with_float_switches(const Model& quantized) {
  auto model = quantized;
  SwitchInserter inserter(model);
  for (const auto& region : match_regions(quantized.graph()))
    if (region.weight != kNoValue) inserter.insert(region.anchor, region.inputs);
  return model;
}

PARE_NAMESPACE_END
