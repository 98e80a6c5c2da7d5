#include "pare/numerics/gram.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <vector>

#include "narrow_products.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

constexpr std::int64_t kColumns = 128;  // of a block of products: narrower ones waste more than symmetry saves

at::Tensor narrow_products_of(const at::Tensor& features) {
  const auto groups = features.size(0), samples = features.size(1), count = features.size(2);
  const auto rows = features.contiguous();
  auto products = at::empty({groups, count, count}, rows.options());
  const auto* from = rows.const_data_ptr<float>();
  auto* to = products.mutable_data_ptr<float>();
  at::parallel_for(0, groups, 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto g = begin; g < end; ++g)
      narrow_products(from + g * samples * count, samples, count, to + g * count * count);
  });
  return products;
}

// X' X for each group. Of wide ones only the blocks on and above the diagonal are multiplied.
at::Tensor products_of(const at::Tensor& features) {
  const auto count = features.size(2);
  if (count >= kFewestNarrowFeatures && count <= kMostNarrowFeatures && features.is_cpu())
    return narrow_products_of(features);
  const auto transposed = features.transpose(1, 2);
  if (count < 2 * kColumns) return at::bmm(transposed, features);
  auto products = at::empty({features.size(0), count, count}, features.options());
  for (std::int64_t first = 0; first < count; first += kColumns) {
    const auto size = std::min(kColumns, count - first);
    const auto block = at::bmm(transposed.narrow(1, first, size), features.narrow(2, first, count - first));
    products.narrow(1, first, size).narrow(2, first, count - first).copy_(block);
    products.narrow(2, first, size).narrow(1, first, count - first).copy_(block.transpose(1, 2));
  }
  return products;
}

// Sums over one batch in float are exact enough for a quantity that is damped by a hundredth; batches add up in
// double.
struct Sums {
  at::Tensor values, products;

  explicit Sums(const at::Tensor& features) {
    const auto floats = features.detach().to(at::kFloat);
    values = floats.sum(1).to(at::kDouble);
    products = products_of(floats).to(at::kDouble);
  }
};

}  // namespace

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
  const Sums sums(features);
  add(sums.values, sums.products, features.size(1));
}

void Gram::observe(std::int64_t groups, std::int64_t together,
                   const std::function<at::Tensor(std::int64_t first, std::int64_t count)>& features) {
  const auto pieces = (groups + together - 1) / together;
  std::vector<at::Tensor> values(static_cast<std::size_t>(pieces)), products(values.size());
  std::int64_t samples = 0;
  at::parallel_for(0, pieces, 1, [&](std::int64_t begin, std::int64_t end) {
    const at::NoGradGuard no_grad;
    for (auto i = begin; i < end; ++i) {
      const auto some = features(i * together, std::min(together, groups - i * together));
      const Sums sums(some);
      values[static_cast<std::size_t>(i)] = sums.values;
      products[static_cast<std::size_t>(i)] = sums.products;
      if (i == 0) samples = some.size(1);
    }
  });
  if (samples > 0) add(at::cat(values), at::cat(products), samples);
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
