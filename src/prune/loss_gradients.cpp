#include "prune/loss_gradients.hpp"

#include <ATen/ATen.h>
#include <fmt/ranges.h>
#include <torch/csrc/autograd/autograd.h>

#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

std::vector<at::Tensor> loss_gradients(std::string_view id, std::size_t batch, const std::function<at::Tensor()>& loss,
                                       const std::vector<at::Tensor>& tensors) {
  try {
    const auto value = loss();
    if (!value.defined()) fail(id, "", "the loss of batch {} is no tensor", batch);
    if (value.numel() != 1 || !value.is_floating_point())
      fail(id, "", "the loss of batch {} is a tensor [{}] of {}: one floating-point number is wanted", batch,
           fmt::join(value.sizes(), ", "), c10::toString(value.scalar_type()));
    if (!value.requires_grad())
      fail(id, "", "the loss of batch {} has no gradient: compute it from the outputs, without detaching them", batch);
    return torch::autograd::grad({value}, tensors, {}, /*retain_graph=*/false, /*create_graph=*/false,
                                 /*allow_unused=*/true);
  } catch (const c10::Error& error) {
    const std::string text = error.what_without_backtrace();
    fail(id, "", "the loss of batch {} cannot be computed: {}", batch, text.substr(0, text.find('\n')));
  }
}

PARE_NAMESPACE_END
