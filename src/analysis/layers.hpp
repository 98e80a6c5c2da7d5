#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "tag_table.hpp"

PARE_NAMESPACE_BEGIN

/// What the tags of a value are: int64 tensors of its shape. An activation has one layer, a weight one for each axis.
/// Element -1 has no tag. Axes along which a layer does not vary have stride 0, so that a layer costs as much as it has
/// tags, not as the value has elements.
struct Tagged {
  std::vector<std::int64_t> sizes;
  std::vector<at::Tensor> layers;
  [[nodiscard]] std::int64_t rank() const { return static_cast<std::int64_t>(sizes.size()); }
  [[nodiscard]] bool empty() const { return layers.empty(); }
};

/// Gives every axis along which a layer does not vary the stride 0.
at::Tensor normalized(const at::Tensor& layer);
/// Whether a normalized layer varies along an axis.
bool varies(const at::Tensor& layer, std::int64_t axis);
/// The axes along which a normalized layer varies.
std::vector<std::int64_t> varying_axes(const at::Tensor& layer);
/// The layer with axes of stride 0 cut to one entry, contiguous.
at::Tensor compressed(const at::Tensor& layer);
/// A layer that varies along one axis only: its tags along that axis.
std::vector<std::int64_t> tags_along(const at::Tensor& layer, std::int64_t axis);
/// Tags laid along one axis of a shape.
at::Tensor laid_along(const std::vector<std::int64_t>& tags, std::int64_t axis, const std::vector<std::int64_t>& sizes);
/// The layer at one index of an axis, for all indices of another size.
at::Tensor stretched(const at::Tensor& layer, std::int64_t axis, std::int64_t size);
/// Layers one after the other along an axis. Axes that none of them varies along cost nothing.
at::Tensor joined(std::vector<at::Tensor> layers, std::int64_t axis);
/// The layer as its representatives.
at::Tensor canonical(const at::Tensor& layer, const TagTable& tags);

PARE_NAMESPACE_END
