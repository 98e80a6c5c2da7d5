#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// One selection along one axis of a tensor: what a structural edit kept.
struct Narrowing {
  std::int64_t dim = 0;            ///< axis, counted from the front
  std::vector<std::int64_t> kept;  ///< indices along that axis, in their new order, relative to the tensor before
  friend bool operator==(const Narrowing&, const Narrowing&) = default;
};

/// One tensor of a model's weight table.
struct Weight {
  at::Tensor tensor;                 ///< the live module's own tensor until it is written
  bool is_parameter = false;         ///< parameter (trained) or buffer / constant
  std::vector<std::string> aliases;  ///< further paths under which the module registers this same tensor (tied weights)
  /// Every selection since the tensor was captured, oldest first (`Rewriter::narrow`): replayed in this order on the
  /// live parameter, its gradient and an optimizer's moments they leave the shape that `tensor` has.
  std::vector<Narrowing> narrowings = {};
};

/// Path → tensor. Copies share tensors; writing one replaces the entry, so the live module and other copies keep
/// theirs.
class Weights : public std::map<std::string, Weight, std::less<>> {
 public:
  using std::map<std::string, Weight, std::less<>>::map;

  /// The selections recorded for the tensor at `path` or one of its aliases, oldest first; empty for a path that is
  /// not there.
  [[nodiscard]] const std::vector<Narrowing>& narrowings(std::string_view path) const;
};

PARE_NAMESPACE_END
