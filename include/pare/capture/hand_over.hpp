#pragma once

#include "pare/capture/commit_options.hpp"
#include "pare/capture/committed.hpp"
#include "pare/graph/model.hpp"

namespace torch::optim {
class Optimizer;
}

PARE_NAMESPACE_BEGIN

/// Lets an optimizer that trains a Model go on with a smaller one that a pass made of it: `commit`'s counterpart for a
/// training that runs on the Model itself.
///
/// The parameters of `before` in the optimizer's groups become those of `after`; moments, momentum and LBFGS's history
/// keep the entries that the parameters keep. Parameters that `after` no longer has leave the groups. Parameters of
/// other models stay as they are.
///
///     pare::Model model = ...;
///     torch::optim::Adam optimizer(model.parameters(), 1e-3);
///     ...
///     auto pruned = pare::apply(pare::Pruner{.ratio = 10_pct}, model);
///     pare::hand_over(optimizer, model, pruned.model);
///     model = pruned.model;
///
/// @return the way back: `Committed::roll_back()` puts the optimizer back to where it was; the model is yours to keep
/// @throws Error `pare.commit.122` when `after` was not made from `before`, `.121` an optimizer's state of unknown
/// kind;
///         the optimizer is then what it was
Committed hand_over(torch::optim::Optimizer& optimizer, const Model& before, const Model& after,
                    const CommitOptions& options = {});

PARE_NAMESPACE_END
