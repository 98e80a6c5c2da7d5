// Sums, products and quotients of two values, and of a value with a number for each channel.
#include <ATen/ATen.h>

#include "execute/onednn/layout.hpp"
#include "execute/onednn/plan_builder.hpp"

PARE_NAMESPACE_BEGIN

using dnnl::memory;
using desc = memory::desc;

namespace {

memory floats(const at::Tensor& values, const memory::dims& dims) {
  memory result({dims, memory::data_type::f32, row_major_strides(dims)}, cpu_engine());
  at::from_blob(result.get_data_handle(), values.sizes(), at::kFloat).copy_(values);
  return result;
}

void compute(dnnl::algorithm algorithm, at::Tensor out, const at::Tensor& left, const at::Tensor& right) {
  switch (algorithm) {
    case dnnl::algorithm::binary_add:
      at::add_out(out, left, right);
      break;
    case dnnl::algorithm::binary_sub:
      at::sub_out(out, left, right);
      break;
    case dnnl::algorithm::binary_mul:
      at::mul_out(out, left, right);
      break;
    default:
      at::div_out(out, left, right);
  }
}

}  // namespace

void PlanBuilder::emit_binary(const ProgramStep& step) {
  const auto& left_grid = quantization(step.inputs[0]);
  const auto& right_grid = quantization(step.inputs[1]);
  const auto& left = stored(step.inputs[0]).layout;
  const bool integers = step.algorithm == dnnl::algorithm::binary_add && left_grid && right_grid &&
                        is_integer(left.get_data_type()) && quantization(step.outputs[0]) &&
                        sizes(step.inputs[1]) == sizes(step.outputs[0]) && is_plain(left);
  integers ? emit_integer_sum(step) : emit_float_binary(step);
}

// Both operands' integers, scaled onto the result's.
void PlanBuilder::emit_integer_sum(const ProgramStep& step) {
  const auto output = step.outputs[0];
  const auto dims = sizes(output);
  const auto& left_grid = *quantization(step.inputs[0]);
  const auto& right_grid = *quantization(step.inputs[1]);
  const auto& grid = *quantization(output);
  auto attr = with_scratchpad();
  attr.set_scales_mask(DNNL_ARG_SRC_0, 0);
  attr.set_scales_mask(DNNL_ARG_SRC_1, 0);
  std::vector<PlanArgument> arguments{
      argument(DNNL_ARG_ATTR_SCALES | DNNL_ARG_SRC_0, scalar(left_grid.scale)),
      argument(DNNL_ARG_ATTR_SCALES | DNNL_ARG_SRC_1, scalar(right_grid.scale)),
  };
  dnnl::post_ops ops;
  // The kernel knows no zero points: their part of the sum is a constant.
  const auto shift = -(left_grid.scale * static_cast<float>(left_grid.zero_point) +
                       right_grid.scale * static_cast<float>(right_grid.zero_point));
  if (shift != 0) ops.append_eltwise(dnnl::algorithm::eltwise_linear, 1, shift);
  for (const auto& post : step.post) ops.append_eltwise(post.algorithm, post.alpha, post.beta);
  ops.append_eltwise(dnnl::algorithm::eltwise_linear, 1 / grid.scale, static_cast<float>(grid.zero_point));
  attr.set_post_ops(ops);
  const auto describe = [&](const memory::dims& strides) {
    return dnnl::binary::primitive_desc(cpu_engine(), step.algorithm, desc(dims, left_grid.type(), strides),
                                        desc(dims, right_grid.type(), strides), desc(dims, grid.type(), strides), attr);
  };
  const auto& made = stored(step.inputs[0]).layout;
  auto strides = is_dense(made) ? made.get_strides() : row_major_strides(dims);
  auto description = describe(strides);
  if (is_reference(description)) description = describe(strides = row_major_strides(dims));
  if (is_reference(description)) return emit_binary_on_aten(step);
  const auto left = in_layout(step.inputs[0], desc(dims, left_grid.type(), strides));
  arguments.push_back(argument(DNNL_ARG_SRC_1, in_layout(step.inputs[1], desc(dims, right_grid.type(), strides))));
  finish_binary(step, description, left, std::move(arguments), true);
}

void PlanBuilder::emit_float_binary(const ProgramStep& step) {
  const auto dims = sizes(step.outputs[0]);
  const auto type = onednn_type(step.dtype);
  const bool constant = program_.constants.contains(index(step.inputs[1]));
  const auto left = typed(step.inputs[0], type);
  if (!is_dense(left.layout)) return emit_binary_on_aten(step);
  auto right_dims = sizes(step.inputs[1]);
  right_dims.insert(right_dims.begin(), dims.size() - right_dims.size(), 1);
  auto attr = with_scratchpad();
  dnnl::post_ops ops;
  for (const auto& post : step.post) ops.append_eltwise(post.algorithm, post.alpha, post.beta);
  attr.set_post_ops(ops);
  const bool same = sizes(step.inputs[1]) == dims && !constant;
  const auto right_type = constant ? data_type::f32 : type;
  const auto right_layout = !same                   ? desc(right_dims, right_type, row_major_strides(right_dims))
                            : is_plain(left.layout) ? desc(dims, type, left.layout.get_strides())
                                                    : left.layout;
  const dnnl::binary::primitive_desc description(cpu_engine(), step.algorithm, left.layout, right_layout, left.layout,
                                                 attr);
  if (is_reference(description)) return emit_binary_on_aten(step);
  const auto right = same ? in_layout(step.inputs[1], right_layout) : shaped(step.inputs[1], right_type, right_dims);
  finish_binary(step, description, left, {argument(DNNL_ARG_SRC_1, right)}, false);
}

