// Convolutions, linear layers and matrix products.
#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>

#include "execute/onednn/layout.hpp"
#include "execute/onednn/plan_builder.hpp"

PARE_NAMESPACE_BEGIN

using dnnl::memory;
using desc = memory::desc;

namespace {

bool is_slow(const char* implementation) {
  const std::string name(implementation);
  return name.find("ref") != std::string::npos || name.find("gemm") == 0;
}

desc any_layout(const memory::dims& dims, memory::data_type type) { return {dims, type, memory::format_tag::any}; }

memory bias_memory(const ProgramStep& step, const memory::dims& dims) {
  const desc layout(dims, memory::data_type::f32, row_major_strides(dims));
  return {layout, cpu_engine(), step.weights->bias().data_ptr()};
}

// Whether saturation to the stored integers does what a clipping activation would.
bool is_redundant(const PostOp& post, const Quantization& stored) {
  const float slack = stored.scale * 0.5F;  // values beyond round to the same end
  if (post.algorithm == dnnl::algorithm::eltwise_relu && post.alpha == 0) return stored.lowest() >= 0;
  if (post.algorithm == dnnl::algorithm::eltwise_clip)
    return stored.lowest() >= post.alpha && stored.highest() <= post.beta + slack;
  return false;
}

}  // namespace

bool PlanBuilder::reads_integers(const ProgramStep& step) const {
  if (step.weights) return step.weights->is_integer();
  return std::ranges::all_of(step.inputs, [&](ValueId value) { return quantization(value).has_value(); });
}

memory PlanBuilder::weights_for(const ProgramStep& step, const desc& wanted) { return step.weights->packed(wanted); }

// Scales and zero points of a kernel on integers, and of a result stored as integers.
void PlanBuilder::integer_arguments(const ProgramStep& step, Epilogue& epilogue, data_type type) {
  auto& attr = epilogue.attr;
  const auto add = [&](int side, const Quantization& quantized) {
    attr.set_scales_mask(side, 0);
    epilogue.arguments.push_back(argument(DNNL_ARG_ATTR_SCALES | side, scalar(quantized.scale)));
    if (quantized.zero_point == 0) return;
    attr.set_zero_points_mask(side, 0);
    epilogue.arguments.push_back(
        argument(DNNL_ARG_ATTR_ZERO_POINTS | side, scalar(std::int32_t{quantized.zero_point})));
  };
  if (reads_integers(step)) {
    add(DNNL_ARG_SRC, *quantization(step.inputs[0]));
    if (step.weights) {
      const bool per_channel = step.weights->scales().size() > 1;
      int mask = 0;
      if (per_channel) mask = step.kind == StepKind::Linear ? 2 : step.window.groups > 1 ? 3 : 1;
      attr.set_scales_mask(DNNL_ARG_WEIGHTS, mask);
      epilogue.arguments.push_back(argument(DNNL_ARG_ATTR_SCALES | DNNL_ARG_WEIGHTS, step.weights->scale_memory()));
    } else {
      add(DNNL_ARG_WEIGHTS, *quantization(step.inputs[1]));
    }
  }
  if (is_integer(type)) add(DNNL_ARG_DST, *quantization(step.outputs[0]));
}

