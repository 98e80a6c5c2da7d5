#include "pare/capture/commit.hpp"

#include <optional>

#include "capture/commit_changes.hpp"
#include "capture/commit_check.hpp"
#include "capture/layer_options.hpp"
#include "capture/optimizer_state.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

Committed commit_module(const Model& model, torch::nn::Module& module, torch::optim::Optimizer* optimizer,
                        const CommitOptions& options) {
  const at::NoGradGuard no_grad;
  if (!(options.tolerance >= 0))
    fail("pare.commit.105", "tolerance", "a tolerance of {}: it must be at least 0", options.tolerance);
  const auto origin = model.origin();
  if (!origin)
    fail("pare.commit.101", "",
         "this model was not captured from a module in this process; capture the module, load the "
         "weights into the model and commit that");
  require_same_graph(origin->graph, model.graph());
  const auto changes = plan_changes(model, module);
  std::optional<OptimizerState> state;
  if (optimizer) state.emplace(*optimizer, parameter_edits(changes), options);

  UndoSteps undo;
  try {
    replace_tensors(changes, undo);
    remember_tensors(changes, undo);
    for (auto& step : update_layer_options(module, model.graph())) undo.push_back(std::move(step));
    check_commit(model, module, *origin, options);
  } catch (...) {
    undo_all(undo);
    throw;
  }
  if (state) undo.push_back(state->apply());
  std::vector<std::string> written;
  for (const auto& change : changes)
    if (change.next.defined()) written.push_back(change.path);
  return {std::move(written), state ? state->notes() : std::vector<std::string>{}, std::move(undo)};
}

PARE_NAMESPACE_END
