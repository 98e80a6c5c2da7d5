// Convolutions, linear layers and matrix products.
#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>

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

// Kernels of oneDNN 3.2 that compute other numbers than its others do, told by comparing them.
bool is_wrong(std::string_view name, const ProgramStep& step) {
  const auto& window = step.window;
  const auto& weights = step.weights->dims();  // [groups,] outputs, inputs, taps
  if (name.starts_with("jit_bf16_1x1")) return weights[weights.size() - window.kernel.size() - 1] % 2 != 0;
  const auto dilated = [](memory::dim one) { return one > 1; };
  return name.find("gemm_s8") != std::string_view::npos && window.kernel.size() == 3 &&
         std::ranges::any_of(window.dilation, dilated);
}

// The first implementation that is not one of those.
template <class Description>
Description trusted(Description description, const ProgramStep& step) {
  while (description && is_wrong(description.impl_info_str(), step))
    if (!description.next_impl()) return {};
  return description;
}

// Where oneDNN's fast kernels get the zero point's part of a transposed convolution wrong: results that no tap reaches,
// taps that lie apart, and the padding behind short sources under wide kernels.
bool zero_point_fails(const Window& window, const memory::dims& source) {
  constexpr memory::dim kShort = 16;
  for (std::size_t d = 0; d < window.kernel.size(); ++d) {
    const bool padded = window.output_padding[d] != 0 && window.kernel[d] > 3 && source[d + 2] < kShort;
    if (window.strides[d] > window.kernel[d] || window.dilation[d] > 1 || padded) return true;
  }
  return false;
}

desc any_layout(const memory::dims& dims, memory::data_type type) { return {dims, type, memory::format_tag::any}; }

// The same convolution by the implementation of this name; empty if there is none.
template <class Description>
Description by_name(Description description, const char* name) {
  while (description && std::strcmp(description.impl_info_str(), name) != 0)
    if (!description.next_impl()) return {};
  return description;
}

}  // namespace

bool PlanBuilder::reads_integers(const ProgramStep& step) const {
  if (step.weights) return step.weights->is_integer();
  return std::ranges::all_of(step.inputs, [&](ValueId value) { return quantization(value).has_value(); });
}

memory PlanBuilder::weights_for(const ProgramStep& step, const desc& wanted) { return step.weights->packed(wanted); }

double PlanBuilder::seconds(const dnnl::convolution_forward::primitive_desc& kernel, const Epilogue& behind) {
  auto arguments = behind.arguments;
  for (auto& argument : arguments)
    if (argument.buffer >= 0) argument.buffer = 0;
  arguments.push_back({DNNL_ARG_SRC, kernel.src_desc(), 0, 0, {}});
  arguments.push_back({DNNL_ARG_WEIGHTS, kernel.weights_desc(), 0, 0, {}});
  arguments.push_back({DNNL_ARG_DST, kernel.dst_desc(), 0, 0, {}});
  if (kernel.scratchpad_desc().get_size() > 0)
    arguments.push_back({DNNL_ARG_SCRATCHPAD, kernel.scratchpad_desc(), 0, 0, {}});
  if (behind.bias) arguments.push_back(argument(DNNL_ARG_BIAS, *behind.bias));
  return timer_.seconds(dnnl::convolution_forward(kernel), arguments);
}

// Among the kernels that compute `first` in its layouts, as timed; each geometry once.
dnnl::convolution_forward::primitive_desc PlanBuilder::fastest(const ProgramStep& step,
                                                               const dnnl::convolution_forward::primitive_desc& first,
                                                               const Describe& describe, const Epilogue& behind) {
  constexpr double kWorthwhile = 0.97;  // below that, oneDNN's own choice stays
  const auto any_weights = any_layout(step.weights->dims(), first.weights_desc().get_data_type());
  const auto& window = step.window;
  const auto key = fmt::format("{} {} {} {} {} {} {} {} {} {} {}", fmt::join(first.src_desc().get_dims(), ","),
                               fmt::join(any_weights.get_dims(), ","), fmt::join(window.strides, ","),
                               fmt::join(window.dilation, ","), fmt::join(window.pads_before, ","),
                               fmt::join(window.pads_after, ","), static_cast<int>(first.src_desc().get_data_type()),
                               static_cast<int>(first.dst_desc().get_data_type()), behind.arguments.size(),
                               first.get_primitive_attr().get_post_ops().len(), first.impl_info_str());
  if (const auto known = plan_->kernels.find(key); known != plan_->kernels.end())
    if (auto same = by_name(describe(any_weights), known->second.c_str())) return same;
  const std::string first_name = first.impl_info_str();
  // Of the same instructions; and depthwise ones, which others compute ten times as slowly.
  const auto alike = [&](const std::string& name) {
    return std::ranges::all_of(std::array{"vnni", "bf16", "dw"}, [&](const char* part) {
      return first_name.find(part) == std::string::npos || name.find(part) != std::string::npos;
    });
  };
  auto best = first;
  double best_seconds = 0, first_seconds = 0;
  for (auto one = describe(any_weights); one;) {
    const std::string name = one.impl_info_str();
    if (is_slow(name.c_str()) || name.find("gemm") != std::string::npos || name.find("sse41") != std::string::npos)
      break;
    if (alike(name) && !is_wrong(name, step) && one.src_desc() == first.src_desc() &&
        one.dst_desc() == first.dst_desc()) {
      const auto taken = seconds(one, behind);
      if (first_seconds == 0) first_seconds = best_seconds = taken;
      if (taken < best_seconds && taken < kWorthwhile * first_seconds) {
        best_seconds = taken;
        best = by_name(describe(any_weights), name.c_str());
      }
    }
    if (!one.next_impl()) break;
  }
  // Another process may have had the core while the first ran: what wins has to win twice.
  if (best_seconds < first_seconds &&
      std::min(best_seconds, seconds(best, behind)) >= kWorthwhile * std::min(first_seconds, seconds(first, behind)))
    best = first;
  plan_->kernels[key] = best.impl_info_str();
  return best;
}

