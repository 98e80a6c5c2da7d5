#include "pare/numerics/learned_fake_quantize.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include <fmt/ranges.h>

#include "numerics/fake_quantize_kernel.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

void require_finite(const at::Tensor& tensor, std::string_view what) {
  const bool finite =
      tensor.numel() == 1 ? std::isfinite(tensor.item<double>()) : at::isfinite(tensor).all().item<bool>();
  if (!finite) fail("pare.numerics.107", "", "a {} is NaN or infinite", what);
}

/// What a backward pass leaves: the gradient of the values, and the sums for scale and zero point.
struct Gradients {
  at::Tensor values;
  at::Tensor scale;
  at::Tensor zero_point;
};

FakeQuantizeKernel kernel_of(double scale, double zero_point, const IntegerGrid& grid) {
  return {static_cast<float>(scale), static_cast<float>(zero_point), static_cast<float>(grid.min),
          static_cast<float>(grid.max)};
}

// Dense floats on the CPU with one scale for all: one pass over memory, in pieces of so many.
constexpr std::int64_t kGrain = 1 << 15;

std::int64_t piece_count(const at::Tensor& values) {
  return std::max<std::int64_t>(1, (values.numel() + kGrain - 1) / kGrain);
}

// A tensor like `values` that `run(span, piece, offset)` fills, piece by piece on all threads.
template <class Run>
at::Tensor in_pieces(const at::Tensor& values, const Run& run) {
  auto result = at::empty_like(values);
  const auto* x = values.const_data_ptr<float>();
  auto* y = result.mutable_data_ptr<float>();
  at::parallel_for(0, piece_count(values), 1, [&](std::int64_t first, std::int64_t last) {
    for (auto piece = first; piece < last; ++piece) {
      const auto offset = piece * kGrain;
      run(FloatSpan{x + offset, y + offset, std::min(kGrain, values.numel() - offset)}, piece, offset);
    }
  });
  return result;
}

Gradients backward_per_tensor(const at::Tensor& values, const at::Tensor& gradient, const FakeQuantizeKernel& kernel,
                              ScaleGradient learned) {
  const auto* g = gradient.const_data_ptr<float>();
  if (learned == ScaleGradient::None) {
    auto passed = in_pieces(values, [&](const FloatSpan& span, std::int64_t /*piece*/, std::int64_t offset) {
      pass_unsaturated(kernel, span, g + offset);
    });
    return {std::move(passed), {}, {}};
  }
  std::vector<std::array<double, 2>> partial(static_cast<std::size_t>(piece_count(values)), {0.0, 0.0});
  auto result = in_pieces(values, [&](const FloatSpan& span, std::int64_t piece, std::int64_t offset) {
    partial[static_cast<std::size_t>(piece)] =
        pass_unsaturated_and_sum(kernel, span, g + offset, learned == ScaleGradient::Rounding);
  });
  std::array<double, 2> sums{};  // in order: the same sums whatever the number of threads
  for (const auto& part : partial) sums = {sums[0] + part[0], sums[1] + part[1]};
  const auto options = values.options();
  return {result, at::scalar_tensor(sums[0], options),
          at::scalar_tensor(-static_cast<double>(kernel.scale) * sums[1], options)};
}

Gradients backward_in_general(const at::Tensor& values, const at::Tensor& gradient, at::Tensor scale,
                              at::Tensor zero_point, const LearnedFakeQuantize& how) {
  std::vector<std::int64_t> others;
  if (how.axis >= 0) {
    std::vector<std::int64_t> shape(static_cast<std::size_t>(values.dim()), 1);
    shape[static_cast<std::size_t>(how.axis)] = scale.numel();
    scale = scale.reshape(shape);
    zero_point = zero_point.reshape(shape);
    for (std::int64_t d = 0; d < values.dim(); ++d)
      if (d != how.axis) others.push_back(d);
  }
  const auto steps = values * scale.reciprocal();
  const auto rounded = steps.round() + zero_point;
  const auto inside = rounded.ge(how.grid.min).logical_and_(rounded.le(how.grid.max));
  const auto q = rounded.clamp(how.grid.min, how.grid.max);
  const auto saturated = gradient.masked_fill(inside, 0.0);
  auto result = gradient.masked_fill(inside.logical_not(), 0.0);
  auto by_scale = saturated * (q - zero_point);
  if (how.scale == ScaleGradient::Rounding) by_scale = by_scale + result * (q - zero_point - steps);
  const auto by_zero = -scale * saturated;
  const auto total = [&](const at::Tensor& terms) {
    if (how.axis < 0) return terms.sum();
    return others.empty() ? terms : terms.sum(others);
  };
  return {result, total(by_scale), total(by_zero)};
}

