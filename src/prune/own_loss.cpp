#include "prune/own_loss.hpp"

#include <ATen/ATen.h>

PARE_NAMESPACE_BEGIN

at::Tensor own_loss(const std::vector<at::Tensor>& outputs) {
  at::Tensor sum;
  for (const auto& output : outputs) {
    if (!output.defined() || !output.is_floating_point()) continue;
    const auto loss = output.dim() == 2 && output.size(1) > 1
                          ? at::cross_entropy_loss(output, output.detach().argmax(1))
                          : output.square().mean();
    sum = sum.defined() ? sum + loss : loss;
  }
  return sum;
}

PARE_NAMESPACE_END