void PlanBuilder::apply_in_place(const std::vector<PostOp>& post, const Stored& value) {
  const auto attr = with_scratchpad();
  for (const auto& one : post) {
    const dnnl::eltwise_forward::primitive_desc description(cpu_engine(), dnnl::prop_kind::forward_inference,
                                                            one.algorithm, value.layout, value.layout, one.alpha,
                                                            one.beta, attr);
    call(dnnl::eltwise_forward(description), description,
         {argument(DNNL_ARG_SRC, value), argument(DNNL_ARG_DST, value)});
  }
}

// Slices, and broadcasts that oneDNN's fast kernels do not know.
void PlanBuilder::emit_binary_on_aten(const ProgramStep& step) {
  const auto output = step.outputs[0];
  const auto dims = sizes(output);
  const auto left = tensor_of(step.inputs[0]), right = tensor_of(step.inputs[1]);
  const auto result = allocate(desc(dims, onednn_type(step.dtype), row_major_strides(dims)));
  const auto made = tensor_for(result, dims);
  call(
      [=, algorithm = step.algorithm](PlanInstance& instance) {
        compute(algorithm, instance.tensor(made), instance.tensor(left), instance.tensor(right));
      },
      {}, {left, right, made});
  apply_in_place(step.post, result);
  row(step, "aten:strided", precision_of(step, false));
  store(output, result);
  quantize_result(output);
}

// `x * gamma[c] + beta[c]` from integers or to integers: their grids go into the two vectors.
void PlanBuilder::emit_channel_affine(const ProgramStep& step) {
  const auto output = step.outputs[0];
  auto source = stored(step.inputs[0]);
  const bool integers = is_integer(source.layout.get_data_type());
  const auto& grid = quantization(output);
  if (!integers && !grid) return emit_float_affine(step);
  if (!integers) source = typed(step.inputs[0], onednn_type(step.dtype));
  if (!is_dense(source.layout) || !is_plain(source.layout)) {
    const auto dims = source.layout.get_dims();
    source = in_layout(step.inputs[0], desc(dims, source.layout.get_data_type(), channels_last_strides(dims)));
  }
  auto gamma = step.gamma, beta = step.beta_tensor;
  if (integers) {
    const auto& read = *quantization(step.inputs[0]);
    gamma = gamma * read.scale;
    beta = beta - gamma * read.zero_point;
  }
  memory::dims vector(source.layout.get_dims().size(), 1);
  vector[1] = gamma.numel();
  const auto factor = floats(gamma, vector), offset = floats(beta, vector);
  auto attr = with_scratchpad();
  dnnl::post_ops ops;
  ops.append_binary(dnnl::algorithm::binary_add, offset.get_desc());
  for (const auto& post : step.post) ops.append_eltwise(post.algorithm, post.alpha, post.beta);
  if (grid) ops.append_eltwise(dnnl::algorithm::eltwise_linear, 1 / grid->scale, static_cast<float>(grid->zero_point));
  attr.set_post_ops(ops);
  const dnnl::binary::primitive_desc description(
      cpu_engine(), dnnl::algorithm::binary_mul, source.layout, factor.get_desc(),
      with_type(source.layout, grid ? grid->type() : onednn_type(step.dtype)), attr);
  finish_binary(
      step, description, source,
      {argument(DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1, offset), argument(DNNL_ARG_SRC_1, factor)},
      integers);
}

// The same between floats, in whatever layout they come.
void PlanBuilder::emit_float_affine(const ProgramStep& step) {
  const auto source = typed(step.inputs[0], onednn_type(step.dtype));
  // The kernel takes in a ReLU and nothing else.
  const bool takes_in =
      step.post.size() == 1 && step.post[0].algorithm == dnnl::algorithm::eltwise_relu && step.post[0].alpha == 0;
  auto attr = with_scratchpad();
  dnnl::post_ops ops;
  if (takes_in) ops.append_eltwise(step.post[0].algorithm, 0, 0);
  attr.set_post_ops(ops);
  using Flags = dnnl::normalization_flags;
  const dnnl::batch_normalization_forward::primitive_desc description(
      cpu_engine(), dnnl::prop_kind::forward_inference, source.layout, source.layout, 0.F,
      Flags::use_global_stats | Flags::use_scale | Flags::use_shift, attr);
  const auto channels = step.gamma.sizes().vec();
  const auto result = allocate(source.layout);
  call(dnnl::batch_normalization_forward(description), description,
       {argument(DNNL_ARG_SRC, source), argument(DNNL_ARG_DST, result),
        argument(DNNL_ARG_MEAN, floats(at::zeros_like(step.gamma), channels)),
        argument(DNNL_ARG_VARIANCE, floats(at::ones_like(step.gamma), channels)),
        argument(DNNL_ARG_SCALE, floats(step.gamma, channels)),
        argument(DNNL_ARG_SHIFT, floats(step.beta_tensor, channels))});
  if (!takes_in) apply_in_place(step.post, result);
  row(step, description.impl_info_str(), precision_of(step, false));
  store(step.outputs[0], result);
}

void PlanBuilder::finish_binary(const ProgramStep& step, const dnnl::binary::primitive_desc& description,
                                const Stored& left, std::vector<PlanArgument> arguments, bool integers) {
  const auto result = allocate(description.dst_desc());
  arguments.push_back(argument(DNNL_ARG_SRC_0, left));
  arguments.push_back(argument(DNNL_ARG_DST, result));
  call(dnnl::binary(description), description, std::move(arguments));
  row(step, description.impl_info_str(), precision_of(step, integers));
  store(step.outputs[0], result);
  quantize_result(step.outputs[0]);
}

PARE_NAMESPACE_END
