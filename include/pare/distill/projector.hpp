#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "pare/distill/layer_map.hpp"

PARE_NAMESPACE_BEGIN

/// A linear map between the channels of two features, or none where they agree: a 1x1 convolution on maps, a linear
/// layer on tokens and vectors.
struct Projector {
  at::Tensor weight = {};  ///< `[to, from]`, trained; undefined: features pass unchanged

  /// One that turns features like `from` into features as wide as `to`.
  /// @throws Error `pare.distill.104` when they differ in more than width and the size of the map
  static Projector between(const at::Tensor& from, const at::Tensor& to, bool always, std::uint64_t seed,
                           std::string_view path);
  [[nodiscard]] at::Tensor operator()(const at::Tensor& features) const;
};

/// The weights of those that have one.
[[nodiscard]] std::vector<at::Tensor> parameters_of(const std::vector<Projector>& projectors);

PARE_NAMESPACE_END
