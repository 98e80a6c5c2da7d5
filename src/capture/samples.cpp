#include "capture/samples.hpp"

#include <ATen/Functions.h>

#include <algorithm>

#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

// Repeats or drops rows along `dim` to reach `size`.
at::Tensor resize(const at::Tensor& tensor, std::int64_t dim, std::int64_t size) {
  if (tensor.size(dim) == size) return tensor;
  const auto rows = at::arange(size, at::TensorOptions(at::kLong).device(tensor.device())).remainder(tensor.size(dim));
  return tensor.index_select(dim, rows);
}

// The same kind of values in another order, and floating ones moved a little.
at::Tensor shuffled(const at::Tensor& tensor) {
  if (!tensor.defined() || tensor.numel() < 2) return tensor;
  auto other = tensor.flatten().roll(1).reshape(tensor.sizes());
  if (tensor.is_floating_point() && tensor.isfinite().all().item<bool>()) {
    const auto spread = tensor.to(at::kDouble).std(false).item<double>();
    const auto steps = at::arange(tensor.numel(), tensor.options().dtype(at::kDouble)).mul(0.7548776662466927);
    const auto noise = (steps - steps.floor() - 0.5).reshape(tensor.sizes());  // low-discrepancy: no random state
    other = other + (noise * (0.2 * spread + 1e-3)).to(tensor.scalar_type());
  }
  return other;
}

std::vector<VaryingDim> default_dims(const std::vector<at::Tensor>& example) {
  std::vector<VaryingDim> dims;
  for (std::size_t i = 0; i < example.size(); ++i) {
    if (!example[i].defined() || example[i].dim() == 0) continue;
    const auto size = example[i].size(0);
    const auto known = std::find_if(dims.begin(), dims.end(),
                                    [&](const VaryingDim& dim) { return example[dim.where[0].input].size(0) == size; });
    if (known != dims.end()) {
      known->where.push_back({i, 0});
    } else {
      dims.push_back({dims.empty() ? "batch" : fmt::format("batch{}", dims.size()), {{i, 0}}, 0});
    }
  }
  return dims;
}

// Two sizes that a network which halves again and again takes alike are a power of two apart that both have.
std::int64_t common_step(std::int64_t size) {
  std::int64_t step = 32;
  while (step > 1 && (size % step != 0 || size - step < 4)) step /= 2;
  return step;
}

SampledDim sampled(const VaryingDim& dim, std::int64_t size, bool is_batch) {
  // 2 and 3 for a batch: 1 would broadcast where the module does not mean it to.
  if (is_batch && dim.other_size == 0) return {dim.name, 2, 3};
  std::int64_t other = dim.other_size;
  if (other == 0) other = size > 3 ? size - common_step(size) : size + 1;
  return {dim.name, std::min(size, other), std::max(size, other)};
}

}  // namespace

Samples::Samples(std::vector<at::Tensor> example, const CaptureOptions& options) : example_(std::move(example)) {
  if (std::none_of(example_.begin(), example_.end(), [](const at::Tensor& tensor) { return tensor.defined(); }))
    fail("pare.capture.101", "", "the example holds no tensor");
  if (!options.fixed_sizes) varying_ = options.dims.empty() ? default_dims(example_) : options.dims;
  if (varying_.size() > 4)
    fail("pare.capture.102", "", "{} varying sizes are too many: name at most 4 in CaptureOptions::dims",
         varying_.size());
  for (const auto& dim : varying_) {
    std::int64_t size = -1;
    bool is_batch = true;
    for (const auto& place : dim.where) {
      if (place.input >= example_.size() || !example_[place.input].defined() || place.dim < 0 ||
          place.dim >= example_[place.input].dim())
        fail("pare.capture.102", dim.name, "the example has no dimension {} of input {}", place.dim, place.input);
      const auto actual = example_[place.input].size(place.dim);
      if (size >= 0 && actual != size)
        fail("pare.capture.102", dim.name, "the example has both {} and {} for this size", size, actual);
      size = actual;
      is_batch &= place.dim == 0;
    }
    if (size < 1) fail("pare.capture.102", dim.name, "the example is empty along this size");
    dims_.push_back(sampled(dim, size, is_batch));
    is_batch_.push_back(is_batch);
    if (dims_.back().low == dims_.back().high)
      fail("pare.capture.102", dim.name, "other_size must differ from the example's size {}", size);
    example_dims_.push_back(size);
  }
}

std::vector<at::Tensor> Samples::sized(const std::vector<std::int64_t>& sizes) const {
  auto inputs = example_;
  for (std::size_t d = 0; d < varying_.size(); ++d)
    for (const auto& place : varying_[d].where) inputs[place.input] = resize(inputs[place.input], place.dim, sizes[d]);
  return inputs;
}

std::vector<at::Tensor> Samples::at(std::size_t corner) const {
  std::vector<std::int64_t> sizes;
  for (std::size_t d = 0; d < dims_.size(); ++d) sizes.push_back(corner >> d & 1 ? dims_[d].high : dims_[d].low);
  auto inputs = sized(sizes);
  // Every corner sees values of its own, so that what is read past the dispatcher shows as a constant that changes.
  if (corner > 0)
    for (auto& input : inputs) input = shuffled(input);
  return inputs;
}

std::vector<at::Tensor> Samples::beyond(std::int64_t steps) const {
  if (std::ranges::all_of(is_batch_, [](bool batch) { return batch; })) return {};
  std::vector<std::int64_t> sizes;
  for (std::size_t d = 0; d < dims_.size(); ++d) {
    const auto& dim = dims_[d];
    const auto odd = dim.high + 1 + dim.high % 2;
    sizes.push_back(is_batch_[d] ? dim.low : steps == 0 ? odd : dim.high + steps * (dim.high - dim.low));
  }
  auto inputs = sized(sizes);
  for (auto& input : inputs) input = shuffled(input);
  return inputs;
}

std::vector<at::Tensor> Samples::fresh(std::int64_t first) const {
  std::vector<std::int64_t> sizes;
  for (std::size_t d = 0; d < dims_.size(); ++d)
    sizes.push_back(d == 0 && varying_[d].where[0].dim == 0 ? first : dims_[d].high);
  auto inputs = sized(sizes);
  for (auto& input : inputs) input = shuffled(input);
  return inputs;
}

PARE_NAMESPACE_END
