#include "layers.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

PARE_NAMESPACE_BEGIN

at::Tensor normalized(const at::Tensor& layer) {
  auto result = layer;
  for (std::int64_t k = 0; k < result.dim(); ++k) {
    if (result.size(k) == 1 || result.stride(k) == 0 || result.numel() == 0) continue;
    const auto* data = result.const_data_ptr<std::int64_t>();
    if (data[0] != data[result.stride(k)] || data[0] != data[result.stride(k) * (result.size(k) - 1)]) continue;
    auto cut = result;
    for (std::int64_t other = 0; other < cut.dim(); ++other)
      if (other != k && cut.stride(other) == 0 && cut.size(other) > 1) cut = cut.narrow(other, 0, 1);
    const auto first = cut.narrow(k, 0, 1);
    if (cut.eq(first).all().item<bool>()) result = result.narrow(k, 0, 1).expand(result.sizes());
  }
  return result;
}

bool varies(const at::Tensor& layer, std::int64_t axis) { return layer.size(axis) > 1 && layer.stride(axis) != 0; }

std::vector<std::int64_t> varying_axes(const at::Tensor& layer) {
  std::vector<std::int64_t> axes;
  for (std::int64_t k = 0; k < layer.dim(); ++k)
    if (varies(layer, k)) axes.push_back(k);
  return axes;
}

at::Tensor compressed(const at::Tensor& layer) {
  auto cut = layer;
  for (std::int64_t k = 0; k < cut.dim(); ++k)
    if (cut.size(k) > 1 && cut.stride(k) == 0) cut = cut.narrow(k, 0, 1);
  return cut.contiguous();
}

std::vector<std::int64_t> tags_along(const at::Tensor& layer, std::int64_t axis) {
  const auto* data = layer.const_data_ptr<std::int64_t>();
  std::vector<std::int64_t> tags(static_cast<std::size_t>(layer.size(axis)));
  const auto stride = layer.size(axis) > 1 ? layer.stride(axis) : 0;
  for (std::size_t i = 0; i < tags.size(); ++i) tags[i] = data[static_cast<std::int64_t>(i) * stride];
  return tags;
}

at::Tensor laid_along(const std::vector<std::int64_t>& tags, std::int64_t axis,
                      const std::vector<std::int64_t>& sizes) {
  std::vector<std::int64_t> shape(sizes.size(), 1);
  shape[static_cast<std::size_t>(axis)] = static_cast<std::int64_t>(tags.size());
  return at::tensor(tags, at::kLong).view(shape).expand(sizes);
}

at::Tensor stretched(const at::Tensor& layer, std::int64_t axis, std::int64_t size) {
  auto sizes = layer.sizes().vec();
  sizes[static_cast<std::size_t>(axis)] = size;
  return layer.narrow(axis, 0, 1).expand(sizes);
}

at::Tensor joined(std::vector<at::Tensor> layers, std::int64_t axis) {
  auto sizes = layers[0].sizes().vec();
  sizes[static_cast<std::size_t>(axis)] = -1;  // as long as all together
  for (std::int64_t k = 0; k < layers[0].dim(); ++k) {
    if (k == axis || std::ranges::any_of(layers, [&](const auto& layer) { return varies(layer, k); })) continue;
    for (auto& layer : layers) layer = layer.narrow(k, 0, 1);
  }
  return at::cat(layers, axis).expand(sizes);
}

at::Tensor canonical(const at::Tensor& layer, const TagTable& tags) {
  const auto name = [&](std::int64_t tag) { return tag < 0 ? std::int64_t{-1} : tags.find(tag); };
  if (const auto axes = varying_axes(layer); axes.size() == 1) {  // nearly all are so, and most stay as they are
    auto along = tags_along(layer, axes[0]);
    bool changed = false;
    for (auto& tag : along) {
      const auto before = std::exchange(tag, name(tag));
      changed = changed || tag != before;
    }
    return normalized(changed ? laid_along(along, axes[0], layer.sizes().vec()) : layer);
  }
  const auto cut = compressed(layer);
  auto result = at::empty_like(cut);
  const auto* from = cut.const_data_ptr<std::int64_t>();
  auto* to = result.mutable_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < cut.numel(); ++i) to[i] = name(from[i]);
  return normalized(result.expand(layer.sizes()));
}

PARE_NAMESPACE_END
