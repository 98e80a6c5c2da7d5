#pragma once

#include <concepts>

#include "pare/numerics/fake_quantize.hpp"

PARE_NAMESPACE_BEGIN

/// Chooses scales for the rows of a weight matrix. What a row is, granularity says (`granularity.hpp`).
template <class O>
concept WeightObserverType = std::copyable<O> &&
    requires(const O& observer, const at::Tensor& rows, const IntegerGrid& grid) {
  { observer(rows, grid) } -> std::same_as<RowQParams>;
};

/// Says in our own words what is missing from a type that is not a weight observer.
template <class O>
consteval void check_weight_observer() {
  static_assert(
      WeightObserverType<O>,
      "pare: a weight observer must be copyable and have `pare::RowQParams operator()(const at::Tensor& rows, "
      "const pare::IntegerGrid& grid) const`");
}

/// The extremes of each row: `[rows, columns] -> scale [rows]`. Nothing saturates.
struct WeightMinMax {
  /// @throws Error `pare.numerics.101` for NaN or infinities
  [[nodiscard]] RowQParams operator()(const at::Tensor& rows, const IntegerGrid& grid) const;
};

/// The range of least squared error of each row, among ranges shrunk in `candidates` steps down to `smallest`:
/// `[rows, columns] -> scale [rows]`.
struct WeightMSE {
  int candidates = 32;     ///< at least 1
  double smallest = 0.55;  ///< in (0, 1]
  /// @throws Error `pare.numerics.101` for NaN or infinities, `.104` an option out of range
  [[nodiscard]] RowQParams operator()(const at::Tensor& rows, const IntegerGrid& grid) const;
};

PARE_NAMESPACE_END
