// LSTM and GRU, layer by layer.
#include <ATen/ATen.h>

#include "execute/onednn/layout.hpp"
#include "execute/onednn/plan_builder.hpp"

PARE_NAMESPACE_BEGIN

using dnnl::memory;
using desc = memory::desc;

// Integers become numbers in memory of the call; numbers lie packed already.
PlanBuilder::Stored PlanBuilder::recurrent_weights(const RecurrentMatrix& matrix, const RecurrentStack& stack,
                                                   const desc& wanted) {
  if (matrix.numbers) {
    auto packed = matrix.numbers->packed(wanted);
    return {wanted, new_buffer({.kind = PlanBuffer::Kind::Constant, .pointer = packed.get_data_handle()}), 0, -1};
  }
  const auto rows = stack.directions * matrix.in, columns = stack.gates() * stack.hidden;
  const memory::dims dims{1, stack.directions, matrix.in, stack.gates(), stack.hidden};
  const desc plain(dims, data_type::f32, row_major_strides(dims));
  const auto numbers = allocate(plain);
  const auto view =
      tensor_for({desc({rows, columns}, data_type::f32, {columns, 1}), numbers.buffer, 0, -1}, {rows, columns});
  // A scale for each column of each direction.
  call(
      [view, table = matrix.integers, directions = stack.directions](PlanInstance& instance) {
        auto values = instance.tensor(view);
        values.copy_(table.integers);
        values.view({directions, -1, values.size(1)}).mul_(table.scale.unsqueeze(1));
      },
      {numbers.buffer}, {view});
  if (wanted == plain) return numbers;
  const auto packed = allocate(wanted);
  reorder(numbers, packed, std::nullopt, std::nullopt);
  return packed;
}

void PlanBuilder::emit_recurrent_layer(const ProgramStep& step, std::size_t layer, const RecurrentOperands& operands) {
  const auto& stack = *step.recurrent;
  const auto& weights = stack.layers[layer];
  const auto direction = stack.directions == 2 ? dnnl::rnn_direction::bidirectional_concat
                                               : dnnl::rnn_direction::unidirectional_left2right;
  const auto batch = operands.input.layout.get_dims()[1];
  const memory::dims state_dims{1, stack.directions, batch, stack.hidden};
  const desc state(state_dims, data_type::f32, row_major_strides(state_dims));
  const auto offset = layer * state.get_size();
  const auto any = [&](std::int64_t in) {
    return desc({1, stack.directions, in, stack.gates(), stack.hidden}, data_type::f32, memory::format_tag::any);
  };
  const memory::dims bias_dims{1, stack.directions, 4, stack.hidden};
  const memory bias({bias_dims, data_type::f32, row_major_strides(bias_dims)}, cpu_engine(), weights.bias.data_ptr());
  auto attr = with_scratchpad();
  const auto finish = [&](const auto& description, const dnnl::primitive& primitive) {
    std::vector<PlanArgument> arguments{
        argument(DNNL_ARG_SRC_LAYER, operands.input), argument(DNNL_ARG_DST_LAYER, operands.output),
        argument(DNNL_ARG_WEIGHTS_LAYER, recurrent_weights(weights.input, stack, description.weights_layer_desc())),
        argument(DNNL_ARG_WEIGHTS_ITER, recurrent_weights(weights.hidden, stack, description.weights_iter_desc())),
        argument(DNNL_ARG_BIAS, bias)};
    constexpr int kBefore[] = {DNNL_ARG_SRC_ITER, DNNL_ARG_SRC_ITER_C};
    constexpr int kAfter[] = {DNNL_ARG_DST_ITER, DNNL_ARG_DST_ITER_C};
    for (std::size_t i = 0; i < operands.before.size(); ++i) {
      arguments.push_back(
          argument(kBefore[i], Stored{state, operands.before[i].buffer, operands.before[i].offset + offset, -1}));
      arguments.push_back(
          argument(kAfter[i], Stored{state, operands.after[i].buffer, operands.after[i].offset + offset, -1}));
    }
    call(primitive, description, std::move(arguments));
    if (layer + 1 == stack.layers.size())
      row(step, (weights.input.numbers ? "" : "int8_weights+") + std::string(description.impl_info_str()), "float32");
  };
  constexpr auto kInference = dnnl::prop_kind::forward_inference;
  if (stack.gated_cell) {
    const dnnl::lstm_forward::primitive_desc description(cpu_engine(), kInference, direction, operands.input.layout,
                                                         state, state, any(weights.input.in), any(stack.hidden),
                                                         bias.get_desc(), operands.output.layout, state, state, attr);
    finish(description, dnnl::lstm_forward(description));
  } else {
    const dnnl::lbr_gru_forward::primitive_desc description(cpu_engine(), kInference, direction, operands.input.layout,
                                                            state, any(weights.input.in), any(stack.hidden),
                                                            bias.get_desc(), operands.output.layout, state, attr);
    finish(description, dnnl::lbr_gru_forward(description));
  }
}

void PlanBuilder::emit_recurrent(const ProgramStep& step) {
  const auto& stack = *step.recurrent;
  const auto whole = sizes(step.inputs[0]);
  const auto batch = whole[stack.batch_first ? 0 : 1], length = whole[stack.batch_first ? 1 : 0];
  // Time is outermost for the kernels, whatever it is for the model.
  const auto strides_of = [&](std::int64_t width) {
    return stack.batch_first ? memory::dims{width, batch * width, 1} : memory::dims{batch * width, width, 1};
  };
  const auto by_time = [&](std::int64_t width) {
    return desc({length, batch, width}, data_type::f32, {batch * width, width, 1});
  };
  RecurrentOperands operands;
  operands.output = in_layout(step.inputs[0], desc(whole, data_type::f32, strides_of(whole[2])));
  operands.output.layout = by_time(whole[2]);
  const memory::dims state_dims{std::ssize(stack.layers) * stack.directions, batch, stack.hidden};
  for (std::size_t i = 1; i < step.inputs.size(); ++i) {
    operands.before.push_back(row_major(step.inputs[i], data_type::f32));
    operands.after.push_back(allocate(desc(state_dims, data_type::f32, row_major_strides(state_dims))));
  }
  const auto width = stack.directions * stack.hidden;
  for (std::size_t layer = 0; layer < stack.layers.size(); ++layer) {
    operands.input = operands.output;
    operands.output = allocate(by_time(width));
    emit_recurrent_layer(step, layer, operands);
  }
  auto dims = whole;
  dims[2] = width;
  operands.output.layout = desc(dims, data_type::f32, strides_of(width));
  store(step.outputs[0], operands.output);
  for (std::size_t i = 0; i < operands.after.size(); ++i) store(step.outputs[i + 1], operands.after[i]);
  for (const auto output : step.outputs) quantize_result(output);
}

PARE_NAMESPACE_END
