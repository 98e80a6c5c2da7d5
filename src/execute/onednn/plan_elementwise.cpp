// Elementwise steps, pooling, normalization, softmax, concatenation, quantization.
#include <ATen/ATen.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "execute/onednn/image_kernels.hpp"
#include "execute/onednn/layout.hpp"
#include "execute/onednn/plan_builder.hpp"
#include "execute/onednn/softmax_kernel.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

using dnnl::memory;
using desc = memory::desc;

void PlanBuilder::emit_eltwise(const ProgramStep& step) {
  const auto output = step.outputs[0];
  const auto type = onednn_type(step.dtype);
  auto source = typed(step.inputs[0], type);
  if (!is_dense(source.layout)) source = row_major(step.inputs[0], type);  // the fast kernels know no gaps
  auto attr = with_scratchpad();
  const dnnl::eltwise_forward::primitive_desc description(cpu_engine(), dnnl::prop_kind::forward_inference,
                                                          step.algorithm, source.layout, source.layout, step.alpha,
                                                          step.beta, attr);
  const bool in_place = source.offset == 0 && is_last_use(source.buffer);
  const auto result = in_place ? Stored{source.layout, source.buffer, 0, -1} : allocate(source.layout);
  call(dnnl::eltwise_forward(description), description,
       {argument(DNNL_ARG_SRC, source), argument(DNNL_ARG_DST, result)});
  row(step, description.impl_info_str(), precision_of(step, false));
  store(output, result);
  quantize_result(output);
}

void PlanBuilder::emit_pooling(const ProgramStep& step) {
  const auto input = step.inputs[0], output = step.outputs[0];
  const bool max = step.algorithm == dnnl::algorithm::pooling_max;
  const bool integers = max && quantization(input) && quantization(output) == quantization(input);
  auto source = integers ? typed(input, quantization(input)->type()) : typed(input, onednn_type(step.dtype));
  const auto& window = step.window;
  auto dilation = window.dilation;
  for (auto& one : dilation) --one;
  // Floor mode drops what does not fill a window: the padding behind may be less than stated.
  auto after = window.pads_after;
  const auto source_dims = sizes(input), dims = sizes(output);
  for (std::size_t d = 0; d < after.size(); ++d)
    after[d] = (dims[d + 2] - 1) * window.strides[d] + (window.kernel[d] - 1) * window.dilation[d] + 1 -
               source_dims[d + 2] - window.pads_before[d];
  for (std::size_t d = 0; d < after.size(); ++d)
    if (std::abs(after[d] - window.pads_after[d]) >= window.strides[d])
      fail(
          "pare.execute.103", graph_.node(step.node).name,
          "windows over {} positions are {} in the captured type: the sizes captured did not tell; name another one as "
          "VaryingDim::other_size",
          source_dims[d + 2], dims[d + 2]);
  auto attr = with_scratchpad();
  const auto type = source.layout.get_data_type();
  const auto describe = [&](const desc& layout) {
    return dnnl::pooling_forward::primitive_desc(cpu_engine(), dnnl::prop_kind::forward_inference, step.algorithm,
                                                 layout, desc(dims, type, memory::format_tag::any), window.strides,
                                                 window.kernel, dilation, window.pads_before, after, attr, true);
  };
  auto description = describe(source.layout);
  if (!description || is_reference(description)) {
    const desc channels_last(source_dims, type, channels_last_strides(source_dims));
    if (const auto other = describe(channels_last)) {
      description = other;
      source = in_layout(input, channels_last);
    }
  }
  const auto result = allocate(description.dst_desc());
  call(dnnl::pooling_forward(description), description,
       {argument(DNNL_ARG_SRC, source), argument(DNNL_ARG_DST, result)});
  row(step, description.impl_info_str(), precision_of(step, integers));
  store(output, result);
  quantize_result(output);
}

