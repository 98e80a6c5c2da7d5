#include "pare/prune/sparse_training.hpp"

#include <ATen/Functions.h>
#include <torch/optim/optimizer.h>

#include <algorithm>
#include <cmath>

#include "capture/optimizer_state.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

/// One masked parameter and what its hook saw.
struct SparseTraining::Parameter {
  std::string path;
  at::Tensor tensor;
  at::Tensor mask;
  at::Tensor gradient;  ///< of the last backward pass, before it was masked
  at::Tensor movement;
  unsigned hook = 0;

  // What `commit` narrows has outgrown its mask.
  void check_shape() const {
    if (tensor.sizes() != mask.sizes())
      fail("pare.prune.213", path,
           "its shape changed while its mask was kept; make another SparseTraining for the parameters as they are");
  }

  at::Tensor see(const at::Tensor& dense) {
    check_shape();
    const at::NoGradGuard no_grad;
    gradient = dense.detach();
    movement.sub_(tensor.detach() * gradient);
    return dense * mask;
  }
};

namespace {

void check_share(Ratio ratio) {
  if (!(ratio.fraction >= 0.0 && ratio.fraction < 1.0))
    fail("pare.prune.201", "", "a share of {}: at least 0 and below 1 are possible", ratio.fraction);
}

}  // namespace

SparseTraining::SparseTraining(const NamedTensors& parameters, const Masks& masks, torch::optim::Optimizer& optimizer)
    : optimizer_(optimizer) {
  masks.check(parameters);
  const at::NoGradGuard no_grad;
  for (const auto& [path, tensor] : parameters) {
    const auto* mask = masks.find(path);
    if (!mask || !tensor.requires_grad()) continue;
    auto parameter = std::make_shared<Parameter>();
    parameter->path = path;
    parameter->tensor = tensor;
    parameter->mask = mask->to(at::kBool).to(tensor.device()).clone();
    parameter->movement = at::zeros_like(tensor, at::MemoryFormat::Contiguous);
    // Weakly: the tensor owns its hooks, and the parameter owns the tensor.
    parameter->hook = tensor.register_hook([seen = std::weak_ptr<Parameter>(parameter)](const at::Tensor& gradient) {
      const auto alive = seen.lock();
      return alive ? alive->see(gradient) : gradient;
    });
    parameters_.push_back(std::move(parameter));
  }
  remask();
}

SparseTraining::~SparseTraining() {
  for (const auto& parameter : parameters_) parameter->tensor.remove_hook(parameter->hook);
}

// Weights, gradients and moments outside the masks become zero.
void SparseTraining::remask() {
  const at::NoGradGuard no_grad;
  for (const auto& parameter : parameters_) {
    const auto gone = parameter->mask.logical_not();
    parameter->tensor.variable_data().masked_fill_(gone, 0);
    if (parameter->tensor.grad().defined()) parameter->tensor.mutable_grad().masked_fill_(gone, 0);
  }
  std::unordered_map<const void*, at::Tensor> masks;
  for (const auto& parameter : parameters_) masks.emplace(parameter->tensor.unsafeGetTensorImpl(), parameter->mask);
  mask_optimizer_state(optimizer_, masks);
}

Masks SparseTraining::masks() const {
  Masks masks;
  for (const auto& parameter : parameters_) masks.set(parameter->path, parameter->mask.clone());
  return masks;
}

void SparseTraining::prune(Ratio sparsity) {
  std::map<std::string, at::Tensor> scores;
  for (const auto& parameter : parameters_) scores[parameter->path] = parameter->tensor.detach().abs();
  prune(sparsity, scores);
}

void SparseTraining::prune(Ratio sparsity, const std::map<std::string, at::Tensor>& scores) {
  check_share(sparsity);
  const at::NoGradGuard no_grad;
  for (const auto& parameter : parameters_) parameter->check_shape();
  if (scores.empty() && !parameters_.empty()) fail("pare.prune.211", "", "there are no scores");
  for (const auto& [path, score] : scores)
    if (std::ranges::find(parameters_, path, [](const auto& parameter) { return parameter->path; }) ==
        parameters_.end())
      fail("pare.prune.211", path, "there are scores for it and no such masked parameter");
  std::vector<Parameter*> scored;
  std::vector<at::Tensor> all;
  std::int64_t kept = 0;
  for (const auto& parameter : parameters_) {
    const auto score = scores.find(parameter->path);
    if (score == scores.end()) continue;
    if (!score->second.defined() || score->second.sizes() != parameter->mask.sizes())
      fail("pare.prune.211", parameter->path, "its scores have another shape");
    if (score->second.isnan().any().item<bool>()) fail("pare.prune.211", parameter->path, "its scores hold NaN");
    scored.push_back(parameter.get());
    all.push_back(score->second.to(at::kFloat).masked_fill(parameter->mask.logical_not(), -INFINITY).flatten());
    kept += parameter->mask.sum().item<std::int64_t>();
  }
  if (scored.empty()) return;
  const auto scores_flat = at::cat(all);
  const auto keep =
      static_cast<std::int64_t>(std::floor((1.0 - sparsity.fraction) * static_cast<double>(scores_flat.numel())));
  if (keep >= kept) return;
  const auto chosen = std::get<1>(scores_flat.topk(std::max<std::int64_t>(keep, 1), 0, true, false));
  const auto mask = at::zeros_like(scores_flat, at::kBool).scatter_(0, chosen, true);
  std::int64_t offset = 0;
  for (auto* parameter : scored) {
    parameter->mask.logical_and_(mask.narrow(0, offset, parameter->mask.numel()).view_as(parameter->mask));
    offset += parameter->mask.numel();
  }
  remask();
}

void SparseTraining::regrow(Ratio share) {
  check_share(share);
  const at::NoGradGuard no_grad;
  for (const auto& parameter : parameters_) {
    parameter->check_shape();
    if (!parameter->gradient.defined())
      fail("pare.prune.212", parameter->path,
           "regrowing needs the gradients of a backward pass, and there was none yet");
  }
  for (const auto& parameter : parameters_) {
    auto& mask = parameter->mask;
    const auto kept = mask.sum().item<std::int64_t>();
    const auto count =
        std::min(static_cast<std::int64_t>(share.fraction * static_cast<double>(kept)), mask.numel() - kept);
    if (count <= 0) continue;
    const auto size = parameter->tensor.detach().abs().masked_fill(mask.logical_not(), INFINITY).flatten();
    const auto going = std::get<1>(size.topk(count, 0, /*largest=*/false, false));
    const auto wanted = parameter->gradient.abs().masked_fill(mask, -1).flatten();  // what just went does not come back
    const auto coming = std::get<1>(wanted.topk(count, 0, /*largest=*/true, false));
    auto flat = mask.flatten().clone();
    flat.scatter_(0, going, false).scatter_(0, coming, true);
    mask.copy_(flat.view_as(mask));
  }
  remask();
}

std::map<std::string, at::Tensor> SparseTraining::movement() const {
  std::map<std::string, at::Tensor> scores;
  for (const auto& parameter : parameters_) scores[parameter->path] = parameter->movement.clone();
  return scores;
}

PARE_NAMESPACE_END
