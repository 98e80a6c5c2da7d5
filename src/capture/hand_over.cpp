#include "pare/capture/hand_over.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <unordered_map>

#include "capture/optimizer_state.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

struct Successor {
  at::Tensor before, after;  // `after` is undefined where the parameter is gone
};
using Successors = std::unordered_map<const void*, Successor>;

// What happened to a parameter since `before`.
std::vector<Narrowing> steps_since(const Weight& before, const Weight& after, std::string_view path) {
  const auto& old = before.narrowings;
  const auto& all = after.narrowings;
  if (all.size() < old.size() || !std::equal(old.begin(), old.end(), all.begin()))
    fail("pare.commit.122", path, "it was not narrowed from what the optimizer trains: the models are not of one line");
  std::vector<Narrowing> steps(all.begin() + static_cast<std::ptrdiff_t>(old.size()), all.end());
  auto sizes = before.tensor.sizes().vec();
  for (const auto& step : steps) {
    if (static_cast<std::size_t>(step.dim) < sizes.size())
      sizes[static_cast<std::size_t>(step.dim)] = static_cast<std::int64_t>(step.kept.size());
  }
  if (after.tensor.sizes() != at::IntArrayRef(sizes))
    fail("pare.commit.122", path, "it is [{}] where [{}] should be left", fmt::join(after.tensor.sizes(), ", "),
         fmt::join(sizes, ", "));
  return steps;
}

void replace_parameters(torch::optim::Optimizer& optimizer, const Successors& successors) {
  for (auto& group : optimizer.param_groups()) {
    auto& parameters = group.params();
    for (auto& parameter : parameters)
      if (const auto found = successors.find(parameter.unsafeGetTensorImpl()); found != successors.end())
        parameter = found->second.after;
    std::erase_if(parameters, [](const at::Tensor& parameter) { return !parameter.defined(); });
  }
  auto& states = optimizer.state();
  for (const auto& [key, successor] : successors) {
    const auto found = states.find(const_cast<void*>(key));
    if (found == states.end()) continue;
    auto state = std::move(found->second);
    states.erase(found);
    if (successor.after.defined()) states[successor.after.unsafeGetTensorImpl()] = std::move(state);
  }
}

}  // namespace

Committed hand_over(torch::optim::Optimizer& optimizer, const Model& before, const Model& after,
                    const CommitOptions& options) {
  const at::NoGradGuard no_grad;
  Successors successors;
  ParameterEdits edits;
  std::vector<std::string> paths;
  for (const auto& [path, weight] : before.weights()) {
    if (!weight.is_parameter) continue;
    const auto* key = weight.tensor.unsafeGetTensorImpl();
    const auto next = after.weights().find(path);
    if (next == after.weights().end()) {
      if (weight.tensor.dim() > 0) edits.emplace(key, ParameterEdit{path, weight.tensor.sizes().vec(), {{0, {}}}});
      successors.emplace(key, Successor{weight.tensor, {}});
      continue;
    }
    auto steps = steps_since(weight, next->second, path);
    if (next->second.tensor.is_same(weight.tensor)) continue;
    if (!steps.empty()) edits.emplace(key, ParameterEdit{path, weight.tensor.sizes().vec(), std::move(steps)});
    successors.emplace(key, Successor{weight.tensor, next->second.tensor});
    paths.push_back(path);
  }
  OptimizerState state(optimizer, edits, options);  // the last thing that can fail

  std::vector<std::vector<at::Tensor>> groups;
  for (const auto& group : optimizer.param_groups()) groups.push_back(group.params());
  std::vector<std::function<void()>> undo;
  undo.push_back(state.apply());
  undo.push_back([&optimizer, groups] {
    for (std::size_t i = 0; i < groups.size(); ++i) optimizer.param_groups()[i].params() = groups[i];
  });
  for (auto& [key, successor] : successors)
    if (successor.after.defined()) successor.after.requires_grad_(successor.before.requires_grad());
  replace_parameters(optimizer, successors);
  return {std::move(paths), state.notes(), std::move(undo)};
}

PARE_NAMESPACE_END
