#include "graph/sampled_windows.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

PARE_NAMESPACE_BEGIN

namespace {

constexpr std::int64_t kOutside = std::numeric_limits<std::int64_t>::min();  // a tap in the padding
constexpr std::int64_t kTogether = 64;  // positions copied together: their rows stay in the cache

std::int64_t positions_along(const MatrixForm& form, const at::Tensor& input, std::size_t axis) {
  const auto extent = form.dilation[axis] * (form.kernel[axis] - 1) + 1;
  const auto size = input.size(static_cast<std::int64_t>(axis) + 2);
  return (size + 2 * form.padding[axis] - extent) / form.stride[axis] + 1;
}

// Rows of the kernel that lie in memory as they are.
template <std::size_t length>
void copy_runs(const float* from, const std::int64_t* offsets, std::size_t taps, float* row) {
  for (std::size_t t = 0; t < taps; t += length) std::memcpy(row + t, from + offsets[t], length * sizeof(float));
}

}  // namespace

std::int64_t sample_stride(std::int64_t positions, std::int64_t limit, std::size_t dims) {
  const double excess = static_cast<double>(positions) / static_cast<double>(std::max<std::int64_t>(limit, 1));
  return static_cast<std::int64_t>(std::ceil(std::pow(std::max(excess, 1.0), 1.0 / static_cast<double>(dims))));
}

SampledWindows::SampledWindows(const MatrixForm& form, const at::Tensor& input, std::int64_t limit)
    : input_(input.detach().to(at::kCPU, at::kFloat)),
      channels_(input.size(1) / form.groups),
      run_(static_cast<std::size_t>(form.kernel.back())),
      offsets_{0} {
  const auto dims = form.kernel.size();
  auto positions = input_.size(0);
  for (std::size_t i = 0; i < dims; ++i) positions *= positions_along(form, input_, i);
  const auto step = sample_stride(positions, limit, dims);
  for (std::size_t i = 0; i < dims; ++i) append_axis(form, i, step);
  find_runs();
}

// Positions along one more axis, and its taps in each.
void SampledWindows::append_axis(const MatrixForm& form, std::size_t axis, std::int64_t step) {
  const auto size = input_.size(static_cast<std::int64_t>(axis) + 2),
             stride = input_.stride(static_cast<std::int64_t>(axis) + 2);
  const auto count = positions_along(form, input_, axis);
  std::vector<std::int64_t> offsets;
  for (std::size_t position = 0; position < offsets_.size(); position += taps_)
    for (auto at = step > 1 ? std::min(step / 2, count - 1) : 0; at < count; at += step)
      for (std::size_t tap = position; tap < position + taps_; ++tap)
        for (std::int64_t k = 0; k < form.kernel[axis]; ++k) {
          const auto place = at * form.stride[axis] - form.padding[axis] + k * form.dilation[axis];
          const bool inside = offsets_[tap] != kOutside && place >= 0 && place < size;
          offsets.push_back(inside ? offsets_[tap] + place * stride : kOutside);
        }
  offsets_ = std::move(offsets);
  taps_ *= static_cast<std::size_t>(form.kernel[axis]);
}

void SampledWindows::find_runs() {
  for (std::size_t first = 0; first < offsets_.size(); first += taps_) {
    bool all = true;
    for (std::size_t t = 0; t < taps_; ++t) {
      const auto offset = offsets_[first + t];
      all = all && offset != kOutside && (t % run_ == 0 || offset == offsets_[first + t - 1] + 1);
    }
    in_runs_.push_back(all);
  }
}

void SampledWindows::copy(const float* from, std::size_t position, float* row) const {
  const auto* offsets = offsets_.data() + position * taps_;
  if (in_runs_[position] && run_ == 3) return copy_runs<3>(from, offsets, taps_, row);
  if (in_runs_[position] && run_ == 5) return copy_runs<5>(from, offsets, taps_, row);
  for (std::size_t t = 0; t < taps_; ++t) row[t] = offsets[t] == kOutside ? 0.0F : from[offsets[t]];
}

at::Tensor SampledWindows::of_groups(std::int64_t first, std::int64_t count) const {
  const auto positions = std::ssize(in_runs_), images = input_.size(0);
  const auto features = channels_ * static_cast<std::int64_t>(taps_);
  auto result = at::empty({count, images * positions, features}, input_.options());
  const auto* from = input_.const_data_ptr<float>();
  auto* to = result.mutable_data_ptr<float>();
  const auto blocks = (positions + kTogether - 1) / kTogether;
  at::parallel_for(0, images * blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto task = begin; task < end; ++task) {
      const auto image = task / blocks, start = task % blocks * kTogether;
      for (std::int64_t channel = 0; channel < count * channels_; ++channel) {
        const auto* plane = from + image * input_.stride(0) + (first * channels_ + channel) * input_.stride(1);
        auto* row = to + (channel / channels_ * images * positions + image * positions + start) * features +
                    channel % channels_ * static_cast<std::int64_t>(taps_);
        for (auto p = start; p < std::min(start + kTogether, positions); ++p, row += features)
          copy(plane, static_cast<std::size_t>(p), row);
      }
    }
  });
  return result;
}

PARE_NAMESPACE_END
