#include <ATen/ATen.h>

#include <functional>

#include "pare/prune/activation.hpp"
#include "pare/prune/batch_norm_scale.hpp"
#include "pare/prune/fisher.hpp"
#include "pare/prune/geometric_median.hpp"
#include "pare/prune/l1.hpp"
#include "pare/prune/l2.hpp"
#include "pare/prune/lamp.hpp"
#include "pare/prune/least_squares.hpp"
#include "pare/prune/random.hpp"
#include "pare/prune/taylor.hpp"
#include "pare/prune/wanda.hpp"

PARE_NAMESPACE_BEGIN

namespace {

bool is_matrix(const SliceView& view) { return view.slice.produces || view.slice.consumes; }

at::Tensor squares(const SliceView& view) {
  if (!is_matrix(view)) return {};
  return view.squares.defined() ? view.squares : view.weight.square().sum(1, false, at::kDouble);
}

}  // namespace

at::Tensor L1::operator()(const SliceView& view) const {
  return is_matrix(view) ? at::linalg_vector_norm(view.weight, 1, 1) : at::Tensor();
}
at::Tensor L2::operator()(const SliceView& view) const { return squares(view); }
at::Tensor LeastSquares::operator()(const SliceView& view) const { return squares(view); }
at::Tensor Lamp::operator()(const SliceView& view) const { return squares(view); }

at::Tensor Lamp::normalize(const at::Tensor& scores) const {
  const auto [sorted, order] = scores.sort(0, /*descending=*/true);
  auto result = at::empty_like(scores);
  result.index_copy_(0, order, sorted / sorted.cumsum(0).clamp_min(1e-30));
  return result;
}

at::Tensor BatchNormScale::operator()(const SliceView& view) const {
  if (view.slice.scales) return view.weight.abs().sum(1);
  return {};
}

at::Tensor GeometricMedian::operator()(const SliceView& view) const {
  if (!view.slice.produces || view.weight.size(1) < 2) return {};
  return at::cdist(view.weight, view.weight).sum(1);
}

at::Tensor Taylor::operator()(const SliceView& view) const {
  return view.gradient.defined() ? (view.weight * view.gradient).sum(1).abs() : at::Tensor();
}

at::Tensor Fisher::operator()(const SliceView& view) const {
  return view.squared_gradient.defined() ? (view.weight.square() * view.squared_gradient).sum(1) : at::Tensor();
}

at::Tensor Wanda::operator()(const SliceView& view) const {
  return view.activation_square.defined() ? view.weight.abs().sum(1) * view.activation_square.sqrt() : at::Tensor();
}

at::Tensor Activation::operator()(const SliceView& view) const {
  if (!view.activation_mean.defined()) return {};
  return measure == Measure::Mean ? view.activation_mean : 1.0 - view.activation_zeros;
}

at::Tensor Random::operator()(const SliceView& view) const {
  if (!is_matrix(view)) return {};
  const auto place = std::hash<std::string>()(view.slice.path) + static_cast<std::size_t>(view.slice.dim);
  auto generator = at::detail::createCPUGenerator(seed ^ place);
  return at::rand({view.weight.size(0)}, generator, at::kDouble);
}

PARE_NAMESPACE_END
