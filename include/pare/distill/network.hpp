#pragma once

#include <torch/nn/module.h>

#include <concepts>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "pare/capture/capture.hpp"
#include "pare/core/batches.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// Either side of a distillation: a Model, a module with its own forward, or anything callable. Cheap to copy.
///
///     pare::Network teacher = model;                                       // a Model: shares its tensors
///     pare::Network teacher = net;                                         // a module, holder or shared_ptr
///     pare::Network teacher{net, [&](const pare::Batch& x) { … }};         // a module whose forward is another
///     pare::Network teacher = [](const pare::Batch& x) { return outputs; };  // a service: outputs, no features
///
/// A module given by reference must outlive the Network. Its forward takes one to four tensors and returns whatever
/// `capture` understands.
class Network {
 public:
  using Forward = std::function<std::vector<at::Tensor>(const Batch& inputs)>;

  /// Nothing: a network that is still to be given.
  Network() = default;
  Network(Model model) : model_(std::make_shared<Model>(std::move(model))) {}  // NOLINT(google-explicit-constructor)
  Network(torch::nn::Module& module, Forward forward) : forward_(std::move(forward)), module_(&module) {}
  template <class T>
  requires(!std::same_as<std::remove_cvref_t<T>, Network> && !std::same_as<std::remove_cvref_t<T>, Model>)
      Network(T&& net) {  // NOLINT(google-explicit-constructor): a net is a network
    using Plain = std::remove_cvref_t<T>;
    if constexpr (std::is_base_of_v<torch::nn::Module, Plain>) {
      static_assert(std::is_lvalue_reference_v<T>, "pare: a module is kept by reference: give one that has a name");
      bind(net);
    } else if constexpr (requires { net->parameters(); }) {  // before callables: a holder seems to take any arguments
      owner_ = std::make_shared<Plain>(net);
      bind(*net);
    } else {
      static_assert(std::is_invocable_r_v<std::vector<at::Tensor>, Plain&, const Batch&>,
                    "pare: a network is a Model, a module (or holder, or shared_ptr), or a callable "
                    "`std::vector<at::Tensor>(const pare::Batch&)`");
      forward_ = std::forward<T>(net);
    }
  }
  /// A Model that goes on being edited and trained: followed, not copied. It must outlive the Network.
  static Network following(Model& model) {
    Network network;
    network.model_ = std::shared_ptr<Model>(std::shared_ptr<void>(), &model);
    return network;
  }

  [[nodiscard]] explicit operator bool() const noexcept { return model_ || forward_; }
  /// The Model, or null.
  [[nodiscard]] Model* model() const noexcept { return model_.get(); }
  /// The live module, or null.
  [[nodiscard]] torch::nn::Module* module() const noexcept { return module_; }
  /// Runs in the mode it is in, under the caller's grad mode. `tap` sees the values of a Model.
  [[nodiscard]] std::vector<at::Tensor> run(const Batch& inputs, const Tap& tap = {}) const;
  /// Every path whose features can be asked for: modules, and for a Model its layer names too.
  [[nodiscard]] std::vector<std::string> paths() const;
  [[nodiscard]] std::vector<std::pair<std::string, at::Tensor>> named_parameters() const;

  /// Evaluation mode for a scope, which the Network must outlive; every module gets its own flag back.
  class Evaluation {
   public:
    explicit Evaluation(const Network& network);
    ~Evaluation();
    Evaluation(const Evaluation&) = delete;
    Evaluation& operator=(const Evaluation&) = delete;

   private:
    std::shared_ptr<Model> model_;
    torch::nn::Module* module_;
    std::vector<std::pair<std::shared_ptr<torch::nn::Module>, bool>> modules_;
    bool training_ = false;
  };

 private:
  template <class Net>
  void bind(Net& net) {
    module_ = &net;
    forward_ = [&net](const Batch& inputs) {
      const auto call = [&](const auto&... tensors) -> std::vector<at::Tensor> {
        if constexpr (requires { net.forward(tensors...); }) {
          auto result = net.forward(tensors...);
          return tensors_of(result);
        } else {
          fail("pare.distill.107", "", "the module's forward does not take {} tensors: give Network{{net, forward}}",
               sizeof...(tensors));
        }
      };
      switch (inputs.size()) {
        case 1:
          return call(inputs[0]);
        case 2:
          return call(inputs[0], inputs[1]);
        case 3:
          return call(inputs[0], inputs[1], inputs[2]);
        case 4:
          return call(inputs[0], inputs[1], inputs[2], inputs[3]);
        default:
          fail("pare.distill.107", "", "{} inputs: give Network{{net, forward}}", inputs.size());
      }
    };
  }

  std::shared_ptr<Model> model_;
  Forward forward_;
  torch::nn::Module* module_ = nullptr;
  std::shared_ptr<void> owner_;  // keeps `module_` alive where it came in a holder
};

PARE_NAMESPACE_END
