#pragma once

#include <ATen/core/Tensor.h>
#include <fmt/ranges.h>

#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

/// Whether training can go on from a batch's loss. @param batch, epoch counted from 0
/// @throws Error `pare.distill.125` when it is no scalar or does not depend on what is trained
inline void check_loss(const at::Tensor& loss, std::int64_t batch, std::int64_t epoch) {
  const auto refuse = [&](const std::string& what) {
    fail("pare.distill.125", "", "the loss of batch {} of epoch {} (both counted from 0) {}", batch, epoch, what);
  };
  if (!loss.defined()) refuse("is an undefined tensor");
  if (loss.numel() != 1) refuse(fmt::format("has the shape [{}]: a scalar is wanted", fmt::join(loss.sizes(), ", ")));
  if (!loss.requires_grad()) refuse("has no gradients: it does not depend on what is trained");
}

PARE_NAMESPACE_END