// The mean over an image: oneDNN's pooling knows no scales, and the sum is exact in integers.
void PlanBuilder::emit_mean(const ProgramStep& step) {
  const auto input = step.inputs[0], output = step.outputs[0];
  auto source = stored(input);
  if (source.layout.get_data_type() == data_type::bf16 || !is_plain(source.layout)) {
    const auto type =
        quantization(input) && is_integer(source.layout.get_data_type()) ? quantization(input)->type() : data_type::f32;
    const auto dims = source.layout.get_dims();
    source = in_layout(input, desc(dims, type, channels_last_strides(dims)));
  }
  const auto dims = source.layout.get_dims(), strides = source.layout.get_strides();
  ImageShape shape{dims[0], dims[1], 1, strides[0], strides[1], strides.back()};
  for (std::size_t d = 2; d < dims.size(); ++d) shape.points *= dims[d];
  if (dims.back() == 1 && dims.size() > 3) shape.point_stride = strides[dims.size() - 2];
  for (std::size_t d = dims.size() - 1; d > 2; --d)
    if (strides[d - 1] != strides[d] * dims[d]) {  // a slice: make it dense first
      source = in_layout(input, desc(dims, source.layout.get_data_type(), channels_last_strides(dims)));
      const auto dense = source.layout.get_strides();
      shape = {dims[0], dims[1], shape.points, dense[0], dense[1], dense.back()};
      break;
    }
  const auto type = source.layout.get_data_type();
  const auto read = is_integer(type) ? quantization(input) : std::nullopt;
  const auto write = quantization(output);
  const auto result_dims = sizes(output);
  const auto result =
      allocate(desc(result_dims, write ? write->type() : data_type::f32, row_major_strides(result_dims)));
  call(
      [=](PlanInstance& instance) {
        const auto* from = instance.pointer(source.buffer) + source.offset;
        auto* to = instance.pointer(result.buffer) + result.offset;
        mean_of_points(from, type, to, shape, read, write);
      },
      {source.buffer, result.buffer});
  row(step, "spatial_mean", precision_of(step, read.has_value()));
  store(output, result);
}

void PlanBuilder::emit_layer_norm(const ProgramStep& step) {
  const auto input = step.inputs[0], output = step.outputs[0];
  const auto dims = sizes(input);
  const auto type = onednn_type(step.dtype);
  const memory::dims rows{[&] {
                            memory::dim count = 1;
                            for (std::size_t d = 0; d + 1 < dims.size(); ++d) count *= dims[d];
                            return count;
                          }(),
                          dims.back()};
  const auto source = shaped(input, type, rows);
  auto attr = with_scratchpad();
  const desc layout(rows, type, row_major_strides(rows));
  const dnnl::layer_normalization_forward::primitive_desc description(
      cpu_engine(), dnnl::prop_kind::forward_inference, source.layout, layout, step.alpha,
      dnnl::normalization_flags::use_scale | dnnl::normalization_flags::use_shift, attr);
  auto result = allocate(layout);
  const memory::dims channels{dims.back()};
  const desc parameter(channels, data_type::f32, memory::format_tag::a);
  call(dnnl::layer_normalization_forward(description), description,
       {argument(DNNL_ARG_SRC, source), argument(DNNL_ARG_DST, result),
        argument(DNNL_ARG_SCALE, memory(parameter, cpu_engine(), step.gamma.data_ptr())),
        argument(DNNL_ARG_SHIFT, memory(parameter, cpu_engine(), step.beta_tensor.data_ptr()))});
  row(step, description.impl_info_str(), precision_of(step, false));
  result.layout = desc(dims, type, row_major_strides(dims));
  store(output, result);
  quantize_result(output);
}

// Rows onto a grid by our own kernel, where it serves.
bool PlanBuilder::emit_integer_softmax(const ProgramStep& step, const Stored& source) {
  const auto output = step.outputs[0];
  const auto& grid = quantization(output);
  const auto dims = source.layout.get_dims();
  if (!grid || grid->is_signed || grid->zero_point != 0 || step.axis + 1 != std::ssize(dims) ||
      !reads_row_major(source.layout) || dims.back() < 1 || dims.back() > kLongestSoftmax || !prefers_own_softmax())
    return false;
  const auto result = allocate(desc(dims, grid->type(), row_major_strides(dims)));
  const auto rows = std::accumulate(dims.begin(), dims.end() - 1, std::int64_t{1}, std::multiplies{});
  call(
      [=, scale = grid->scale, count = dims.back()](PlanInstance& instance) {
        softmax_to_integers(reinterpret_cast<const float*>(instance.pointer(source.buffer) + source.offset),
                            reinterpret_cast<std::uint8_t*>(instance.pointer(result.buffer)), rows, count, scale);
      },
      {source.buffer, result.buffer});
  row(step, "softmax_to_integers", "int8");
  store(output, result);
  return true;
}

