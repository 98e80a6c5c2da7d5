#pragma once

#include <cstdint>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// How a quantity moves from one value to another over the steps of a training: sparsity, a ratio of channels, a
/// temperature.
///
///     const pare::Schedule sparsity{.to = 0.9, .begin = 100, .end = 1000, .every = 50};
///     if (sparsity.due(step)) training.prune({sparsity.at(step)});
struct Schedule {
  enum class Shape : std::uint8_t {
    OneShot,   ///< `from` until `end`, then `to`
    Linear,    ///< the same amount at each step
    Cubic,     ///< fast at first, slow at the end: Zhu and Gupta, "To prune, or not to prune", 2017
    OneCycle,  ///< slow at both ends: Hubens et al., "One-Cycle Pruning", 2021
  };
  Shape shape = Shape::Cubic;
  double from = 0.0;
  double to = 1.0;
  std::int64_t begin = 0;  ///< last step at `from`
  std::int64_t end = 1;    ///< first step at `to`; after `begin`
  std::int64_t every = 1;  ///< steps from one change to the next, at least 1

  /// The value at a step, changes of `every` steps taken into account. Before `begin` it is `from`, from `end` on `to`.
  /// @throws Error as `validate`
  [[nodiscard]] double at(std::int64_t step) const;
  /// Whether the value changes at this step: at `begin`, every `every` steps after it, and at `end`.
  /// @throws Error as `validate`
  [[nodiscard]] bool due(std::int64_t step) const;
  /// @throws Error `pare.numerics.121` for steps out of order or numbers that are not finite
  void validate() const;
};

PARE_NAMESPACE_END
