#include "graph/features.hpp"

#include <ATen/ATen.h>

#include <algorithm>

#include "graph/sampled_windows.hpp"
#include "pare/graph/weight_axis.hpp"

PARE_NAMESPACE_BEGIN

namespace {

// An operand that is a list of `count` integers, or one for all.
std::optional<std::vector<std::int64_t>> spatial(const Node& node, std::string_view argument, std::size_t count) {
  auto values = node.operand(argument).integers();
  if (!values) return std::nullopt;
  if (values->size() == 1) values->resize(count, values->front());
  if (values->size() != count) return std::nullopt;
  return values;
}

std::vector<std::int64_t> constant_sizes(const TensorType& type) {
  std::vector<std::int64_t> sizes;
  for (const auto& size : type.sizes) sizes.push_back(size.constant().value_or(0));
  return sizes;
}

std::optional<MatrixForm> convolution_form(const Graph& graph, const FusedRegion& region) {
  const auto& node = graph.node(region.anchor);
  const auto sizes = constant_sizes(graph.value(region.weight).type);
  if (sizes.size() < 3 || graph.value(region.inputs[0]).type.rank() != sizes.size()) return std::nullopt;
  const auto dims = sizes.size() - 2;
  MatrixForm form;
  form.groups = groups_of(graph, region);
  form.outputs = sizes[0] / form.groups;
  form.features = 1;
  for (std::size_t i = 1; i < sizes.size(); ++i) form.features *= sizes[i];
  form.kernel.assign(sizes.begin() + 2, sizes.end());
  const auto stride = spatial(node, "stride", dims), padding = spatial(node, "padding", dims),
             dilation = spatial(node, "dilation", dims);
  if (!stride || !padding || !dilation) return std::nullopt;
  form.stride = *stride;
  form.padding = *padding;
  form.dilation = *dilation;
  return form;
}

at::Tensor linear_features(const MatrixForm& form, const at::Tensor& input, std::int64_t limit) {
  auto rows = input.reshape({-1, form.features});
  const auto step = std::max<std::int64_t>(1, rows.size(0) / std::max<std::int64_t>(limit, 1));
  if (step > 1) rows = rows.slice(0, 0, rows.size(0), step);
  return rows.unsqueeze(0);
}

}  // namespace

std::optional<MatrixForm> matrix_form(const Graph& graph, const FusedRegion& region) {
  const auto axis = output_axis(graph, region);
  if (!axis || region.inputs.size() != 1) return std::nullopt;
  if (region.family == OpFamily::Convolution) {
    if (*axis != 0) return std::nullopt;
    return convolution_form(graph, region);
  }
  if (region.family != OpFamily::Linear) return std::nullopt;
  const auto sizes = constant_sizes(graph.value(region.weight).type);
  MatrixForm form;
  form.axis = *axis;
  form.outputs = sizes[static_cast<std::size_t>(*axis)];
  form.features = sizes[static_cast<std::size_t>(1 - *axis)];
  return form;
}

at::Tensor features_of(const MatrixForm& form, const at::Tensor& input, std::int64_t limit) {
  if (form.kernel.empty()) return linear_features(form, input, limit);
  return SampledWindows(form, input, limit).of_groups(0, form.groups).to(input.device());
}

at::Tensor outputs_of(const MatrixForm& form, const at::Tensor& output, std::int64_t limit) {
  if (form.kernel.empty()) {
    auto rows = output.reshape({-1, form.outputs});
    const auto step = std::max<std::int64_t>(1, rows.size(0) / std::max<std::int64_t>(limit, 1));
    return step > 1 ? rows.slice(0, 0, rows.size(0), step) : rows;
  }
  const auto dims = form.kernel.size();
  auto values = output;
  const auto step = sample_stride(output.numel() / output.size(1), limit, dims);
  for (std::size_t i = 0; i < dims && step > 1; ++i) {
    const auto axis = static_cast<std::int64_t>(i) + 2;
    values = values.slice(axis, std::min(step / 2, values.size(axis) - 1), values.size(axis), step);
  }
  return values.movedim(1, -1).reshape({-1, form.outputs});
}

at::Tensor to_rows(const MatrixForm& form, const at::Tensor& weight) {
  const auto aligned = form.axis == 0 ? weight : weight.transpose(0, form.axis);
  return aligned.reshape({form.groups * form.outputs, form.features}).contiguous();
}

at::Tensor from_rows(const MatrixForm& form, const at::Tensor& rows, at::IntArrayRef sizes) {
  if (form.axis == 0) return rows.reshape(sizes).contiguous();
  auto swapped = sizes.vec();
  std::swap(swapped[0], swapped[static_cast<std::size_t>(form.axis)]);
  return rows.reshape(swapped).transpose(0, form.axis).contiguous();
}

PARE_NAMESPACE_END
