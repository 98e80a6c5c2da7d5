#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// A user's struct that opens its tensors to capture: beside the struct, in its namespace, write
/// `auto pare_fields(Detection& d) { return std::tie(d.boxes, d.scores); }`.
template <class T>
concept HasFields = requires(T& value) {
  pare_fields(value);
};

/// Calls `visit(at::Tensor&)` for every tensor inside a value: a tensor, an optional, pair, tuple, array, vector or map
/// of such, or a struct with `pare_fields`. Everything else (numbers, flags, strings) is left alone.
template <class T, class Visit>
void each_tensor(T& value, Visit&& visit);

namespace detail {

template <class T>
struct EachTensor {
  template <class Visit>
  static void apply(T& value, Visit&& visit) {
    if constexpr (std::is_same_v<T, at::Tensor>) {
      visit(value);
    } else if constexpr (HasFields<T>) {
      auto fields = pare_fields(value);
      each_tensor(fields, visit);
    }
  }
};

template <class T>
struct EachTensor<std::optional<T>> {
  template <class Visit>
  static void apply(std::optional<T>& value, Visit&& visit) {
    if (value) each_tensor(*value, visit);
  }
};

template <class... Ts>
struct EachTensor<std::tuple<Ts...>> {
  template <class Visit>
  static void apply(std::tuple<Ts...>& value, Visit&& visit) {
    std::apply([&](auto&... fields) { (each_tensor(fields, visit), ...); }, value);
  }
};

template <class A, class B>
struct EachTensor<std::pair<A, B>> {
  template <class Visit>
  static void apply(std::pair<A, B>& value, Visit&& visit) {
    each_tensor(value.first, visit);
    each_tensor(value.second, visit);
  }
};

template <class T, class A>
struct EachTensor<std::vector<T, A>> {
  template <class Visit>
  static void apply(std::vector<T, A>& value, Visit&& visit) {
    if constexpr (!std::is_same_v<T, bool>)
      for (auto& entry : value) each_tensor(entry, visit);
  }
};

template <class T, std::size_t N>
struct EachTensor<std::array<T, N>> {
  template <class Visit>
  static void apply(std::array<T, N>& value, Visit&& visit) {
    for (auto& entry : value) each_tensor(entry, visit);
  }
};

template <class K, class T, class C, class A>
struct EachTensor<std::map<K, T, C, A>> {
  template <class Visit>
  static void apply(std::map<K, T, C, A>& value, Visit&& visit) {
    for (auto& [key, entry] : value) each_tensor(entry, visit);
  }
};

}  // namespace detail

template <class T, class Visit>
void each_tensor(T& value, Visit&& visit) {
  detail::EachTensor<std::remove_cv_t<T>>::apply(value, visit);
}

/// The tensors inside a value, in order; undefined tensors (absent optional inputs) are kept.
template <class T>
[[nodiscard]] std::vector<at::Tensor> tensors_of(const T& value) {
  std::vector<at::Tensor> tensors;
  each_tensor(const_cast<T&>(value), [&](const at::Tensor& tensor) { tensors.push_back(tensor); });
  return tensors;
}

/// A copy of `prototype` with its tensors replaced, in order: the inverse of `tensors_of`.
/// @pre `tensors` has as many entries as `tensors_of(prototype)`.
template <class T>
[[nodiscard]] T with_tensors(const T& prototype, const std::vector<at::Tensor>& tensors) {
  T value = prototype;
  std::size_t position = 0;
  each_tensor(value, [&](at::Tensor& tensor) { tensor = tensors.at(position++); });
  return value;
}

PARE_NAMESPACE_END
