#pragma once

#include <string>

#include "pare/checkpoint/checkpoint_options.hpp"
#include "pare/graph/model.hpp"

namespace torch::nn {
class Module;
}
namespace torch::optim {
class Optimizer;
}

PARE_NAMESPACE_BEGIN

/// Writes a Model together with the optimizer in the midst of training it, to go on from there bit for bit in another
/// process: options of each parameter group (learning rates as they are at this moment), steps, moments, momentum and
/// LBFGS's history. Weights are kept as float numbers, whatever `options.pack` says.
///
/// For a training that runs on the Model, quantized and pruned as it may be:
///
///     torch::optim::Adam optimizer(model.parameters(), 1e-3);
///     ...
///     pare::save_checkpoint(model, optimizer, "run.pare");
///     // later
///     pare::Model model = pare::load_checkpoint("run.pare");
///     torch::optim::Adam optimizer(model.parameters());
///     pare::load_optimizer("run.pare", model, optimizer);
///
/// @throws Error as the other `save_checkpoint`, and `pare.checkpoint.136` an optimizer of a kind that is not
///         LibTorch's, `.138` one that trains other tensors than the Model's
void save_checkpoint(const Model& model, const torch::optim::Optimizer& optimizer, const std::string& path,
                     const CheckpointOptions& options = {});

/// The same for a training that runs on the live module, after the Model was committed into it: the values of weights
/// and buffers are the module's, what was pruned is the Model's to say.
///
///     pare::commit(pruned, *net, optimizer);
///     ...
///     pare::save_checkpoint(pruned, *net, optimizer, "run.pare");
///     // later, against the plain code (see also `restore`)
///     auto loaded = pare::load_checkpoint("run.pare", pare::capture(net, example));
///     pare::commit(loaded, net);
///     torch::optim::Adam optimizer(net->parameters());
///     pare::load_optimizer("run.pare", *net, optimizer);
///
/// @throws Error also `pare.checkpoint.134` when the module's weights have not the Model's shapes
void save_checkpoint(const Model& model, const torch::nn::Module& module, const torch::optim::Optimizer& optimizer,
                     const std::string& path, const CheckpointOptions& options = {});

/// Puts the state of a checkpoint's optimizer into one of the same kind over the same parameters in the same groups,
/// known by their paths in the Model or module. All of it or, on an error, nothing.
///
/// What an `LRScheduler` counts is its own, and LibTorch shows it to nobody: make a new one, or count along.
///
/// @throws Error as `load_checkpoint`, and `pare.checkpoint.137` a file without an optimizer, or with one of another
///         kind, `.138` other parameters, or of other shapes
void load_optimizer(const std::string& path, const Model& model, torch::optim::Optimizer& optimizer);
void load_optimizer(const std::string& path, const torch::nn::Module& module, torch::optim::Optimizer& optimizer);

PARE_NAMESPACE_END
