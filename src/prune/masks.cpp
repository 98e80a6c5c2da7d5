#include "pare/prune/masks.hpp"

#include <ATen/Functions.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

Masks Masks::of(const NamedTensors& parameters, double at_least) {
  Masks masks;
  for (const auto& [path, tensor] : parameters) {
    if (!tensor.defined() || tensor.dim() < 2 || !tensor.is_floating_point() || tensor.numel() == 0) continue;
    const auto mask = tensor.detach().ne(0);
    const auto zeros = tensor.numel() - mask.sum().item<std::int64_t>();
    if (zeros > 0 && static_cast<double>(zeros) >= at_least * static_cast<double>(tensor.numel()))
      masks.set(path, mask);
  }
  return masks;
}

const at::Tensor* Masks::find(const std::string& path) const {
  const auto found = masks_.find(path);
  return found == masks_.end() ? nullptr : &found->second;
}

double Masks::sparsity() const {
  double zeros = 0, total = 0;
  for (const auto& [path, mask] : masks_) {
    zeros += mask.logical_not().sum().item<double>();
    total += static_cast<double>(mask.numel());
  }
  return total > 0 ? zeros / total : 0.0;
}

void Masks::check(const NamedTensors& parameters) const {
  for (const auto& [path, mask] : masks_) {
    const auto found =
        std::ranges::find_if(parameters, [&, &name = path](const auto& entry) { return entry.first == name; });
    if (found == parameters.end()) fail("pare.prune.211", path, "there is a mask for it and no such parameter");
    if (found->second.sizes() != mask.sizes())
      fail("pare.prune.211", path, "its mask is [{}], the parameter [{}]", fmt::join(mask.sizes(), ", "),
           fmt::join(found->second.sizes(), ", "));
  }
}

void Masks::apply(const NamedTensors& parameters) const {
  check(parameters);
  const at::NoGradGuard no_grad;
  for (const auto& [path, tensor] : parameters)
    if (const auto* mask = find(path)) tensor.variable_data().masked_fill_(mask->logical_not(), 0);
}

Masks::NamedTensors Masks::named_parameters(const torch::nn::Module& module) {
  NamedTensors named;
  for (const auto& item : module.named_parameters()) named.emplace_back(item.key(), item.value());
  return named;
}

PARE_NAMESPACE_END