// Everything behind the multiplication: residual sum, activation, requantization. `layout` is the result's layout in
// the kernel's own dims, known whenever there is a residual.
PlanBuilder::Epilogue PlanBuilder::epilogue(const ProgramStep& step, data_type type, const desc& layout,
                                            const std::vector<Stored>& sources) {
  Epilogue result;
  result.attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  integer_arguments(step, result, type);
  dnnl::post_ops ops;
  if (step.residual != kNoValue) {
    const auto& quantized = quantization(step.residual);
    const auto made = stored(step.residual).layout.get_data_type();
    const bool sum_integers = is_integer(type) && is_integer(made);
    const auto want = sum_integers ? made : is_integer(type) ? data_type::f32 : type;
    const auto dims = layout.get_dims();
    Stored residual;
    if (dims != sizes(step.residual)) {
      residual = shaped(step.residual, want, dims);
    } else if (want == type) {
      residual = in_layout(step.residual, layout);
    } else {
      residual = in_layout(step.residual, with_type(layout, want));
    }
    const bool shares = std::ranges::any_of(sources, [&](const Stored& one) { return one.buffer == residual.buffer; });
    const bool in_place = residual.layout.get_size() == layout.get_size() && residual.offset == 0 && !shares &&
                          is_last_use(residual.buffer, step.residual);
    if (sum_integers) {
      ops.append_sum(quantized->scale, quantized->zero_point, want);
      (in_place ? result.in_place : result.copied) = residual;
    } else if (in_place && want == type) {
      ops.append_sum(1.F);
      result.in_place = residual;
    } else {
      result.arguments.push_back(argument(DNNL_ARG_ATTR_MULTIPLE_POST_OP(ops.len()) | DNNL_ARG_SRC_1, residual));
      ops.append_binary(dnnl::algorithm::binary_add, residual.layout);
    }
  }
  for (const auto& post : step.post) {
    if (is_integer(type) && is_redundant(post, *quantization(step.outputs[0]))) continue;
    if (post.other == kNoValue) {
      ops.append_eltwise(post.algorithm, post.alpha, post.beta);
      continue;
    }
    auto dims = sizes(post.other);
    dims.insert(dims.begin(), layout.get_dims().size() - dims.size(), 1);
    const auto other = shaped(post.other, data_type::f32, dims);
    result.arguments.push_back(argument(DNNL_ARG_ATTR_MULTIPLE_POST_OP(ops.len()) | DNNL_ARG_SRC_1, other));
    ops.append_binary(post.algorithm, other.layout);
  }
  result.attr.set_post_ops(ops);
  return result;
}

void PlanBuilder::emit_convolution(const ProgramStep& step) {
  using Forward = dnnl::convolution_forward;
  const auto input = step.inputs[0], output = step.outputs[0];
  const bool integers = reads_integers(step);
  const auto source_type = integers ? quantization(input)->type() : onednn_type(step.dtype);
  const auto weight_type = integers ? data_type::s8 : onednn_type(step.dtype);
  const auto type = native_type(output, step);
  const auto source_dims = sizes(input), result_dims = sizes(output);
  const auto& window = step.window;
  const bool biased = step.weights->bias().defined();
  const memory::dims bias_dims{result_dims[1]};
  auto dilation = window.dilation;
  for (auto& one : dilation) --one;
  const auto describe = [&](const desc& source, const desc& weights, const desc& result,
                            const dnnl::primitive_attr& attr) {
    return biased ? Forward::primitive_desc(cpu_engine(), dnnl::prop_kind::forward_inference,
                                            dnnl::algorithm::convolution_direct, source, weights,
                                            any_layout(bias_dims, data_type::f32), result, window.strides, dilation,
                                            window.pads_before, window.pads_after, attr, true)
                  : Forward::primitive_desc(
                        cpu_engine(), dnnl::prop_kind::forward_inference, dnnl::algorithm::convolution_direct, source,
                        weights, result, window.strides, dilation, window.pads_before, window.pads_after, attr, true);
  };
  const auto any_source = any_layout(source_dims, source_type),
             any_weights = any_layout(step.weights->dims(), weight_type);
  auto any_result = any_layout(result_dims, type);
  // The layout at hand, if a good kernel takes it; else the one oneDNN likes best.
  const auto& at_hand = stored(input);
  Epilogue plain;
  plain.attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  integer_arguments(step, plain, type);
  desc source_layout = any_source;
  if (!reads_row_major(at_hand.layout) && at_hand.layout.get_data_type() == source_type) {
    const auto probe = describe(at_hand.layout, any_weights, any_result, plain.attr);
    if (probe && !is_slow(probe.impl_info_str())) source_layout = at_hand.layout;
  }
  if (step.residual != kNoValue) {
    const auto probe = describe(source_layout, any_weights, any_result, plain.attr);
    any_result = probe.dst_desc();
  }
  auto behind = epilogue(step, type, any_result, {at_hand});
  auto description = describe(source_layout, any_weights, any_result, behind.attr);
  if (!description) description = describe(any_source, any_weights, any_result, behind.attr);
  // Weights are packed once where an existing layout serves as well.
  for (const auto& layout : step.weights->layouts()) {
    if (layout == description.weights_desc() || layout.get_data_type() != weight_type) continue;
    const auto shared = describe(description.src_desc(), layout, description.dst_desc(), behind.attr);
    if (shared && std::strcmp(shared.impl_info_str(), description.impl_info_str()) == 0) {
      description = shared;
      break;
    }
  }
  const auto source = in_layout(input, description.src_desc());
  Stored result;
  if (behind.in_place) {
    result = {description.dst_desc(), behind.in_place->buffer, behind.in_place->offset, -1};
  } else {
    result = allocate(description.dst_desc());
    if (behind.copied)
      reorder(*behind.copied, {behind.copied->layout, result.buffer, 0, -1}, std::nullopt, std::nullopt);
  }
  auto arguments = std::move(behind.arguments);
  arguments.push_back(argument(DNNL_ARG_SRC, source));
  arguments.push_back(argument(DNNL_ARG_WEIGHTS, weights_for(step, description.weights_desc())));
  if (biased) arguments.push_back(argument(DNNL_ARG_BIAS, bias_memory(step, bias_dims)));
  arguments.push_back(argument(DNNL_ARG_DST, result));
  call(Forward(description), description, std::move(arguments));
  row(step, description.impl_info_str(), precision_of(step, integers));
  store(output, result);
}