bool is_dense_float(const at::Tensor& tensor) {
  return tensor.device().is_cpu() && tensor.scalar_type() == at::kFloat && tensor.is_non_overlapping_and_dense();
}

class Function : public torch::autograd::Function<Function> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& values,
                            const at::Tensor& scale, const at::Tensor& zero_point, const LearnedFakeQuantize& how) {
    const auto s = kernel_scale(scale);
    const auto z = kernel_zero_point(zero_point, how.grid);
    context->save_for_backward({values, s, z});
    context->saved_data["min"] = how.grid.min;
    context->saved_data["max"] = how.grid.max;
    context->saved_data["axis"] = how.axis;
    context->saved_data["gradient"] = static_cast<std::int64_t>(how.scale);
    context->saved_data["factor"] = how.gradient_scale;
    if (how.axis < 0 && is_dense_float(values))
      return in_pieces(values, [kernel = kernel_of(s.item<double>(), z.item<double>(), how.grid)](
                                   const FloatSpan& span, std::int64_t /*piece*/, std::int64_t /*offset*/) {
        round_to_grid(kernel, span);
      });
    if (how.axis < 0)
      return at::fake_quantize_per_tensor_affine(values, s.item<double>(), z.item<std::int64_t>(), how.grid.min,
                                                 how.grid.max);
    return at::fake_quantize_per_channel_affine(values, s, z.to(at::kInt), how.axis, how.grid.min, how.grid.max);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    LearnedFakeQuantize how;
    how.grid = {context->saved_data["min"].toInt(), context->saved_data["max"].toInt(), false};
    how.axis = context->saved_data["axis"].toInt();
    how.scale = static_cast<ScaleGradient>(context->saved_data["gradient"].toInt());
    const auto factor = context->saved_data["factor"].toDouble();
    const auto& values = saved[0];
    auto gradient = gradients[0];
    if (!gradient.defined()) return {at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
    Gradients result;
    if (how.axis < 0 && is_dense_float(values) && gradient.scalar_type() == at::kFloat) {
      if (gradient.strides() != values.strides()) gradient = at::empty_like(values).copy_(gradient);
      result = backward_per_tensor(values, gradient,
                                   kernel_of(saved[1].item<double>(), saved[2].item<double>(), how.grid), how.scale);
    } else {
      result = backward_in_general(values, gradient, saved[1], saved[2], how);
    }
    const bool learned = how.scale != ScaleGradient::None;
    return {result.values, learned ? result.scale * factor : at::Tensor(),
            learned ? result.zero_point * factor : at::Tensor(), at::Tensor()};
  }
};

}  // namespace

double lsq_gradient_scale(std::int64_t count, const IntegerGrid& grid) {
  const auto largest = static_cast<double>(grid.symmetric ? grid.max : grid.steps());
  return 1.0 / std::sqrt(std::max(1.0, static_cast<double>(count) * largest));
}

at::Tensor kernel_scale(const at::Tensor& scale) {
  const auto plain = scale.detach();
  require_finite(plain, "scale");
  return plain.clamp_min(kSmallestScale);
}

at::Tensor kernel_zero_point(const at::Tensor& zero_point, const IntegerGrid& grid) {
  const auto plain = zero_point.detach();
  require_finite(plain, "zero point");
  return plain.round().clamp(grid.min, grid.max);
}

at::Tensor learned_fake_quantize(const at::Tensor& values, const at::Tensor& scale, const at::Tensor& zero_point,
                                 const LearnedFakeQuantize& how) {
  if (scale.sizes() != zero_point.sizes())
    fail("pare.numerics.105", "", "a scale of shape {} and a zero point of shape {}", fmt::join(scale.sizes(), "x"),
         fmt::join(zero_point.sizes(), "x"));
  const bool fits = how.axis < 0
                        ? scale.numel() == 1
                        : how.axis < values.dim() && scale.dim() == 1 && scale.size(0) == values.size(how.axis);
  if (!fits)
    fail("pare.numerics.105", "", "{} scales along axis {} of values of shape {}", scale.numel(), how.axis,
         fmt::join(values.sizes(), "x"));
  return Function::apply(values, scale, zero_point, how);
}

PARE_NAMESPACE_END
