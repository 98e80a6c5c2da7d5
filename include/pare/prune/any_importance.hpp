#pragma once

#include <concepts>
#include <functional>
#include <optional>
#include <utility>

#include "pare/prune/slice_view.hpp"

PARE_NAMESPACE_BEGIN

/// A criterion: any type that scores the units of one slice, higher for what must stay.
///
///     struct LargestWeight {
///       at::Tensor operator()(const pare::SliceView& view) const { return view.weight.abs().amax(1); }
///     };
///
/// It may ask for gradients or activations (`static constexpr auto kNeed = pare::Need::Gradient;`) and may turn a
/// group's aggregated scores into comparable ones (`at::Tensor normalize(const at::Tensor&) const`).
template <class I>
concept ImportanceType = requires(const I& importance, const SliceView& view) {
  { importance(view) } -> std::convertible_to<at::Tensor>;
};

/// A criterion of any type, behind one type.
struct AnyImportance {
  std::function<at::Tensor(const SliceView&)> score;
  std::function<at::Tensor(const at::Tensor&)> normalize = {};  ///< empty: scores are divided by their group's mean
  Need need = Need::Weights;
  std::optional<double> eliminates = {};  ///< units go one by one, refitting the rest: the damping

  template <class I>
  static AnyImportance of(const I& importance) {
    static_assert(ImportanceType<I>,
                  "pare: an importance must be callable as `at::Tensor operator()(const pare::SliceView&) const`");
    AnyImportance any{[importance](const SliceView& view) { return importance(view); }};
    if constexpr (requires { I::kNeed; }) any.need = I::kNeed;
    if constexpr (requires { I::kEliminates; }) any.eliminates = importance.damping;
    if constexpr (requires(const at::Tensor& scores) { importance.normalize(scores); })
      any.normalize = [importance](const at::Tensor& scores) { return importance.normalize(scores); };
    return any;
  }
};

PARE_NAMESPACE_END