void PlanBuilder::emit_softmax(const ProgramStep& step) {
  const auto output = step.outputs[0];
  const auto source = typed(step.inputs[0], data_type::f32);
  if (emit_integer_softmax(step, source)) return;
  const auto& quantized = quantization(output);
  auto attr = with_scratchpad();
  std::vector<PlanArgument> arguments;
  const bool integer_result = quantized && quantized->zero_point == 0;
  const auto type = integer_result ? quantized->type() : onednn_type(step.dtype);
  const auto layout = with_type(source.layout, type);
  if (integer_result) {
    attr.set_scales_mask(DNNL_ARG_DST, 0);
    arguments.push_back(argument(DNNL_ARG_ATTR_SCALES | DNNL_ARG_DST, scalar(quantized->scale)));
  }
  const dnnl::softmax_forward::primitive_desc description(cpu_engine(), dnnl::prop_kind::forward_inference,
                                                          dnnl::algorithm::softmax_accurate, source.layout, layout,
                                                          static_cast<int>(step.axis), attr);
  const auto result = allocate(layout);
  arguments.push_back(argument(DNNL_ARG_SRC, source));
  arguments.push_back(argument(DNNL_ARG_DST, result));
  call(dnnl::softmax_forward(description), description, std::move(arguments));
  row(step, description.impl_info_str(), precision_of(step, false));
  store(output, result);
  quantize_result(output);
}

void PlanBuilder::emit_concat(const ProgramStep& step) {
  const auto output = step.outputs[0];
  const auto type = native_type(output, step);
  const auto& grid = quantization(output);
  std::vector<Stored> sources;
  std::vector<desc> layouts;
  for (const auto value : step.inputs) {
    Stored source;
    if (grid && !(quantization(value) == grid)) {  // onto the common grid
      const auto from = stored(value);
      source = allocate(with_type(from.layout, type));
      reorder(from, source, is_integer(from.layout.get_data_type()) ? quantization(value) : std::nullopt, grid);
    } else {
      source = typed(value, type);
    }
    sources.push_back(source);
    layouts.push_back(source.layout);
  }
  auto attr = with_scratchpad();
  const dnnl::concat::primitive_desc description(cpu_engine(), static_cast<int>(step.axis), layouts, attr);
  const auto result = allocate(description.dst_desc());
  std::vector<PlanArgument> arguments{argument(DNNL_ARG_DST, result)};
  for (std::size_t i = 0; i < sources.size(); ++i)
    arguments.push_back(argument(DNNL_ARG_MULTIPLE_SRC + static_cast<int>(i), sources[i]));
  call(dnnl::concat(description), description, std::move(arguments));
  row(step, description.impl_info_str(), grid ? "int8" : precision_of(step, false));
  store(output, result);
}

void PlanBuilder::emit_quantize(const ProgramStep& step) {
  const auto input = step.inputs[0], output = step.outputs[0];
  const auto from = stored(input);
  auto layout = with_type(from.layout, quantization(output)->type());
  // Images go straight into the layout that integer convolutions read.
  const auto dims = from.layout.get_dims();
  if (dims.size() >= 4 && reads_row_major(from.layout))
    layout = desc(dims, quantization(output)->type(), channels_last_strides(dims));
  const auto result = allocate(layout);
  if (dims.size() >= 4 && dims[1] <= kMostImageChannels && reads_row_major(from.layout) &&
      from.layout.get_data_type() == data_type::f32) {
    const auto points = std::accumulate(dims.begin() + 2, dims.end(), std::int64_t{1}, std::multiplies{});
    call(
        [=, grid = *quantization(output)](PlanInstance& instance) {
          quantize_image(reinterpret_cast<const float*>(instance.pointer(from.buffer) + from.offset),
                         reinterpret_cast<std::uint8_t*>(instance.pointer(result.buffer)), dims[0], dims[1], points,
                         grid);
        },
        {from.buffer, result.buffer});
    row(step, "quantize_image", "int8");
    return store(output, result);
  }
  auto kernel = reorder(from, result, is_integer(from.layout.get_data_type()) ? quantization(input) : std::nullopt,
                        quantization(output));
  row(step, std::move(kernel), "int8");
  store(output, result);
}

PARE_NAMESPACE_END
