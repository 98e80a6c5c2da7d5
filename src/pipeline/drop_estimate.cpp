#include "pare/pipeline/drop_estimate.hpp"

#include <ATen/ATen.h>

#include <cmath>

#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

constexpr double kNormal95 = 1.959963984540054;

bool is_binary(const at::Tensor& scores) { return scores.eq(0).logical_or(scores.eq(1)).all().item<bool>(); }

}  // namespace

std::string DropEstimate::text() const {
  return fmt::format("{:.4f} ({:.4f} to {:.4f} at 95 %, {} samples)", drop, low, high, samples);
}

DropEstimate estimate_drop(const at::Tensor& before, const at::Tensor& after) {
  if (before.dim() != 1 || before.sizes() != after.sizes() || before.numel() == 0)
    fail("pare.pipeline.104", "", "a score for each sample is needed, before and after; there are {} and {}",
         before.numel(), after.numel());
  const auto x = before.to(at::kDouble), y = after.to(at::kDouble);
  const auto fall = x - y;
  const auto count = static_cast<double>(fall.numel());
  DropEstimate estimate;
  estimate.samples = fall.numel();
  estimate.drop = fall.mean().item<double>();
  double middle = estimate.drop, half = 0;
  if (is_binary(x) && is_binary(y)) {
    const auto worse = (fall.gt(0).sum().item<double>() + 1) / (count + 2);
    const auto better = (fall.lt(0).sum().item<double>() + 1) / (count + 2);
    middle = worse - better;
    half = kNormal95 * std::sqrt((worse + better - middle * middle) / (count + 2));
  } else if (count > 1) {
    half = kNormal95 * fall.std().item<double>() / std::sqrt(count);
  }
  estimate.low = middle - half;
  estimate.high = middle + half;
  return estimate;
}

PARE_NAMESPACE_END
