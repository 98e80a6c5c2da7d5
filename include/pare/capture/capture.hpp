#pragma once

#include <torch/nn/module.h>

#include <functional>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "pare/capture/capture_options.hpp"
#include "pare/capture/structure.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// A forward over flat tensors: what capture runs.
using FlatForward = std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>&)>;
/// The same for any module of one type: what `commit` runs again.
using ModuleForward = std::function<std::vector<at::Tensor>(torch::nn::Module&, const std::vector<at::Tensor>&)>;

/// The compiled part of `capture`. The Model keeps `forward` and the example for `commit`.
Model capture_module(torch::nn::Module& module, const ModuleForward& forward, const std::vector<at::Tensor>& example,
                     const CaptureOptions& options = {});

/// For a forward that is not a member function. The Model keeps `forward`, so what it refers to must live for as long
/// as the Model is committed.
Model capture_forward(torch::nn::Module& module, const FlatForward& forward, const std::vector<at::Tensor>& example,
                      const CaptureOptions& options = {});

namespace detail {

template <class Net>
auto& module_of(Net& net) {
  if constexpr (std::is_base_of_v<torch::nn::Module, Net>) {
    return net;
  } else {
    return *net;  // a module holder or a shared_ptr
  }
}

template <class T>
struct AsArguments {
  static std::tuple<T> of(const T& example) { return {example}; }
};
template <class... Ts>
struct AsArguments<std::tuple<Ts...>> {
  static std::tuple<Ts...> of(const std::tuple<Ts...>& example) { return example; }
};

}  // namespace detail

/// Captures a module's forward as a `Model`, by running it on an example and watching the dispatcher. Nothing in `net`
/// changes: training flags, buffers, other tensors that the forward writes to and the random state are put back.
///
/// @param net     a module, a module holder or a `shared_ptr` to a module with a `forward`
/// @param example its input; a `std::tuple` is several arguments. Tensors may sit in optionals, vectors, tuples,
///                maps and in structs with `pare_fields`; other arguments (numbers, flags) are kept as they are
/// @return a Model whose weights are the module's own tensors, in evaluation mode
/// @throws Error `pare.capture.101` no tensor in the example, `.102` dims that do not fit it, `.103` no tensor in what
///         the forward returns, `.104` the forward threw, `.105` called inside of another capture, `.110` an allocation
///         of no single tensor, `.111` to `.113` a write that cannot be made pure, `.121` a value read out of a tensor,
///         `.131` the calls, or a value that is read, depend on the sizes, `.132` a tensor from outside the dispatcher,
///         `.133` a number that depends on sizes, `.141` the replay differs from the forward, `.142` it does so at the
///         example's own batch of 1
template <class Net, class Example>
[[nodiscard]] Model capture(Net& net, const Example& example, const CaptureOptions& options = {}) {
  auto& module = detail::module_of(net);
  using Module = std::remove_reference_t<decltype(module)>;
  const auto arguments = detail::AsArguments<Example>::of(example);
  const ModuleForward forward = [arguments](torch::nn::Module& target, const std::vector<at::Tensor>& tensors) {
    auto& concrete = dynamic_cast<Module&>(target);
    auto actual = with_tensors(arguments, tensors);
    auto result = std::apply([&](auto&... argument) { return concrete.forward(argument...); }, actual);
    return tensors_of(result);
  };
  return capture_module(module, forward, tensors_of(arguments), options);
}

PARE_NAMESPACE_END
