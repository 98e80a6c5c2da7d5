// LSTM, GRU and plain recurrent networks, layer by layer.
#include <ATen/ATen.h>

#include "onnx/rules.hpp"

PARE_NAMESPACE_BEGIN

namespace onnx {

namespace {

/// What one kind of network is called, and in which order LibTorch's gates have to come.
struct Kind {
  const char* op;
  Ints gates;  ///< ONNX's k-th gate is LibTorch's gates[k]
  Attributes attributes;
};

Kind kind_of(const Node& node) {
  if (node.is("aten::lstm")) return {"LSTM", {0, 3, 1, 2}, {}};                                     // ifgo -> iofc
  if (node.is("aten::gru")) return {"GRU", {1, 0, 2}, {{"linear_before_reset", std::int64_t{1}}}};  // rzn -> zrh
  return {"RNN", {0}, {}};
}

at::Tensor reordered(const at::Tensor& rows, const Ints& gates) {
  const auto parts = rows.chunk(static_cast<std::int64_t>(gates.size()), 0);
  std::vector<at::Tensor> ordered;
  for (const auto gate : gates) ordered.push_back(parts[static_cast<std::size_t>(gate)]);
  return at::cat(ordered).contiguous();
}

// OpenVINO's cells take constants alone. It folds what becomes of integers of 32 bits, but keeps a DequantizeLinear of
// those of 8 apart.
std::string dequantized(Emitter& out, const IntegerForm& form, const std::string& hint) {
  if (form.four_bits || form.zero_point.ne(0).any().item<bool>()) return out.dequantize(form, hint);
  const auto integers = out.cast(out.tensor(form.integers, hint + ".int8"), form.integers.scalar_type(), at::kInt);
  Attributes attributes;
  if (form.scale.dim() > 0) attributes.emplace_back("axis", form.axis);
  return out.call("DequantizeLinear", {integers, out.tensor(form.scale, hint + ".scale")}, std::move(attributes));
}

// One direction's matrix as [1, rows, columns], integers kept.
std::string matrix(Emitter& out, const Node& node, ValueId value, const Ints& gates) {
  const auto* held = out.constant(value);
  if (!held) Emitter::refuse(node, "a weight that is computed");
  const auto& name = out.graph().value(value).name;
  const auto hint = name.empty() ? node.name + ".weight" : name;
  if (!held->integers || held->integers->block != 0)
    return out.tensor(reordered(held->tensor, gates).unsqueeze(0), hint);
  auto form = *held->integers;
  form.integers = reordered(form.integers, gates);
  if (form.scale.dim() > 0 && form.axis == 0) {
    form.scale = reordered(form.scale, gates);
    form.zero_point = reordered(form.zero_point, gates);
  }
  return out.call("Unsqueeze", {dequantized(out, form, hint), out.integers({0})});
}

std::string joined(Emitter& out, const Names& parts) {
  return parts.size() == 1 ? parts[0] : out.call("Concat", parts, {{"axis", std::int64_t{0}}});
}

/// A call as LibTorch makes it: states, then all layers' and directions' weights in turn.
struct Network {
  Operand::Values states, weights;
  std::int64_t layers = 1, directions = 1, hidden = 0;
  bool biases = true, batch_first = false;
};

Network read(const Emitter& out, const Node& node) {
  Network network;
  const auto position = [&](const char* name) { return static_cast<std::size_t>(node.op.argument(name)); };
  if (node.op.argument("batch_first") < 0) Emitter::refuse(node, "packed sequences");
  if (const auto* list = node.operand(1).get<Operand::Values>())
    network.states = *list;
  else
    network.states = {node.input(1)};
  network.weights = *node.operand(2).get<Operand::Values>();
  network.biases = node.operand(position("has_biases")).boolean().value_or(true);
  network.layers = integer_of(node, position("num_layers"));
  network.directions = node.operand(position("bidirectional")).boolean().value_or(false) ? 2 : 1;
  network.batch_first = node.operand(position("batch_first")).boolean().value_or(false);
  const auto per_direction = network.biases ? 4 : 2;
  if (static_cast<std::int64_t>(network.weights.size()) != network.layers * network.directions * per_direction)
    Emitter::refuse(node, "projections");
  network.hidden = out.type(network.weights[1]).sizes[1].constant().value_or(0);
  return network;
}

// [L * D, B, H], the rows of one layer.
std::string state_of(Emitter& out, const Network& network, std::size_t which, std::int64_t layer) {
  const auto all = out.value(network.states[which]);
  if (network.layers == 1) return all;
  const auto from = layer * network.directions;
  return out.call("Slice", {all, out.integers({from}), out.integers({from + network.directions}), out.integers({0})});
}

void recurrent(Emitter& out, const Node& node) {
  const auto kind = kind_of(node);
  const auto network = read(out, node);
  const bool lstm = network.states.size() == 2;
  auto x = out.input(node, 0);
  if (network.batch_first) x = out.call("Transpose", {x}, {{"perm", Ints{1, 0, 2}}});
  Names hidden, cells;
  const auto per_direction = network.biases ? 4 : 2;
  for (std::int64_t layer = 0; layer < network.layers; ++layer) {
    Names input_weights, recurrent_weights;
    std::vector<at::Tensor> biases;
    for (std::int64_t direction = 0; direction < network.directions; ++direction) {
      const auto first = static_cast<std::size_t>((layer * network.directions + direction) * per_direction);
      input_weights.push_back(matrix(out, node, network.weights[first], kind.gates));
      recurrent_weights.push_back(matrix(out, node, network.weights[first + 1], kind.gates));
      if (!network.biases) continue;
      const auto* of_input = out.constant(network.weights[first + 2]);
      const auto* of_state = out.constant(network.weights[first + 3]);
      if (!of_input || !of_state) Emitter::refuse(node, "a bias that is computed");
      biases.push_back(at::cat({reordered(of_input->tensor, kind.gates), reordered(of_state->tensor, kind.gates)}));
    }
    Names inputs{x,
                 joined(out, input_weights),
                 joined(out, recurrent_weights),
                 biases.empty() ? "" : out.tensor(at::stack(biases), node.name + ".bias"),
                 "",
                 state_of(out, network, 0, layer)};
    if (lstm) inputs.push_back(state_of(out, network, 1, layer));
    auto attributes = kind.attributes;
    attributes.emplace_back("hidden_size", network.hidden);
    attributes.emplace_back("direction", std::string(network.directions == 2 ? "bidirectional" : "forward"));
    if (node.is("aten::rnn_relu")) Emitter::refuse(node, "recurrence with ReLU");
    const auto results = out.calls(kind.op, std::move(inputs), lstm ? 3 : 2, std::move(attributes));
    // [T, D, B, H] -> [T, B, D H]
    const auto steps = out.call("Transpose", {results[0]}, {{"perm", Ints{0, 2, 1, 3}}});
    x = out.call("Reshape", {steps, out.integers({0, 0, network.directions * network.hidden})});
    hidden.push_back(results[1]);
    if (lstm) cells.push_back(results[2]);
  }
  if (network.batch_first) x = out.call("Transpose", {x}, {{"perm", Ints{1, 0, 2}}});
  out.alias(node, x, 0);
  out.alias(node, joined(out, hidden), 1);
  if (lstm) out.alias(node, joined(out, cells), 2);
}

constexpr RuleEntry kRecurrentRules[] = {
    {"aten::lstm", recurrent},
    {"aten::gru", recurrent},
    {"aten::rnn_tanh", recurrent},
    {"aten::rnn_relu", recurrent},
};

}  // namespace

std::span<const RuleEntry> recurrent_rules() { return kRecurrentRules; }

}  // namespace onnx

PARE_NAMESPACE_END
