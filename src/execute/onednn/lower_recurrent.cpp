// LSTM and GRU: weights in oneDNN's order of gates, integers kept where they are what the model stores.
#include <ATen/ATen.h>

#include <algorithm>

#include "execute/onednn/lowering.hpp"

PARE_NAMESPACE_BEGIN

namespace {

// PyTorch's rows are (reset, update, new) of a GRU and (input, forget, cell, output) of an LSTM: `[gates * hidden,
// in]`. oneDNN starts a GRU with update, and wants `[in, gates * hidden]`.
at::Tensor in_onednn_order(const at::Tensor& rows, std::int64_t gates) {
  auto pieces = rows.chunk(gates, 0);
  if (gates == 3) std::swap(pieces[0], pieces[1]);
  return at::cat(pieces, 0);
}

// The hidden state's own bias of the new gate is inside the reset gate's product: a fourth one.
at::Tensor joined_bias(const at::Tensor& of_input, const at::Tensor& of_hidden, std::int64_t gates) {
  if (gates == 4) return (of_input + of_hidden).view({4, -1});
  const auto input = in_onednn_order(of_input, 3).view({3, -1}), hidden = in_onednn_order(of_hidden, 3).view({3, -1});
  return at::cat({(input + hidden).narrow(0, 0, 2), input.narrow(0, 2, 1), hidden.narrow(0, 2, 1)});
}

}  // namespace

// One matrix of a layer: the two directions behind each other.
RecurrentMatrix Lowering::recurrent_matrix(const std::vector<ValueId>& weights, std::int64_t gates) {
  RecurrentMatrix matrix;
  matrix.in = type(weights[0]).sizes[1].constant().value_or(0);
  std::vector<at::Tensor> integers, scales, numbers;
  for (const auto weight : weights) {
    const auto table = integer_table(weight);
    if (!table) break;
    integers.push_back(in_onednn_order(table->integers, gates).t());
    scales.push_back(in_onednn_order(table->scale, gates).t());
  }
  if (integers.size() == weights.size()) {
    matrix.integers = {at::cat(integers).contiguous(), at::cat(scales).contiguous()};
    return matrix;
  }
  for (const auto weight : weights) numbers.push_back(in_onednn_order(constant(weight).to(at::kFloat), gates).t());
  auto plain = at::stack(numbers).contiguous();
  const auto hidden = plain.size(2) / gates;
  matrix.numbers = std::make_shared<PackedWeights>(std::move(plain),
                                                   dnnl::memory::dims{1, std::ssize(weights), matrix.in, gates, hidden},
                                                   std::vector<float>{}, at::Tensor());
  for (const auto weight : weights) folded_.erase(index(weight));
  return matrix;
}

// Parameters as PyTorch passes them: of each layer and direction (input, hidden[, two biases]).
std::shared_ptr<RecurrentStack> Lowering::recurrent_stack(const std::vector<ValueId>& parameters, RecurrentStack shape,
                                                          std::int64_t layers, bool biases) {
  auto stack = std::make_shared<RecurrentStack>(std::move(shape));
  stack->hidden = type(parameters[1]).sizes[1].constant().value_or(0);
  const auto gates = stack->gates();
  const std::int64_t each = biases ? 4 : 2;
  for (std::int64_t l = 0; l < layers; ++l) {
    std::vector<ValueId> of_input, of_hidden;
    std::vector<at::Tensor> bias;
    for (std::int64_t d = 0; d < stack->directions; ++d) {
      const auto first = static_cast<std::size_t>((l * stack->directions + d) * each);
      of_input.push_back(parameters[first]);
      of_hidden.push_back(parameters[first + 1]);
      const auto read = [&](std::size_t at) {
        return biases ? constant(parameters[first + at]).to(at::kFloat) : at::zeros({gates * stack->hidden});
      };
      bias.push_back(joined_bias(read(2), read(3), gates));
    }
    stack->layers.push_back(
        {recurrent_matrix(of_input, gates), recurrent_matrix(of_hidden, gates), at::stack(bias).contiguous()});
  }
  return stack;
}

bool Lowering::lower_recurrent(const Node& node) {
  const bool lstm = node.is("aten::lstm.input");
  if (!lstm && !node.is("aten::gru.input")) return false;
  const auto layers = node.operand("num_layers").integer();
  const auto biases = node.operand("has_biases").boolean(), bidirectional = node.operand("bidirectional").boolean(),
             batch_first = node.operand("batch_first").boolean();
  if (node.operand("train").boolean(false).value_or(true) || !layers || !biases || !bidirectional || !batch_first)
    return false;
  std::vector<ValueId> states, parameters;
  if (lstm) {
    node.operand("hx").each_value([&](ValueId value) { states.push_back(root(value)); });
  } else {
    states.push_back(root(node.operand("hx").value()));
  }
  node.operand("params").each_value([&](ValueId value) { parameters.push_back(root(value)); });
  const std::int64_t directions = *bidirectional ? 2 : 1, each = *biases ? 4 : 2;
  const auto input = root(node.input(0));
  const auto is_state = [&](ValueId value) { return type(value).rank() == 3 && type(value).dtype == at::kFloat; };
  const bool known = std::ranges::all_of(parameters, [&](ValueId value) { return is_constant(value); }) &&
                     std::ranges::all_of(states, is_state) && is_state(input) && !is_constant(input) &&
                     std::ssize(parameters) == *layers * directions * each;  // more where states are projected
  if (!known) return false;

  ProgramStep step{.kind = StepKind::Recurrent, .node = node.id, .inputs = {input}, .outputs = node.outputs};
  for (const auto state : states) {
    if (is_constant(state)) keep(state);
    step.inputs.push_back(state);
  }
  RecurrentStack shape;
  shape.gated_cell = lstm;
  shape.batch_first = *batch_first;
  shape.directions = directions;
  step.recurrent = recurrent_stack(parameters, std::move(shape), *layers, *biases);
  program_.steps.push_back(std::move(step));
  return true;
}

PARE_NAMESPACE_END
