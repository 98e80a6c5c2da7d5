#pragma once

#include <torch/torch.h>

#include <unordered_map>

#include "pare/execute/compiled_model.hpp"
#include "pare/graph/interpreter.hpp"
#include "pare/graph/op_family.hpp"
#include "tests/support/catch.hpp"

/// Checks a compiled model step by step: each of its results against the simulation of that step on the inputs that the
/// compiled model itself had, so that nothing adds up. Integers may differ by a quantum, floats by rounding.
/// @return how many integer results were compared
inline int check_packed_steps(const pare::Model& simulated, const pare::CompiledModel& packed,
                              const std::vector<torch::Tensor>& inputs) {
  using Values = std::unordered_map<std::size_t, torch::Tensor>;
  constexpr double kFloatSqnr = 60.0;  // dB
  Values actual, computed;
  static_cast<void>(packed.run(
      inputs, [&](pare::ValueId value, const torch::Tensor& tensor) { actual[pare::index(value)] = tensor.clone(); }));
  const auto& graph = simulated.graph();
  const auto dims = pare::Interpreter::bind_dims(graph, inputs);
  const auto lookup = [&](pare::ValueId value) -> torch::Tensor {
    const auto& info = graph.value(value);
    if (info.kind == pare::ValueKind::Input) return inputs[info.position];
    if (info.kind == pare::ValueKind::Weight) return simulated.weight(value);
    const auto found = actual.find(pare::index(value));
    return found != actual.end() ? found->second : computed[pare::index(value)];
  };
  int integers = 0;
  for (const auto id : graph.nodes()) {
    const auto& node = graph.node(id);
    if (node.condition == pare::Condition::Training) continue;
    const auto results = pare::Interpreter::call(node, dims, false, lookup);
    for (std::size_t i = 0; i < node.outputs.size(); ++i) {
      const auto at = pare::index(node.outputs[i]);
      computed[at] = results[i];
      const auto found = actual.find(at);
      if (found == actual.end() || !results[i].defined() || !results[i].is_floating_point()) continue;
      INFO(node.name << " " << node.op.name());
      REQUIRE(found->second.sizes() == results[i].sizes());
      if (node.op.name() == "aten::fake_quantize_per_tensor_affine") {
        const double quantum = node.operand("scale").number().value_or(0);
        const auto difference = (results[i] - found->second).abs();
        CHECK(difference.max().item<double>() <= 1.01 * quantum);
        CHECK(difference.gt(0.5 * quantum).to(torch::kFloat).mean().item<double>() < 0.02);
        ++integers;
      } else {
        const auto finite = torch::isfinite(results[i]);  // masks hold infinities
        CHECK(torch::equal(finite, torch::isfinite(found->second)));
        const auto noise = (results[i] - found->second).masked_select(finite).square().sum().item<double>();
        const auto signal = results[i].masked_select(finite).square().sum().item<double>();
        CHECK((noise == 0 || 10 * std::log10(signal / noise) > kFloatSqnr));
      }
    }
  }
  return integers;
}