void PlanBuilder::emit_deconvolution(const ProgramStep& step) {
  using Forward = dnnl::deconvolution_forward;
  const auto input = step.inputs[0], output = step.outputs[0];
  const bool integers = reads_integers(step);
  const auto source_type = integers ? quantization(input)->type() : onednn_type(step.dtype);
  const auto weight_type = integers ? data_type::s8 : onednn_type(step.dtype);
  const auto type = native_type(output, step);
  const auto result_dims = sizes(output);
  const auto& window = step.window;
  const bool biased = step.weights->bias().defined();
  const memory::dims bias_dims{result_dims[1]};
  auto dilation = window.dilation, after = window.pads_after;
  for (auto& one : dilation) --one;
  for (std::size_t d = 0; d < after.size(); ++d) after[d] -= window.output_padding[d];
  auto behind = epilogue(step, type, any_layout(result_dims, type), {});
  const auto source = any_layout(sizes(input), source_type), result = any_layout(result_dims, type),
             weights = any_layout(step.weights->dims(), weight_type);
  const auto description =
      biased ? Forward::primitive_desc(cpu_engine(), dnnl::prop_kind::forward_inference,
                                       dnnl::algorithm::deconvolution_direct, source, weights,
                                       any_layout(bias_dims, data_type::f32), result, window.strides, dilation,
                                       window.pads_before, after, behind.attr)
             : Forward::primitive_desc(cpu_engine(), dnnl::prop_kind::forward_inference,
                                       dnnl::algorithm::deconvolution_direct, source, weights, result, window.strides,
                                       dilation, window.pads_before, after, behind.attr);
  const auto from = in_layout(input, description.src_desc());
  const auto to = allocate(description.dst_desc());
  auto arguments = std::move(behind.arguments);
  arguments.push_back(argument(DNNL_ARG_SRC, from));
  arguments.push_back(argument(DNNL_ARG_WEIGHTS, weights_for(step, description.weights_desc())));
  if (biased) arguments.push_back(argument(DNNL_ARG_BIAS, bias_memory(step, bias_dims)));
  arguments.push_back(argument(DNNL_ARG_DST, to));
  call(Forward(description), description, std::move(arguments));
  row(step, description.impl_info_str(), precision_of(step, integers));
  store(output, to);
}

