#include "fake_quantizer.hpp"

#include <ATen/ATen.h>

#include <cmath>

#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

FakeQuantizer::FakeQuantizer(Description description, const at::Tensor& scale, const at::Tensor& zero_point)
    : description_(std::move(description)) {
  const at::NoGradGuard no_grad;
  scale_ = scale.detach().to(at::kFloat).clone();
  zero_point_ = zero_point.detach().to(at::kFloat).clone();
  const auto& grid = description_.grid;
  if (!learns() && !description_.weight) {
    const auto steps = scale_.to(at::kDouble);
    const auto zero = zero_point_.to(at::kDouble);
    range_ =
        at::stack({steps * (static_cast<double>(grid.min) - zero), steps * (static_cast<double>(grid.max) - zero)});
  }
  if (description_.training == RangeTraining::LearnedClip) scale_.mul_(grid.steps());
  if (learns()) scale_.requires_grad_(true);
  if (description_.training == RangeTraining::LearnedStepAndOffset && !grid.symmetric) zero_point_.requires_grad_(true);
}

at::Tensor FakeQuantizer::differentiable_scale() const {
  return description_.training == RangeTraining::LearnedClip ? scale_ / description_.grid.steps() : scale_;
}

at::Tensor FakeQuantizer::scale() const {
  const at::NoGradGuard no_grad;
  return kernel_scale(differentiable_scale());
}

at::Tensor FakeQuantizer::zero_point() const { return kernel_zero_point(zero_point_, description_.grid).to(at::kInt); }

// LibTorch's fake-quantize makes the grid's end of NaN, which would hide it.
void FakeQuantizer::check_finite(const at::Tensor& values) const {
  const at::NoGradGuard no_grad;
  if (values.is_meta() || std::isfinite(values.sum(at::kFloat).item<double>())) return;
  if (values.isfinite().all().item<bool>()) return;  // a sum may overflow
  fail("pare.quantize.111", description_.name, "a value here is NaN or infinite; the training has diverged before");
}

at::Tensor FakeQuantizer::operator()(const at::Tensor& values) const {
  check_finite(values);
  LearnedFakeQuantize how{description_.grid, description_.axis};
  how.scale = !learns()                                             ? ScaleGradient::None
              : description_.training == RangeTraining::LearnedClip ? ScaleGradient::Clipping
                                                                    : ScaleGradient::Rounding;
  if (how.scale == ScaleGradient::Rounding) {
    // Weights that share a step, or the features of one sample.
    const auto sharing = description_.weight ? values.numel() / std::max<std::int64_t>(scale_.numel(), 1)
                         : values.dim() > 0  ? values.numel() / std::max<std::int64_t>(values.size(0), 1)
                                             : 1;
    how.gradient_scale = lsq_gradient_scale(sharing, description_.grid);
  }
  try {
    return learned_fake_quantize(values, differentiable_scale(), zero_point_, how);
  } catch (const Error& error) {
    if (error.id() != "pare.numerics.107") throw;
    fail("pare.quantize.111", description_.name,
         "the scale or zero point learned here is NaN or infinite; lower the learning rate or clip gradients");
  }
}

void FakeQuantizer::observe(const at::Tensor& values, const AnyWeightObserver& weight_observer) {
  if (learns() || values.numel() == 0) return;
  const at::NoGradGuard no_grad;
  try {
    if (description_.weight) {
      const auto plain = values.detach();
      const auto rows = description_.axis < 0 ? plain.reshape({1, -1})
                                              : plain.transpose(0, description_.axis).flatten(1).contiguous();
      const auto chosen = weight_observer(rows, description_.grid);
      scale_.copy_(chosen.scale.reshape(scale_.sizes()));
      zero_point_.copy_(chosen.zero_point.reshape(zero_point_.sizes()));
      return;
    }
    const auto* held = range_.const_data_ptr<double>();
    MovingAverage average(description_.momentum, {held[0], held[1]});
    average.observe(values);
    const auto range = average.range(description_.grid);
    range_.copy_(at::tensor({range.low, range.high}, at::kDouble));
    const auto chosen = choose_qparams(range, description_.grid);
    scale_.fill_(chosen.scale);
    zero_point_.fill_(static_cast<double>(chosen.zero_point));
  } catch (const Error& error) {
    if (error.id() == "pare.numerics.101") check_finite(values);
    throw;
  }
}

std::map<std::string, at::Tensor> FakeQuantizer::parameters() const {
  std::map<std::string, at::Tensor> result;
  const auto* scale = description_.training == RangeTraining::LearnedClip ? ".clip" : ".scale";
  if (scale_.requires_grad()) result.emplace(description_.name + scale, scale_);
  if (zero_point_.requires_grad()) result.emplace(description_.name + ".zero_point", zero_point_);
  return result;
}

std::map<std::string, at::Tensor> FakeQuantizer::state() const {
  std::map<std::string, at::Tensor> result;
  const auto* scale = description_.training == RangeTraining::LearnedClip ? ".clip" : ".scale";
  result.emplace(description_.name + scale, scale_);
  result.emplace(description_.name + ".zero_point", zero_point_);
  if (range_.defined()) result.emplace(description_.name + ".range", range_);
  return result;
}

void FakeQuantizer::load(const std::map<std::string, at::Tensor>& state) const {
  for (const auto& [name, tensor] : this->state()) tensor.variable_data().copy_(state.at(name));
}

void check_state(const std::map<std::string, at::Tensor>& expected, const std::map<std::string, at::Tensor>& given) {
  for (const auto& [name, tensor] : expected) {
    const auto found = given.find(name);
    if (found == given.end()) fail("pare.quantize.113", name, "the state of this training lacks this tensor");
    if (found->second.sizes() != tensor.sizes() || found->second.scalar_type() != tensor.scalar_type())
      fail("pare.quantize.113", name, "this tensor has another shape or dtype in the state: it is another training's");
  }
  for (const auto& [name, tensor] : given)
    if (!expected.contains(name)) fail("pare.quantize.113", name, "the state holds a tensor that this training lacks");
}

PARE_NAMESPACE_END