void PlanBuilder::emit_convolution(const ProgramStep& step) {
  using Forward = dnnl::convolution_forward;
  const auto input = step.inputs[0], output = step.outputs[0];
  const bool integers = reads_integers(step);
  if (integers && emit_depthwise(step)) return;
  const auto source_type = integers ? quantization(input)->type() : onednn_type(step.dtype);
  const auto weight_type = integers ? data_type::s8 : onednn_type(step.dtype);
  const auto type = integers ? native_type(output, step) : onednn_type(step.dtype);
  const auto& window = step.window;
  auto dilation = window.dilation;
  for (auto& one : dilation) --one;
  const auto describe = [&](const desc& source, const desc& weights, const desc& result, const Epilogue& behind) {
    auto made = behind.bias ? Forward::primitive_desc(cpu_engine(), dnnl::prop_kind::forward_inference,
                                                      dnnl::algorithm::convolution_direct, source, weights,
                                                      behind.bias->get_desc(), result, window.strides, dilation,
                                                      window.pads_before, window.pads_after, behind.attr, true)
                            : Forward::primitive_desc(cpu_engine(), dnnl::prop_kind::forward_inference,
                                                      dnnl::algorithm::convolution_direct, source, weights, result,
                                                      window.strides, dilation, window.pads_before, window.pads_after,
                                                      behind.attr, true);
    return trusted(std::move(made), step);
  };
  const auto any_source = any_layout(sizes(input), source_type),
             any_weights = any_layout(step.weights->dims(), weight_type);
  auto any_result = any_layout(sizes(output), type);
  // The layout at hand, if a good kernel takes it; else the one oneDNN likes best.
  const auto at_hand = stored(input);
  Epilogue plain;
  plain.attr = with_scratchpad();
  scale_arguments(step, plain, type);
  desc source_layout = any_source;
  if (!reads_row_major(at_hand.layout) && at_hand.layout.get_data_type() == source_type) {
    const auto probe = describe(at_hand.layout, any_weights, any_result, plain);
    if (probe && !is_slow(probe.impl_info_str())) source_layout = at_hand.layout;
  }
  if (step.residual != kNoValue) {
    const auto probe = describe(source_layout, any_weights, any_result, plain);
    any_result = probe.dst_desc();
  }
  auto behind = epilogue(step, type, any_result, {at_hand});
  auto description = describe(source_layout, any_weights, any_result, behind);
  if (!description) description = describe(any_source, any_weights, any_result, behind);
  const Describe in_layouts = [&, source = description.src_desc(), result = description.dst_desc()](
                                  const desc& weights) { return describe(source, weights, result, behind); };
  if (program_.tune && !tapped_) description = fastest(step, description, in_layouts, behind);
  // Weights are packed once where an existing layout serves as well.
  for (const auto& layout : step.weights->layouts()) {
    if (layout == description.weights_desc() || layout.get_data_type() != weight_type) continue;
    if (const auto shared = by_name(in_layouts(layout), description.impl_info_str())) {
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
  if (behind.bias) arguments.push_back(argument(DNNL_ARG_BIAS, *behind.bias));
  arguments.push_back(argument(DNNL_ARG_DST, result));
  call(Forward(description), description, std::move(arguments));
  row(step, description.impl_info_str(), precision_of(step, integers));
  store(output, result);
  quantize_result(output);
}

void PlanBuilder::emit_deconvolution(const ProgramStep& step) {
  using Forward = dnnl::deconvolution_forward;
  const auto input = step.inputs[0], output = step.outputs[0];
  const bool integers = reads_integers(step);
  const auto source_type = integers ? quantization(input)->type() : onednn_type(step.dtype);
  const auto weight_type = integers ? data_type::s8 : onednn_type(step.dtype);
  const auto type = integers ? native_type(output, step) : onednn_type(step.dtype);
  const auto result_dims = sizes(output);
  const auto& window = step.window;
  auto dilation = window.dilation, after = window.pads_after;
  for (auto& one : dilation) --one;
  for (std::size_t d = 0; d < after.size(); ++d) after[d] -= window.output_padding[d];
  auto behind = epilogue(step, type, any_layout(result_dims, type), {});
  const auto source = any_layout(sizes(input), source_type), result = any_layout(result_dims, type),
             weights = any_layout(step.weights->dims(), weight_type);
  auto description =
      behind.bias
          ? Forward::primitive_desc(cpu_engine(), dnnl::prop_kind::forward_inference,
                                    dnnl::algorithm::deconvolution_direct, source, weights, behind.bias->get_desc(),
                                    result, window.strides, dilation, window.pads_before, after, behind.attr)
          : Forward::primitive_desc(cpu_engine(), dnnl::prop_kind::forward_inference,
                                    dnnl::algorithm::deconvolution_direct, source, weights, result, window.strides,
                                    dilation, window.pads_before, after, behind.attr);
  if (integers && quantization(input)->zero_point != 0 && zero_point_fails(window, sizes(input)))
    while (!is_reference(description) && description.next_impl()) continue;
  const auto from = in_layout(input, description.src_desc());
  const auto to = allocate(description.dst_desc());
  auto arguments = std::move(behind.arguments);
  arguments.push_back(argument(DNNL_ARG_SRC, from));
  arguments.push_back(argument(DNNL_ARG_WEIGHTS, weights_for(step, description.weights_desc())));
  if (behind.bias) arguments.push_back(argument(DNNL_ARG_BIAS, *behind.bias));
  arguments.push_back(argument(DNNL_ARG_DST, to));
  call(Forward(description), description, std::move(arguments));
  row(step, description.impl_info_str(), precision_of(step, integers));
  store(output, to);
  quantize_result(output);
}

// [..., K] x [K, N]: rows flattened.
void PlanBuilder::emit_linear(const ProgramStep& step) {
  const auto input = step.inputs[0], output = step.outputs[0];
  const bool integers = reads_integers(step);
  const auto source_type = integers ? quantization(input)->type() : onednn_type(step.dtype);
  const auto weight_type = integers ? data_type::s8 : onednn_type(step.dtype);
  const auto type = integers ? native_type(output, step) : onednn_type(step.dtype);
  const auto& weight_dims = step.weights->dims();
  const auto dims = sizes(output);
  memory::dim rows = 1;
  for (std::size_t d = 0; d + 1 < dims.size(); ++d) rows *= dims[d];
  const memory::dims source_dims{rows, weight_dims[0]}, result_dims{rows, weight_dims[1]};
  const auto source = shaped(input, source_type, source_dims);
  const desc layout(result_dims, type, row_major_strides(result_dims));
  auto behind = epilogue(step, type, layout, {source});
  const auto describe = [&](const desc& weights) {
    return behind.bias ? dnnl::matmul::primitive_desc(cpu_engine(), source.layout, weights, behind.bias->get_desc(),
                                                      layout, behind.attr, true)
                       : dnnl::matmul::primitive_desc(cpu_engine(), source.layout, weights, layout, behind.attr, true);
  };
  auto description = describe(any_layout(weight_dims, weight_type));
  // A head of few classes would be padded to a block of 64, several times its size.
  constexpr double kMostPadding = 1.25;
  const desc unpadded(weight_dims, weight_type, row_major_strides(weight_dims));
  if (static_cast<double>(description.weights_desc().get_size()) >
      kMostPadding * static_cast<double>(unpadded.get_size()))
    if (const auto plain = describe(unpadded); plain && !is_slow(plain.impl_info_str())) description = plain;
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
  if (behind.bias) arguments.push_back(argument(DNNL_ARG_BIAS, *behind.bias));
  arguments.push_back(argument(DNNL_ARG_DST, result));
  call(dnnl::matmul(description), description, std::move(arguments));
  row(step, description.impl_info_str(), precision_of(step, integers));
  result.layout = desc(dims, type, row_major_strides(dims));
  store(output, result);
  quantize_result(output);
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
  const auto type = integers ? native_type(output, step) : onednn_type(step.dtype);
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
  quantize_result(output);
}

PARE_NAMESPACE_END
