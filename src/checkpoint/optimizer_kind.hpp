#pragma once

#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/lbfgs.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>

#include <string_view>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

namespace checkpoint {

/// Calls `visit(name, field)` for every field of LibTorch's optimizers: options of a group, state of a parameter.
template <class Visit>
void each_field(torch::optim::SGDOptions& options, const Visit& visit) {
  visit("lr", options.lr());
  visit("momentum", options.momentum());
  visit("dampening", options.dampening());
  visit("weight_decay", options.weight_decay());
  visit("nesterov", options.nesterov());
}
template <class Visit>
void each_field(torch::optim::SGDParamState& state, const Visit& visit) {
  visit("momentum_buffer", state.momentum_buffer());
}

template <class Options, class Visit>
void each_moment_option(Options& options, const Visit& visit) {
  visit("lr", options.lr());
  visit("beta1", std::get<0>(options.betas()));
  visit("beta2", std::get<1>(options.betas()));
  visit("eps", options.eps());
  visit("weight_decay", options.weight_decay());
  visit("amsgrad", options.amsgrad());
}
template <class State, class Visit>
void each_moment(State& state, const Visit& visit) {
  visit("step", state.step());
  visit("exp_avg", state.exp_avg());
  visit("exp_avg_sq", state.exp_avg_sq());
  visit("max_exp_avg_sq", state.max_exp_avg_sq());
}
template <class Visit>
void each_field(torch::optim::AdamOptions& options, const Visit& visit) {
  each_moment_option(options, visit);
}
template <class Visit>
void each_field(torch::optim::AdamParamState& state, const Visit& visit) {
  each_moment(state, visit);
}
template <class Visit>
void each_field(torch::optim::AdamWOptions& options, const Visit& visit) {
  each_moment_option(options, visit);
}
template <class Visit>
void each_field(torch::optim::AdamWParamState& state, const Visit& visit) {
  each_moment(state, visit);
}

template <class Visit>
void each_field(torch::optim::RMSpropOptions& options, const Visit& visit) {
  visit("lr", options.lr());
  visit("alpha", options.alpha());
  visit("eps", options.eps());
  visit("weight_decay", options.weight_decay());
  visit("momentum", options.momentum());
  visit("centered", options.centered());
}
template <class Visit>
void each_field(torch::optim::RMSpropParamState& state, const Visit& visit) {
  visit("step", state.step());
  visit("square_avg", state.square_avg());
  visit("momentum_buffer", state.momentum_buffer());
  visit("grad_avg", state.grad_avg());
}

template <class Visit>
void each_field(torch::optim::AdagradOptions& options, const Visit& visit) {
  visit("lr", options.lr());
  visit("lr_decay", options.lr_decay());
  visit("weight_decay", options.weight_decay());
  visit("initial_accumulator_value", options.initial_accumulator_value());
  visit("eps", options.eps());
}
template <class Visit>
void each_field(torch::optim::AdagradParamState& state, const Visit& visit) {
  visit("sum", state.sum());
  visit("step", state.step());
}

template <class Visit>
void each_field(torch::optim::LBFGSOptions& options, const Visit& visit) {
  visit("lr", options.lr());
  visit("max_iter", options.max_iter());
  visit("max_eval", options.max_eval());
  visit("tolerance_grad", options.tolerance_grad());
  visit("tolerance_change", options.tolerance_change());
  visit("history_size", options.history_size());
  visit("line_search_fn", options.line_search_fn());
}
template <class Visit>
void each_field(torch::optim::LBFGSParamState& state, const Visit& visit) {
  visit("func_evals", state.func_evals());
  visit("n_iter", state.n_iter());
  visit("t", state.t());
  visit("prev_loss", state.prev_loss());
  visit("d", state.d());
  visit("H_diag", state.H_diag());
  visit("prev_flat_grad", state.prev_flat_grad());
  visit("old_dirs", state.old_dirs());
  visit("old_stps", state.old_stps());
  visit("ro", state.ro());  // al is what one step notes for itself: it begins empty, and most of it is undefined
}

/// An optimizer's own types.
template <class OptionsType, class StateType>
struct OptimizerKind {
  using Options = OptionsType;
  using State = StateType;
  std::string_view name;
};

/// Calls `visit(kind)` with the kind of an optimizer. @return false for one that is not LibTorch's
template <class Visit>
bool with_kind(const torch::optim::Optimizer& optimizer, const Visit& visit) {
  namespace optim = torch::optim;
  const auto is = [&]<class Type, class Options, class State>(std::string_view name) {
    if (typeid(optimizer) != typeid(Type)) return false;
    visit(OptimizerKind<Options, State>{name});
    return true;
  };
  return is.template operator()<optim::SGD, optim::SGDOptions, optim::SGDParamState>("SGD") ||
         is.template operator()<optim::Adam, optim::AdamOptions, optim::AdamParamState>("Adam") ||
         is.template operator()<optim::AdamW, optim::AdamWOptions, optim::AdamWParamState>("AdamW") ||
         is.template operator()<optim::RMSprop, optim::RMSpropOptions, optim::RMSpropParamState>("RMSprop") ||
         is.template operator()<optim::Adagrad, optim::AdagradOptions, optim::AdagradParamState>("Adagrad") ||
         is.template operator()<optim::LBFGS, optim::LBFGSOptions, optim::LBFGSParamState>("LBFGS");
}

}  // namespace checkpoint

PARE_NAMESPACE_END
