#pragma once

#include <torch/nn/module.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// Which weights are kept, by the parameter's path: bool tensors in the weights' shapes. Zeros in the weights are the
/// masks, so nothing has to be stored beside a checkpoint.
class Masks {
 public:
  using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

  Masks() = default;
  /// The masks of the parameters that carry zeros.
  /// @param at_least share of zeros below which a parameter counts as dense
  static Masks of(const NamedTensors& parameters, double at_least = 0.01);
  static Masks of(const Model& model, double at_least = 0.01) { return of(model.named_parameters(), at_least); }
  static Masks of(const torch::nn::Module& module, double at_least = 0.01) {
    return of(named_parameters(module), at_least);
  }

  /// Adds or replaces one. @param mask the weights to keep, bool
  void set(std::string path, at::Tensor mask) { masks_[std::move(path)] = std::move(mask); }
  /// The mask of a parameter, or null: it is dense.
  [[nodiscard]] const at::Tensor* find(const std::string& path) const;
  [[nodiscard]] const std::map<std::string, at::Tensor>& all() const noexcept { return masks_; }
  [[nodiscard]] bool empty() const noexcept { return masks_.empty(); }
  /// Share of zeros over all masked parameters.
  [[nodiscard]] double sparsity() const;

  /// @throws Error `pare.prune.211` a mask for no parameter, or of another shape than its parameter
  void check(const NamedTensors& parameters) const;
  /// Sets the weights outside the masks to zero, in place. Checks first.
  void apply(const NamedTensors& parameters) const;

  /// A module's parameters by path.
  static NamedTensors named_parameters(const torch::nn::Module& module);

 private:
  std::map<std::string, at::Tensor> masks_;
};

PARE_NAMESPACE_END
