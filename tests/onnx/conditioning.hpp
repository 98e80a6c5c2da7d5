#pragma once

#include <torch/torch.h>

#include <unordered_map>
#include <vector>

#include "pare/graph/interpreter.hpp"
#include "pare/graph/model.hpp"
#include "pare/graph/op_family.hpp"
#include "pare/numerics/fake_quantize.hpp"

/// A simulation's first output with every number and every sum in float64: the same roundings to integers of the same
/// real numbers, told more exactly.
inline torch::Tensor run_in_double(const pare::Model& model, const std::vector<torch::Tensor>& inputs) {
  const auto& graph = model.graph();
  const auto dims = pare::Interpreter::bind_dims(graph, inputs);
  std::unordered_map<std::size_t, torch::Tensor> results;
  const auto plain = [&](pare::ValueId value) -> torch::Tensor {
    const auto& info = graph.value(value);
    if (info.kind == pare::ValueKind::Input) return inputs[info.position];
    if (info.kind == pare::ValueKind::Weight) return model.weight(value).detach();
    return results[pare::index(value)];
  };
  for (const auto id : graph.nodes()) {
    const auto& node = graph.node(id);
    if (node.condition == pare::Condition::Training) continue;
    const bool rounds = pare::family_of(node.op) == pare::OpFamily::FakeQuantize;
    const auto outputs = pare::Interpreter::call(node, dims, false, [&](pare::ValueId value) {
      const auto tensor = plain(value);
      // Scales stay what they are stored as.
      const bool keeps = !tensor.defined() || !tensor.is_floating_point() || (rounds && value != node.input(0));
      return keeps ? tensor : tensor.to(torch::kDouble);
    });
    for (std::size_t i = 0; i < outputs.size(); ++i)
      results[pare::index(node.outputs[i])] =
          outputs[i].defined() && outputs[i].is_floating_point() ? outputs[i].to(torch::kDouble) : outputs[i];
  }
  return plain(graph.outputs()[0]);
}

/// How far a simulation in float32 is from the same in float64, dB: no execution in float32 that adds in another order
/// can be expected nearer. Deep networks of random weights carry a value that rounds to the other side on to all layers
/// behind.
inline double conditioning_db(const pare::Model& simulated, const std::vector<torch::Tensor>& inputs) {
  return pare::sqnr_db(run_in_double(simulated, inputs), simulated.run(inputs).at(0).to(torch::kDouble));
}
