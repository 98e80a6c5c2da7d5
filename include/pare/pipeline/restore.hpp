#pragma once

#include <string>

#include "pare/capture/commit.hpp"
#include "pare/checkpoint/checkpoint.hpp"
#include "pare/checkpoint/optimizer_checkpoint.hpp"

PARE_NAMESPACE_BEGIN

/// Makes a module that its plain code has just built the pruned one that a checkpoint was written from: shapes,
/// `options` of LibTorch's layers, weights and buffers. A file that `torch::save` wrote of the pruned module loads into
/// it, too, from then on.
///
///     Net net;                                             // the plain code
///     pare::restore(net, "net.pare", example);
///     torch::load(net, "finetuned.pt");                    // of the pruned module, if there is one
///
/// @param example as for `capture`
/// @throws Error as `capture`, `load_checkpoint` and `commit`; the module is then what it was
template <class Net, class Example>
Committed restore(Net& net, const std::string& path, const Example& example, const CommitOptions& options = {}) {
  return commit(load_checkpoint(path, capture(net, example)), net, options);
}

/// The same for a training that goes on: the optimizer, over `net`'s parameters, takes up the state of the
/// checkpoint's.
/// @throws Error also as `load_optimizer`; module and optimizer are then what they were
template <class Net, class Example>
Committed restore(Net& net, torch::optim::Optimizer& optimizer, const std::string& path, const Example& example,
                  const CommitOptions& options = {}) {
  auto committed = commit(load_checkpoint(path, capture(net, example)), net, optimizer, options);
  try {
    load_optimizer(path, detail::module_of(net), optimizer);
  } catch (...) {
    committed.roll_back();
    throw;
  }
  return committed;
}

PARE_NAMESPACE_END
