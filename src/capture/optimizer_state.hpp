#pragma once

#include <torch/optim/optimizer.h>

#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

#include "pare/capture/commit_options.hpp"
#include "pare/graph/weights.hpp"

PARE_NAMESPACE_BEGIN

/// What becomes of one parameter, and so of the state that an optimizer keeps for it.
struct ParameterEdit {
  std::string path;
  std::vector<std::int64_t> sizes;    ///< before the edit
  std::vector<Narrowing> narrowings;  ///< from those sizes on
};
/// By the parameter's own `TensorImpl`, which a commit keeps.
using ParameterEdits = std::unordered_map<const void*, ParameterEdit>;

/// An optimizer's state as it will be after the parameters have been narrowed: made first, put in place once nothing
/// can fail any more.
class OptimizerState {
 public:
  /// @throws Error `pare.commit.121` for a state of unknown kind whose parameter changes shape
  OptimizerState(torch::optim::Optimizer& optimizer, const ParameterEdits& edits, const CommitOptions& options);

  /// Replaces the optimizer's state. @return the way back
  std::function<void()> apply();
  [[nodiscard]] const std::vector<std::string>& notes() const noexcept { return notes_; }

 private:
  using States = std::unordered_map<void*, std::shared_ptr<torch::optim::OptimizerParamState>>;

  torch::optim::Optimizer& optimizer_;
  States next_;
  States before_;
  bool numel_changes_ = false;
  std::vector<std::string> notes_;
};

/// Repeats recorded selections on a tensor that has the shape from before them.
at::Tensor narrowed(const at::Tensor& tensor, const std::vector<Narrowing>& narrowings);

/// Sets what an optimizer remembers of masked weights to zero, in place. @param masks by the parameter's `TensorImpl`
void mask_optimizer_state(torch::optim::Optimizer& optimizer, const std::unordered_map<const void*, at::Tensor>& masks);

PARE_NAMESPACE_END
