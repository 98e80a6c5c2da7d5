#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string_view>
#include <vector>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// Gradients of the scalar that `loss` returns; undefined for tensors it does not depend on.
/// @param batch  position of the calibration batch, to name it
/// @throws Error `id` for a loss that LibTorch refuses to compute, that is no scalar, or that depends on no weight
[[nodiscard]] std::vector<at::Tensor> loss_gradients(std::string_view id, std::size_t batch,
                                                     const std::function<at::Tensor()>& loss,
                                                     const std::vector<at::Tensor>& tensors);

PARE_NAMESPACE_END
