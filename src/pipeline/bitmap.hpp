#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// A picture for a page: a `data:` address of a bitmap file with 256 colours, 16 greys times 16 strengths of heat.
/// @param grey `[h, w]`, 0 to 1
/// @param heat `[h, w]`, 0 to 1: where it is high the grey turns orange; undefined: nowhere
std::string bitmap_address(const at::Tensor& grey, const at::Tensor& heat = {});

PARE_NAMESPACE_END
