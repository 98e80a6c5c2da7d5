#include "pare/numerics/compensated_rounding.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "compensated_sweep.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

// One weight's integer and back.
struct Rounder {
  const float* scale;
  const int* zero_point;
  float low, high;
  float operator()(float value, std::int64_t at) const {
    const auto zero = static_cast<float>(zero_point[at]);
    const float integer = std::clamp(std::nearbyint(value / scale[at]) + zero, low, high);
    return (integer - zero) * scale[at];
  }
};

}  // namespace

at::Tensor CompensatedRounding::operator()(const at::Tensor& weight, const at::Tensor& hessian, const at::Tensor& scale,
                                           const at::Tensor& zero_point, const IntegerGrid& grid) const {
  const auto rows = weight.size(0);
  const auto features = weight.size(1);
  if (hessian.dim() != 2 || hessian.size(0) != features || hessian.size(1) != features || scale.dim() != 2 ||
      scale.size(0) != rows || scale.size(1) == 0 || features % scale.size(1) != 0 ||
      zero_point.sizes() != scale.sizes())
    fail("pare.numerics.105", "", "weight [{}, {}] does not fit its hessian or its scales", rows, features);
  const auto per_group = features / scale.size(1);
  const auto scales = scale.t().cpu().contiguous();  // [groups, rows]
  const auto zeros = zero_point.t().to(at::kCPU, at::kInt).contiguous();
  const Rounder round{scales.data_ptr<float>(), zeros.data_ptr<int>(), static_cast<float>(grid.min),
                      static_cast<float>(grid.max)};

  const auto original = weight.detach().to(at::kCPU, at::kFloat).contiguous();
  const auto* pruned = original.data_ptr<float>();
  return compensated_sweep(original, prepare_sweep(hessian, damping, largest_first), block,
                           [&](float value, std::int64_t feature, std::int64_t row) {
                             if (pruned[row * features + feature] == 0.0F) return 0.0F;  // stays pruned
                             return round(value, feature / per_group * rows + row);
                           })
      .to(weight.device());
}

PARE_NAMESPACE_END
