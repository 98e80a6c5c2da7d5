#include "capture/optimizer_state.hpp"

#include <fmt/format.h>
#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/lbfgs.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>

#include <deque>
#include <optional>

#include "pare/core/error.hpp"

// LBFGS remembers how many numbers its parameters have in a private member that nothing resets, and stops when they
// become fewer. Naming a private member in an explicit instantiation is the one way to reach it that the language has.
namespace {
using NumelCache = std::optional<std::int64_t> torch::optim::LBFGS::*;
NumelCache numel_cache();
template <NumelCache member>
struct Reach {
  friend NumelCache numel_cache() { return member; }
};
template struct Reach<&torch::optim::LBFGS::_numel_cache>;
}  // namespace

PARE_NAMESPACE_BEGIN

namespace {

namespace optim = torch::optim;
using StatePointer = std::shared_ptr<optim::OptimizerParamState>;
using Map = std::function<at::Tensor(const at::Tensor&)>;

void map_into(at::Tensor& tensor, const Map& map) {
  if (tensor.defined()) tensor = map(tensor);
}

template <class State>
bool moments(optim::OptimizerParamState& state, const Map& map) {
  auto* known = dynamic_cast<State*>(&state);
  if (!known) return false;
  map_into(known->exp_avg(), map);
  map_into(known->exp_avg_sq(), map);
  map_into(known->max_exp_avg_sq(), map);
  return true;
}

// Calls `map` on every tensor that has the parameter's shape. @return false for a kind of state that is not LibTorch's
bool map_tensors(optim::OptimizerParamState& state, const Map& map) {
  if (moments<optim::AdamParamState>(state, map) || moments<optim::AdamWParamState>(state, map)) return true;
  if (auto* sgd = dynamic_cast<optim::SGDParamState*>(&state)) {
    map_into(sgd->momentum_buffer(), map);
    return true;
  }
  if (auto* rmsprop = dynamic_cast<optim::RMSpropParamState*>(&state)) {
    map_into(rmsprop->square_avg(), map);
    map_into(rmsprop->momentum_buffer(), map);
    map_into(rmsprop->grad_avg(), map);
    return true;
  }
  if (auto* adagrad = dynamic_cast<optim::AdagradParamState*>(&state)) {
    map_into(adagrad->sum(), map);
    return true;
  }
  return false;
}

// LBFGS keeps everything in one state: vectors over all parameters, one after the other.
bool map_history(optim::OptimizerParamState& state, const Map& map) {
  auto* lbfgs = dynamic_cast<optim::LBFGSParamState*>(&state);
  if (!lbfgs) return false;
  map_into(lbfgs->d(), map);
  map_into(lbfgs->prev_flat_grad(), map);
  for (auto& direction : lbfgs->old_dirs()) map_into(direction, map);
  for (auto& step : lbfgs->old_stps()) map_into(step, map);
  return true;
}

// The products that LBFGS keeps of its history must be those of the vectors that are left. Where the curvature along a
// step is not positive any more, the step would lead uphill: LBFGS itself never keeps one. @return how many went
std::size_t refresh_history(optim::LBFGSParamState& state) {
  constexpr double kLeastCurvature = 1e-10;  // as in LBFGS::step
  std::deque<at::Tensor> directions, steps, products;
  for (std::size_t i = 0; i < state.old_dirs().size(); ++i) {
    const auto curvature = state.old_dirs()[i].dot(state.old_stps()[i]);
    if (!(curvature.item<double>() > kLeastCurvature)) continue;
    directions.push_back(state.old_dirs()[i]);
    steps.push_back(state.old_stps()[i]);
    products.push_back(curvature.reciprocal());
  }
  const auto dropped = state.old_dirs().size() - steps.size();
  state.old_dirs(std::move(directions));
  state.old_stps(std::move(steps));
  state.ro(std::move(products));
  return dropped;
}

// Numbers of its own for a state that has just been cloned.
void detach_state(optim::OptimizerParamState& state) {
  const Map copy = [](const at::Tensor& tensor) { return tensor.detach().clone(); };
  if (!map_tensors(state, copy)) map_history(state, copy);
}

// Which entries of the flat vector over all parameters are left.
at::Tensor flat_index(const optim::Optimizer& optimizer, const ParameterEdits& edits) {
  std::vector<at::Tensor> kept;
  std::int64_t offset = 0;
  for (const auto& group : optimizer.param_groups())
    for (const auto& parameter : group.params()) {
      auto positions = at::arange(offset, offset + parameter.numel(), at::kLong);
      offset += parameter.numel();
      if (const auto edit = edits.find(parameter.unsafeGetTensorImpl()); edit != edits.end())
        positions = narrowed(positions.view(edit->second.sizes), edit->second.narrowings).flatten();
      kept.push_back(positions);
    }
  return kept.empty() ? at::empty({0}, at::kLong) : at::cat(kept);
}

}  // namespace

