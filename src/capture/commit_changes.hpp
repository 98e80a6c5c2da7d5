#pragma once

#include <torch/nn/module.h>

#include <functional>
#include <string>
#include <vector>

#include "capture/optimizer_state.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// Steps in the order in which they were done.
using UndoSteps = std::vector<std::function<void()>>;

/// Takes the steps back, the last one first.
void undo_all(UndoSteps& undo);

/// A tensor of the module and what the Model has in its place.
struct Change {
  std::string path;
  at::Tensor live;
  at::Tensor next;  ///< numbers of its own; undefined where nothing changes
  std::vector<Narrowing> narrowings;
};

/// @throws Error `pare.commit.102`, `.104`
std::vector<Change> plan_changes(const Model& model, torch::nn::Module& module);

/// Only what the module's own forward does can be written back to it. @throws Error `pare.commit.103`
void require_same_graph(const Graph& captured, const Graph& now);

/// Puts the new tensors in, in place. @param undo gets a step for each
void replace_tensors(const std::vector<Change>& changes, UndoSteps& undo);
/// Copies what stays, for a way back whatever is written to it in between.
void remember_tensors(const std::vector<Change>& changes, UndoSteps& undo);

/// What an optimizer has to follow.
ParameterEdits parameter_edits(const std::vector<Change>& changes);

PARE_NAMESPACE_END
