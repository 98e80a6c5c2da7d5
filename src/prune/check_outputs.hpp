#pragma once

#include <ATen/core/Tensor.h>

#include <string_view>
#include <vector>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// What a model returns on calibration batches, before its parts are judged by what they change of it.
/// @throws Error `id` for NaN, infinities, or a batch without samples
void check_outputs(std::string_view id, const std::vector<std::vector<at::Tensor>>& batches);

PARE_NAMESPACE_END
