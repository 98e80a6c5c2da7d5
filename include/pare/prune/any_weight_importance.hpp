#pragma once

#include <concepts>
#include <functional>
#include <string>
#include <typeinfo>

#include "pare/pass/pass.hpp"
#include "pare/prune/prunable_weight.hpp"

PARE_NAMESPACE_BEGIN

/// A criterion for single weights is any type that can be called with a `PrunableWeight` and returns a saliency of the
/// weight's shape, at least 0; the smallest go first. It says what it needs to see:
/// `static constexpr bool kNeedsInputs = true`, `kNeedsGradients`.
template <class I>
concept WeightImportance = requires(const I& importance, const PrunableWeight& layer) {
  { importance(layer) } -> std::convertible_to<at::Tensor>;
};

/// Says in our own words what is wrong with a type that is no criterion.
template <class I>
consteval void check_weight_importance() {
  static_assert(WeightImportance<I>,
                "pare: a criterion for weights must be callable as `at::Tensor operator()(const pare::PrunableWeight&) "
                "const` and return a saliency for each weight");
}

/// A criterion of any type, behind one type.
struct AnyWeightImportance {
  std::function<at::Tensor(const PrunableWeight&)> saliency;
  std::string name;
  bool needs_inputs = false;
  bool needs_gradients = false;

  template <class I>
  static AnyWeightImportance of(const I& importance) {
    check_weight_importance<I>();
    AnyWeightImportance any;
    if constexpr (WeightImportance<I>) any.saliency = importance;
    any.name = pass_name(typeid(I));
    if constexpr (requires { I::kNeedsInputs; }) any.needs_inputs = I::kNeedsInputs;
    if constexpr (requires { I::kNeedsGradients; }) any.needs_gradients = I::kNeedsGradients;
    return any;
  }
};

PARE_NAMESPACE_END