// [..., K] x [K, N]: rows flattened.
void PlanBuilder::emit_linear(const ProgramStep& step) {
  const auto input = step.inputs[0], output = step.outputs[0];
  const bool integers = reads_integers(step);
  const auto source_type = integers ? quantization(input)->type() : onednn_type(step.dtype);
  const auto weight_type = integers ? data_type::s8 : onednn_type(step.dtype);
  const auto type = native_type(output, step);
  const auto& weight_dims = step.weights->dims();
  const auto dims = sizes(output);
  memory::dim rows = 1;
  for (std::size_t d = 0; d + 1 < dims.size(); ++d) rows *= dims[d];
  const memory::dims source_dims{rows, weight_dims[0]}, result_dims{rows, weight_dims[1]};
  const auto source = shaped(input, source_type, source_dims);
  const desc layout(result_dims, type, row_major_strides(result_dims));
  auto behind = epilogue(step, type, layout, {source});
  const bool biased = step.weights->bias().defined();
  const memory::dims bias_dims{1, weight_dims[1]};
  const auto describe = [&](const desc& weights) {
    const desc bias(bias_dims, data_type::f32, row_major_strides(bias_dims));
    return biased ? dnnl::matmul::primitive_desc(cpu_engine(), source.layout, weights, bias, layout, behind.attr, true)
                  : dnnl::matmul::primitive_desc(cpu_engine(), source.layout, weights, layout, behind.attr, true);
  };
  auto description = describe(any_layout(weight_dims, weight_type));
  for (const auto& existing : step.weights->layouts()) {
    if (existing == description.weights_desc() || existing.get_data_type() != weight_type) continue;
    const auto shared = describe(existing);
    if (shared && std::strcmp(shared.impl_info_str(), description.impl_info_str()) == 0) {
      description = shared;
      break;
    }
  }
  Stored result;
  if (behind.in_place) {
    result = {layout, behind.in_place->buffer, behind.in_place->offset, -1};
  } else {
    result = allocate(layout);
    if (behind.copied)
      reorder(*behind.copied, {behind.copied->layout, result.buffer, 0, -1}, std::nullopt, std::nullopt);
  }
  auto arguments = std::move(behind.arguments);
  arguments.push_back(argument(DNNL_ARG_SRC, source));
  arguments.push_back(argument(DNNL_ARG_WEIGHTS, weights_for(step, description.weights_desc())));
  if (biased) arguments.push_back(argument(DNNL_ARG_BIAS, bias_memory(step, bias_dims)));
  arguments.push_back(argument(DNNL_ARG_DST, result));
  call(dnnl::matmul(description), description, std::move(arguments));
  row(step, description.impl_info_str(), precision_of(step, integers));
  result.layout = desc(dims, type, row_major_strides(dims));
  store(output, result);
}

// Strides that make the permutation behind a value a plain reading of memory.
memory::dims PlanBuilder::transposed_strides(ValueId value) const {
  const auto dims = sizes(value);
  auto strides = row_major_strides(dims);
  if (use_count_[index(value)] != 1) return strides;
  const auto last = last_use_[index(value)];
  if (last >= program_.steps.size()) return strides;
  const auto& user = program_.steps[last];
  if (user.kind != StepKind::View) return strides;
  const auto& node = graph_.node(user.node);
  const auto rank = static_cast<std::int64_t>(dims.size());
  std::vector<std::int64_t> order;
  for (std::int64_t d = 0; d < rank; ++d) order.push_back(d);
  if (node.is("aten::permute")) {
    order = node.operand(1).integers().value_or(order);
  } else if (node.is("aten::transpose.int")) {
    std::swap(order[static_cast<std::size_t>((node.operand(1).integer().value_or(0) + rank) % rank)],
              order[static_cast<std::size_t>((node.operand(2).integer().value_or(0) + rank) % rank)]);
  } else {
    return strides;
  }
  for (auto& d : order) d = (d + rank) % rank;
  if (order.back() != rank - 1) return strides;  // kernels want dense rows
  memory::dim stride = 1;
  for (std::size_t d = order.size(); d-- > 0;) {
    strides[static_cast<std::size_t>(order[d])] = stride;
    stride *= dims[static_cast<std::size_t>(order[d])];
  }
  return strides;
}

void PlanBuilder::emit_product(const ProgramStep& step) {
  const auto output = step.outputs[0];
  const bool integers = reads_integers(step);
  const auto type = native_type(output, step);
  const auto dims = sizes(output);
  std::vector<Stored> sources;
  for (const auto value : step.inputs) {
    const auto wanted = integers ? quantization(value)->type() : onednn_type(step.dtype);
    auto source = typed(value, wanted);
    const auto strides = source.layout.get_strides();
    const bool dense = is_plain(source.layout) && (strides.back() == 1 || strides[strides.size() - 2] == 1);
    sources.push_back(dense ? source : row_major(value, wanted));
  }
  desc layout(dims, type, transposed_strides(output));
  auto behind = epilogue(step, type, layout, sources);
  const dnnl::matmul::primitive_desc description(cpu_engine(), sources[0].layout, sources[1].layout, layout,
                                                 behind.attr);
  const auto result = allocate(layout);
  auto arguments = std::move(behind.arguments);
  arguments.push_back(argument(DNNL_ARG_SRC, sources[0]));
  arguments.push_back(argument(DNNL_ARG_WEIGHTS, sources[1]));
  arguments.push_back(argument(DNNL_ARG_DST, result));
  call(dnnl::matmul(description), description, std::move(arguments));
  row(step, description.impl_info_str(), precision_of(step, integers));
  store(output, result);
}

PARE_NAMESPACE_END
