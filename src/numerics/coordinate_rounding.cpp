#include "pare/numerics/coordinate_rounding.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "compensated_sweep.hpp"
#include "pare/core/error.hpp"
#include "pare/numerics/fake_quantize.hpp"

PARE_NAMESPACE_BEGIN

namespace {

/// A row's integers, their scale, and what is left: `H (s q - w)`.
class Row {
 public:
  Row(const float* weight, const float* hessian, std::int64_t features, const IntegerGrid& grid)
      : weight_(weight),
        hessian_(hessian),
        features_(features),
        low_(static_cast<float>(grid.min)),
        high_(static_cast<float>(grid.max)),
        slope_(static_cast<std::size_t>(features)) {}

  /// @param integers `[features]`, changed in place @return the scale
  float improve(float* integers, float scale, int turns, int sweeps) {
    for (int turn = 0; turn < turns; ++turn) {
      renew(integers, scale);
      bool moved = false;
      for (int sweep = 0; sweep < sweeps && descend(integers, scale); ++sweep) moved = true;
      const float fitted = fit(integers, scale);
      const bool settled = !moved && std::abs(fitted - scale) <= 1e-4F * scale;
      scale = fitted;
      if (settled) break;
    }
    return scale;
  }

 private:
  void renew(const float* integers, float scale) {
    std::ranges::fill(slope_, 0.0F);
    for (std::int64_t k = 0; k < features_; ++k) add(k, integers[k] * scale - weight_[k]);
  }

  void add(std::int64_t feature, float amount) {
    if (amount == 0.0F) return;
    const auto* row = hessian_ + feature * features_;
    auto* slope = slope_.data();
    for (std::int64_t j = 0; j < features_; ++j) slope[j] += amount * row[j];
  }

  // One pass over the integers. @return whether any moved
  bool descend(float* integers, float scale) {
    bool moved = false;
    for (std::int64_t k = 0; k < features_; ++k) {
      const float curvature = hessian_[k * features_ + k] * scale;
      if (weight_[k] == 0.0F || curvature <= 0.0F) continue;
      // A hair's breadth short of half: an integer that gains nothing by moving stays.
      const float step = -slope_[static_cast<std::size_t>(k)] / curvature;
      if (std::abs(step) <= 0.5001F) continue;
      const float target = std::clamp(integers[k] + std::nearbyint(step), low_, high_);
      if (target == integers[k]) continue;
      add(k, (target - integers[k]) * scale);
      integers[k] = target;
      moved = true;
    }
    return moved;
  }

  // The scale of least squares for these integers: q^T H w / q^T H q, from the slope H (s q - w).
  float fit(const float* integers, float scale) {
    std::vector<float> product(static_cast<std::size_t>(features_), 0.0F);
    double squared = 0.0, slope = 0.0;
    product.swap(slope_);
    for (std::int64_t k = 0; k < features_; ++k)
      slope += static_cast<double>(product[static_cast<std::size_t>(k)]) * integers[k];
    std::ranges::fill(slope_, 0.0F);
    for (std::int64_t k = 0; k < features_; ++k) add(k, integers[k]);
    for (std::int64_t k = 0; k < features_; ++k)
      squared += static_cast<double>(slope_[static_cast<std::size_t>(k)]) * integers[k];
    if (!(squared > 0.0)) return scale;
    const auto fitted = static_cast<float>(scale - slope / squared);
    return fitted > 0.0F && std::isfinite(fitted) ? fitted : scale;
  }

  const float* weight_;
  const float* hessian_;
  std::int64_t features_;
  float low_, high_;
  std::vector<float> slope_;
};

// The start: rows rounded with compensation at every candidate scale, and the best of each row.
struct Start {
  at::Tensor integers;  // [rows, features] float
  at::Tensor scale;     // [rows]
};

Start best_start(const CoordinateRounding& options, const at::Tensor& weight, const at::Tensor& hessian,
                 const at::Tensor& damped, const IntegerGrid& grid) {
  const auto rows = weight.size(0), features = weight.size(1), count = static_cast<std::int64_t>(options.candidates);
  const auto largest = std::get<0>(weight.abs().max(1)).div(static_cast<double>(grid.max));
  const auto whole = at::where(largest > 1e-30, largest, at::ones_like(largest));
  const auto shares = at::linspace(1.0, count > 1 ? options.smallest : 1.0, count);
  const auto scales = (shares.unsqueeze(1) * whole.unsqueeze(0)).contiguous();  // [candidates, rows]
  const auto tiled = weight.unsqueeze(0).expand({count, rows, features}).reshape({count * rows, features});
  const auto* scale = scales.data_ptr<float>();
  const auto* original = weight.data_ptr<float>();
  const auto low = static_cast<float>(grid.min), high = static_cast<float>(grid.max);
  const auto rounded =
      compensated_sweep(tiled, prepare_sweep(hessian, options.damping, /*largest_first=*/true), options.block,
                        [&](float value, std::int64_t feature, std::int64_t row) {
                          if (original[row % rows * features + feature] == 0.0F) return 0.0F;
                          return std::clamp(std::nearbyint(value / scale[row]), low, high) * scale[row];
                        });
  const auto error = rounded - tiled;
  const auto loss = (at::mm(error, damped) * error).sum(1).view({count, rows});
  const auto best = loss.argmin(0, true);  // [1, rows]
  Start start;
  start.scale = scales.gather(0, best).squeeze(0).contiguous();
  start.integers = rounded.view({count, rows, features})
                       .gather(0, best.unsqueeze(2).expand({1, rows, features}))
                       .squeeze(0)
                       .div(start.scale.unsqueeze(1))
                       .round()
                       .contiguous();
  return start;
}

}  // namespace

CoordinateRounding::Result CoordinateRounding::operator()(const at::Tensor& weight, const at::Tensor& hessian,
                                                          const IntegerGrid& grid) const {
  if (weight.dim() != 2 || hessian.dim() != 2 || hessian.size(0) != weight.size(1) ||
      hessian.size(1) != weight.size(1) || !grid.symmetric || candidates < 1 || turns < 0)
    fail("pare.numerics.105", "", "weight {} with hessian {}, {} candidates", weight.dim(), hessian.dim(), candidates);
  (void)finite_extrema(weight);
  (void)finite_extrema(hessian);
  const auto rows = weight.detach().to(at::kCPU, at::kFloat).contiguous();
  const auto count = rows.size(0), features = rows.size(1);
  if (rows.numel() == 0) return {rows.clone(), at::ones({count})};
  const auto exact = hessian.to(at::kCPU, at::kDouble);
  auto damped = exact.clone();
  damped.diagonal().add_(damping * damped.diagonal().mean().item<double>());
  damped = damped.to(at::kFloat).contiguous();
  auto [integers, scale] = best_start(*this, rows, exact, damped, grid);
  at::parallel_for(0, count, 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto r = begin; r < end; ++r) {
      Row row(rows.data_ptr<float>() + r * features, damped.data_ptr<float>(), features, grid);
      auto& one = scale.data_ptr<float>()[r];
      one = row.improve(integers.data_ptr<float>() + r * features, one, turns, sweeps);
    }
  });
  return {(integers * scale.unsqueeze(1)).to(weight.device()), scale.to(weight.device())};
}

PARE_NAMESPACE_END
