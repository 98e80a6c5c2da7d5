#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <limits>

#include "core/round_to_even.hpp"
#include "pare/core/error.hpp"
#include "pare/numerics/weight_observer.hpp"

PARE_NAMESPACE_BEGIN

namespace {

// Rounds half to even for |x| < 2^22, in a form that compilers vectorise.
float nearest(float x) { return (x + kRoundsToEven) - kRoundsToEven; }

double row_error(const float* row, std::int64_t columns, const QParams& qparams) {
  const auto scale = static_cast<float>(qparams.scale);
  const float inverse = 1.0F / scale;
  const auto low = static_cast<float>(qparams.quant_min - qparams.zero_point);
  const auto high = static_cast<float>(qparams.quant_max - qparams.zero_point);
  float sum = 0.0F;
  for (std::int64_t i = 0; i < columns; ++i) {
    const float integer = std::min(std::max(nearest(row[i] * inverse), low), high);
    const float error = row[i] - integer * scale;
    sum += error * error;
  }
  return static_cast<double>(sum);
}

}  // namespace

RowQParams WeightMinMax::operator()(const at::Tensor& rows, const IntegerGrid& grid) const {
  (void)finite_extrema(rows);
  if (rows.numel() == 0) return choose_row_qparams(at::zeros({rows.size(0)}), at::zeros({rows.size(0)}), grid);
  const auto [low, high] = at::aminmax(rows.detach(), 1);
  return choose_row_qparams(low, high, grid);
}

RowQParams WeightMSE::operator()(const at::Tensor& rows, const IntegerGrid& grid) const {
  if (candidates < 1 || !(smallest > 0.0 && smallest <= 1.0))
    fail("pare.numerics.104", "", "{} candidates down to {} of the range: at least 1, and above 0 up to 1", candidates,
         smallest);
  auto result = WeightMinMax{}(rows, grid);
  const auto floats = rows.detach().to(at::kCPU, at::kFloat).contiguous();
  const auto columns = floats.size(1);
  const auto* data = floats.data_ptr<float>();
  auto* scales = result.scale.data_ptr<float>();
  auto* zero_points = result.zero_point.data_ptr<int>();
  at::parallel_for(0, floats.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto row = begin; row < end; ++row) {
      const auto* values = data + row * columns;
      const auto [low, high] = std::minmax_element(values, values + columns);
      if (low == values + columns) continue;
      double least = std::numeric_limits<double>::infinity();
      for (int step = 0; step < candidates; ++step) {
        const double share = 1.0 - (1.0 - smallest) * step / std::max(candidates - 1, 1);
        const auto qparams =
            choose_qparams({std::min<double>(*low, 0.0) * share, std::max<double>(*high, 0.0) * share}, grid);
        const double error = row_error(values, columns, qparams);
        if (error >= least) continue;
        least = error;
        scales[row] = static_cast<float>(qparams.scale);
        zero_points[row] = static_cast<int>(qparams.zero_point);
      }
    }
  });
  return result;
}

PARE_NAMESPACE_END
