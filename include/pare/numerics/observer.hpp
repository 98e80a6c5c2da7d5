#pragma once

#include <ATen/core/Tensor.h>

#include <concepts>

#include "pare/core/qparams.hpp"

PARE_NAMESPACE_BEGIN

/// Watches the values of one tensor over many batches and says which range to quantize.
///
/// An observer is a value: a policy is a fresh one, copied for every tensor watched. Its memory does not grow with the
/// number of batches, and observers of disjoint batches can be merged.
///
///     struct MyObserver {
///       void observe(const at::Tensor& values);              // throws Error pare.numerics.101 on NaN or infinities
///       void merge(const MyObserver& other);                  // as if it had seen the other's batches too
///       bool empty() const;                                   // nothing seen yet
///       pare::Range range(const pare::IntegerGrid& grid) const;  // within what was seen, of which there is some
///     };
template <class O>
concept ObserverType = std::copyable<O> &&
    requires(O& observer, const O& seen, const at::Tensor& values, const IntegerGrid& grid) {
  observer.observe(values);
  observer.merge(seen);
  { seen.empty() } -> std::convertible_to<bool>;
  { seen.range(grid) } -> std::convertible_to<Range>;
};

/// Says in our own words what is missing from a type that is not an activation observer.
template <class O>
consteval void check_observer() {
  static_assert(std::copyable<O>, "pare: an observer must be copyable: it is the prototype for every tensor watched");
  static_assert(
      requires(O & o, const at::Tensor& t) { o.observe(t); },
      "pare: an observer needs `void observe(const at::Tensor& values)`");
  static_assert(
      requires(O & o, const O& other) { o.merge(other); },
      "pare: an observer needs `void merge(const Observer& other)`");
  static_assert(
      requires(const O& o) {
        { o.empty() } -> std::convertible_to<bool>;
      },
      "pare: an observer needs `bool empty() const`");
  static_assert(
      requires(const O& o, const IntegerGrid& g) {
        { o.range(g) } -> std::convertible_to<Range>;
      },
      "pare: an observer needs `pare::Range range(const pare::IntegerGrid& grid) const`");
}

PARE_NAMESPACE_END
