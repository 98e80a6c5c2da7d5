#include "graph/features.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>

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

// Every how many positions along each axis one is taken, so that about `limit` remain.
std::int64_t stride_of(std::int64_t positions, std::int64_t limit, std::size_t dims) {
  const double excess = static_cast<double>(positions) / static_cast<double>(std::max<std::int64_t>(limit, 1));
  return static_cast<std::int64_t>(std::ceil(std::pow(std::max(excess, 1.0), 1.0 / static_cast<double>(dims))));
}

constexpr std::int64_t kBlock = 64;  // positions copied together: their rows stay in the cache

/// Windows of a convolution at some of its positions. Only these are copied, in one pass: an input has far more
/// positions than are wanted of it.
class SampledWindows {
 public:
  SampledWindows(const MatrixForm& form, const at::Tensor& input, std::int64_t limit)
      : groups_(form.groups), channels_(input.size(1) / form.groups), channel_stride_(input.stride(1)) {
    const auto dims = form.kernel.size();
    std::vector<std::int64_t> counts;
    auto all = input.size(0);
    for (std::size_t i = 0; i < dims; ++i) {
      const auto extent = form.dilation[i] * (form.kernel[i] - 1) + 1;
      counts.push_back((input.size(axis_of(i)) + 2 * form.padding[i] - extent) / form.stride[i] + 1);
      all *= counts.back();
    }
    const auto step = stride_of(all, limit, dims);
    offsets_ = {{0}};
    for (std::size_t i = 0; i < dims; ++i) {
      std::vector<std::vector<std::int64_t>> longer;
      for (const auto& taps : offsets_)
        for (auto at = step > 1 ? std::min(step / 2, counts[i] - 1) : 0; at < counts[i]; at += step)
          longer.push_back(extended(taps, form, input, i, at * form.stride[i] - form.padding[i]));
      offsets_ = std::move(longer);
    }
  }

  [[nodiscard]] std::int64_t positions() const { return std::ssize(offsets_); }

  /// @param to rows of `[channels of a group * taps]`; those of the next group are `group_stride` further on
  void copy(const float* image, std::int64_t first, std::int64_t count, float* to, std::int64_t group_stride) const {
    const auto taps = std::ssize(offsets_[0]), features = channels_ * taps;
    for (std::int64_t c = 0; c < groups_ * channels_; ++c) {
      const auto* from = image + c * channel_stride_;
      auto* row = to + c / channels_ * group_stride + c % channels_ * taps;
      for (std::int64_t p = first; p < first + count; ++p, row += features) {
        const auto& offsets = offsets_[static_cast<std::size_t>(p)];
        for (std::int64_t t = 0; t < taps; ++t) {
          const auto offset = offsets[static_cast<std::size_t>(t)];
          row[t] = offset == kPadding ? 0.0F : from[offset];
        }
      }
    }
  }

 private:
  static constexpr std::int64_t kPadding = std::numeric_limits<std::int64_t>::min();
  static std::int64_t axis_of(std::size_t i) { return static_cast<std::int64_t>(i) + 2; }

  // The taps so far, each along one more axis of the kernel, whose first tap is at `first`.
  static std::vector<std::int64_t> extended(const std::vector<std::int64_t>& taps, const MatrixForm& form,
                                            const at::Tensor& input, std::size_t i, std::int64_t first) {
    std::vector<std::int64_t> result;
    for (const auto tap : taps)
      for (std::int64_t k = 0; k < form.kernel[i]; ++k) {
        const auto place = first + k * form.dilation[i];
        const bool inside = tap != kPadding && place >= 0 && place < input.size(axis_of(i));
        result.push_back(inside ? tap + place * input.stride(axis_of(i)) : kPadding);
      }
    return result;
  }

  std::int64_t groups_, channels_, channel_stride_;
  std::vector<std::vector<std::int64_t>> offsets_;  // of each position's taps, in elements of a channel
};

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
  const auto values = input.detach().to(at::kCPU, at::kFloat);
  const SampledWindows windows(form, values, limit);
  const auto samples = values.size(0) * windows.positions();
  auto result = at::empty({form.groups, samples, form.features}, values.options());
  const auto* from = values.const_data_ptr<float>();
  auto* to = result.mutable_data_ptr<float>();
  const auto blocks = (windows.positions() + kBlock - 1) / kBlock;
  at::parallel_for(0, values.size(0) * blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto task = begin; task < end; ++task) {
      const auto image = task / blocks, first = task % blocks * kBlock;
      windows.copy(from + image * values.stride(0), first, std::min(kBlock, windows.positions() - first),
                   to + (image * windows.positions() + first) * form.features, samples * form.features);
    }
  });
  return result.to(input.device());
}

at::Tensor outputs_of(const MatrixForm& form, const at::Tensor& output, std::int64_t limit) {
  if (form.kernel.empty()) {
    auto rows = output.reshape({-1, form.outputs});
    const auto step = std::max<std::int64_t>(1, rows.size(0) / std::max<std::int64_t>(limit, 1));
    return step > 1 ? rows.slice(0, 0, rows.size(0), step) : rows;
  }
  const auto dims = form.kernel.size();
  auto values = output;
  const auto step = stride_of(output.numel() / output.size(1), limit, dims);
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
