#pragma once

#include "pare/capture/commit_options.hpp"
#include "pare/capture/committed.hpp"

namespace torch::optim {
class Optimizer;
}

PARE_NAMESPACE_BEGIN

/// The compiled part of `commit`. @param optimizer may be null
Committed commit_module(const Model& model, torch::nn::Module& module, torch::optim::Optimizer* optimizer,
                        const CommitOptions& options = {});

/// Writes a Model's parameters and buffers back into the live module: in place, so that the module's own members, its
/// registration and the optimizer's references stay what they are. The `options` of LibTorch's standard layers follow
/// the new shapes, gradients of what changed are dropped, and training, `torch::save` and `torch::load` go on with the
/// smaller module.
///
/// Afterwards the module's own forward is run on fresh values, in evaluation and in training mode, and compared with
/// the Model. Where it disagrees (a size written into the forward, say), nothing has changed, bit for bit, and the
/// error names the first layer that differs.
///
/// A Model whose graph does more than the module's forward (fake-quantize nodes, a folded batch norm, layers removed)
/// cannot be committed; one whose weights alone changed can.
///
/// Note that a freshly captured Model follows the live module: call `detach_weights()` on one that is to stay what it
/// was, such as a teacher.
///
///     auto pruned = pare::apply(pare::Pruner{.ratio = 30_pct}, pare::capture(net, example));
///     pare::commit(pruned.model, net, optimizer);
///
/// @throws Error `pare.commit.101` the Model was not captured in this process, `.102` not the module that was
///         captured, `.103` a graph that the forward does not have, `.104` a changed tensor that is no parameter or
///         buffer, `.105` a tolerance that is negative or no number, `.111` the module's own forward disagrees, `.121`
///         an optimizer's state of unknown kind
template <class Net>
Committed commit(const Model& model, Net& net, const CommitOptions& options = {}) {
  return commit_module(model, detail::module_of(net), nullptr, options);
}

/// The same with the optimizer of the training that goes on: moments and momentum of SGD, Adam, AdamW, RMSprop and
/// Adagrad, and the history of LBFGS, keep the entries that their parameters keep. Parameter groups stay as they are.
template <class Net>
Committed commit(const Model& model, Net& net, torch::optim::Optimizer& optimizer, const CommitOptions& options = {}) {
  return commit_module(model, detail::module_of(net), &optimizer, options);
}

PARE_NAMESPACE_END
