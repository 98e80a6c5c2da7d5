#include "pare/numerics/fake_quantize.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

QParams choose_qparams(Range range, const IntegerGrid& grid) {
  constexpr auto kLargest = static_cast<double>(std::numeric_limits<float>::max());
  if (!(range.low >= -kLargest && range.high <= kLargest && range.low <= range.high))
    fail("pare.numerics.102", "", "cannot quantize the range [{}, {}]", range.low, range.high);
  const double low = std::min(range.low, 0.0);
  const double high = std::max(range.high, 0.0);
  QParams result{1.0, grid.symmetric ? 0 : grid.min, grid.min, grid.max};
  if (low == 0.0 && high == 0.0) return result;
  // Divisions by a scale below float's normal range would overflow in kernels.
  constexpr auto kSmallest = static_cast<double>(std::numeric_limits<float>::min());
  if (grid.symmetric) {
    const double by_low = grid.min < 0 ? -low / static_cast<double>(-grid.min) : 0.0;
    const double by_high = high / static_cast<double>(grid.max);
    result.scale = static_cast<double>(static_cast<float>(std::max({by_low, by_high, kSmallest})));
    return result;
  }
  result.scale = std::max((high - low) / static_cast<double>(grid.steps()), kSmallest);
  result.scale = static_cast<double>(static_cast<float>(result.scale));
  const auto zero = grid.min + std::llround(-low / result.scale);
  result.zero_point = std::clamp<std::int64_t>(zero, grid.min, grid.max);
  return result;
}

RowQParams choose_row_qparams(const at::Tensor& low, const at::Tensor& high, const IntegerGrid& grid) {
  const auto rows = low.size(0);
  RowQParams result{at::empty({rows}, at::kFloat), at::empty({rows}, at::kInt)};
  const auto low_values = low.to(at::kCPU, at::kDouble).contiguous();
  const auto high_values = high.to(at::kCPU, at::kDouble).contiguous();
  for (std::int64_t row = 0; row < rows; ++row) {
    const auto chosen = choose_qparams({low_values.data_ptr<double>()[row], high_values.data_ptr<double>()[row]}, grid);
    result.scale.data_ptr<float>()[row] = static_cast<float>(chosen.scale);
    result.zero_point.data_ptr<int>()[row] = static_cast<int>(chosen.zero_point);
  }
  return result;
}

at::Tensor fake_quantize(const at::Tensor& values, const QParams& qparams) {
  return at::fake_quantize_per_tensor_affine(values, qparams.scale, qparams.zero_point, qparams.quant_min,
                                             qparams.quant_max);
}

at::Tensor fake_quantize(const at::Tensor& rows, const RowQParams& qparams, const IntegerGrid& grid) {
  return at::fake_quantize_per_channel_affine(rows, qparams.scale.to(rows.device()),
                                              qparams.zero_point.to(rows.device()), 0, grid.min, grid.max);
}

Range finite_extrema(const at::Tensor& values) {
  if (values.numel() == 0) return {};
  if (values.is_complex()) fail("pare.numerics.101", "", "complex numbers have no range to quantize");
  const auto [low, high] = at::aminmax(values.detach());
  const Range range{low.item<double>(), high.item<double>()};
  if (!std::isfinite(range.low) || !std::isfinite(range.high))
    fail("pare.numerics.101", "", "a value is {}; quantization needs finite values",
         std::isnan(range.low) || std::isnan(range.high) ? "NaN" : "infinite");
  return range;
}

double sqnr_db(const at::Tensor& reference, const at::Tensor& approximation) {
  const auto exact = reference.detach().to(at::kDouble);
  const auto signal = exact.square().sum().item<double>();
  const auto noise = (exact - approximation.detach().to(at::kDouble)).square().sum().item<double>();
  if (noise == 0.0) return std::numeric_limits<double>::infinity();
  return 10.0 * std::log10(signal / noise);
}

PARE_NAMESPACE_END
