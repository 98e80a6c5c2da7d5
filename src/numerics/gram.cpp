#include "pare/numerics/gram.hpp"

#include <ATen/ATen.h>

#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

void Gram::add(const at::Tensor& sum, const at::Tensor& products, std::int64_t samples) {
  if (!sum_.defined()) {
    sum_ = at::zeros_like(sum);
    products_ = at::zeros_like(products);
  } else if (sum_.sizes() != sum.sizes()) {
    fail("pare.numerics.105", "", "features [{}, {}] after [{}, {}]", sum.size(0), sum.size(1), sum_.size(0),
         sum_.size(1));
  }
  sum_ += sum;
  products_ += products;
  samples_ += samples;
}

void Gram::observe(const at::Tensor& features) {
  if (features.dim() != 3) fail("pare.numerics.105", "", "features must be [groups, samples, features]");
  if (features.size(1) == 0) return;
  const auto values = features.detach().to(at::kFloat);
  // Sums over one batch in float are exact enough for a quantity that is damped by a hundredth; batches add up in
  // double.
  add(values.sum(1, false, at::kDouble), at::bmm(values.transpose(1, 2), values).to(at::kDouble), features.size(1));
}

void Gram::merge(const Gram& other) {
  if (!other.empty()) add(other.sum_, other.products_, other.samples_);
}

at::Tensor Gram::mean() const { return sum_ / static_cast<double>(samples_); }

at::Tensor Gram::second_moment(bool centred) const {
  const auto moment = products_ / static_cast<double>(samples_);
  if (!centred) return moment;
  const auto means = mean();
  return moment - at::bmm(means.unsqueeze(2), means.unsqueeze(1));
}

PARE_NAMESPACE_END
