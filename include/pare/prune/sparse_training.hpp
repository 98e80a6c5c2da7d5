#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "pare/core/literals.hpp"
#include "pare/prune/masks.hpp"

namespace torch::optim {
class Optimizer;
}

PARE_NAMESPACE_BEGIN

/// Keeps masks through a training loop that knows nothing of them, for as long as it lives.
///
/// Weights, gradients and the optimizer's moments outside the masks are zero, so no step of SGD, Adam, AdamW, RMSprop,
/// Adagrad or LBFGS moves them; nothing has to be called in the loop. Gradients are masked as they arrive, by hooks on
/// the parameters.
///
///     pare::SparseTraining training{net, pare::Masks::of(net), optimizer};
///     for (...) { optimizer.zero_grad(); loss.backward(); optimizer.step(); if (step % 100 == 0)
///     training.regrow(30_pct); }
///
/// The parameters must keep their shapes meanwhile: after a `commit` that narrows them, make another one.
class SparseTraining {
 public:
  using NamedTensors = Masks::NamedTensors;

  /// @throws Error `pare.prune.211` for a mask that fits no parameter
  SparseTraining(const NamedTensors& parameters, const Masks& masks, torch::optim::Optimizer& optimizer);
  SparseTraining(const torch::nn::Module& module, const Masks& masks, torch::optim::Optimizer& optimizer)
      : SparseTraining(Masks::named_parameters(module), masks, optimizer) {}
  SparseTraining(const Model& model, const Masks& masks, torch::optim::Optimizer& optimizer)
      : SparseTraining(model.named_parameters(), masks, optimizer) {}
  /// Takes the hooks off. The zeros stay: they are permanent until something trains them.
  ~SparseTraining();
  SparseTraining(const SparseTraining&) = delete;
  SparseTraining& operator=(const SparseTraining&) = delete;

  /// The masks as they are now.
  [[nodiscard]] Masks masks() const;

  /// Takes more weights away, the smallest over all masked parameters, until `sparsity` of them is zero: gradual
  /// pruning with a `Schedule`. A sparsity below the present one changes nothing.
  /// @throws Error `pare.prune.201` for a sparsity out of range, `.211` for weights that are NaN
  void prune(Ratio sparsity);
  /// The same by given scores, e.g. `movement()`: the lowest go. Parameters without scores are left alone.
  /// @throws Error also `pare.prune.211` for scores of no masked parameter, of another shape, or NaN
  void prune(Ratio sparsity, const std::map<std::string, at::Tensor>& scores);
  /// Moves zeros: in every masked parameter, the `share` of kept weights that are smallest goes and as many come back,
  /// at zero, where the loss of the last backward pass had its largest gradients. Evci et al., "RigL", 2020.
  /// @throws Error `pare.prune.201` for a share out of range, `.212` before any backward pass
  void regrow(Ratio share);
  /// How far training moved each masked weight away from zero since the start: the sum of `-w * gradient`, pruned
  /// weights included as long as they had a gradient. Sanh et al., 2020.
  [[nodiscard]] std::map<std::string, at::Tensor> movement() const;

 private:
  struct Parameter;
  void remask();

  std::vector<std::shared_ptr<Parameter>> parameters_;
  torch::optim::Optimizer& optimizer_;
};

PARE_NAMESPACE_END