at::Tensor narrowed(const at::Tensor& tensor, const std::vector<Narrowing>& narrowings) {
  auto result = tensor;
  for (const auto& step : narrowings)
    result = result.index_select(step.dim, at::tensor(step.kept, at::TensorOptions(at::kLong).device(result.device())));
  return result;
}

OptimizerState::OptimizerState(optim::Optimizer& optimizer, const ParameterEdits& edits, const CommitOptions& options)
    : optimizer_(optimizer) {
  const at::NoGradGuard no_grad;
  for (const auto& [key, state] : optimizer.state()) {
    StatePointer next = state->clone(), before = state->clone();
    detach_state(*before);
    if (map_history(*next, [](const at::Tensor& tensor) { return tensor; })) {
      const auto index = flat_index(optimizer, edits);
      map_history(*next, [&](const at::Tensor& tensor) { return tensor.index_select(0, index.to(tensor.device())); });
      const auto dropped = refresh_history(dynamic_cast<optim::LBFGSParamState&>(*next));
      if (!edits.empty())
        notes_.push_back(
            "LBFGS: its directions and steps keep the entries that are left, and their products were computed again");
      if (dropped > 0)
        notes_.push_back(
            fmt::format("LBFGS: {} of its steps dropped, along which nothing curves upwards any more", dropped));
    } else if (const auto edit = edits.find(key); edit != edits.end() && !edit->second.narrowings.empty()) {
      const auto& change = edit->second;
      const Map narrow = [&](const at::Tensor& tensor) {
        return tensor.sizes() == at::IntArrayRef(change.sizes) ? narrowed(tensor, change.narrowings) : tensor;
      };
      if (!map_tensors(*next, narrow) && !(options.remap_state && options.remap_state(*next, narrow)))
        fail("pare.commit.121", change.path,
             "the optimizer keeps a kind of state for it that is not LibTorch's; say what to narrow in "
             "CommitOptions::remap_state");
    }
    next_.emplace(key, std::move(next));
    before_.emplace(key, std::move(before));
  }
  numel_changes_ = !edits.empty();
}

std::function<void()> OptimizerState::apply() {
  const auto put = [&optimizer = optimizer_, resets = numel_changes_](const States& states) {
    for (const auto& [key, state] : states) optimizer.state()[key] = state->clone();
    for (auto it = optimizer.state().begin(); it != optimizer.state().end();)
      it = states.contains(it->first) ? std::next(it) : optimizer.state().erase(it);
    if (auto* lbfgs = dynamic_cast<optim::LBFGS*>(&optimizer); lbfgs && resets) lbfgs->*numel_cache() = std::nullopt;
  };
  put(next_);
  return [put, before = before_] { put(before); };
}

void mask_optimizer_state(optim::Optimizer& optimizer, const std::unordered_map<const void*, at::Tensor>& masks) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> flat;
  for (const auto& group : optimizer.param_groups())
    for (const auto& parameter : group.params()) {
      const auto mask = masks.find(parameter.unsafeGetTensorImpl());
      flat.push_back(mask == masks.end() ? at::ones({parameter.numel()}, at::kBool) : mask->second.flatten());
    }
  for (const auto& [key, state] : optimizer.state()) {
    map_history(*state, [&](const at::Tensor& tensor) { return tensor * at::cat(flat).to(tensor.device()); });
    if (auto* lbfgs = dynamic_cast<optim::LBFGSParamState*>(state.get())) refresh_history(*lbfgs);
    const auto mask = masks.find(key);
    if (mask == masks.end()) continue;
    map_tensors(*state, [&](const at::Tensor& tensor) {
      return tensor.sizes() == mask->second.sizes() ? tensor * mask->second : tensor;
    });
  }
}

PARE_NAMESPACE_END
