#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <string_view>
#include <utility>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// @throws Error `pare.distill.104` naming `where` and both shapes
void require_same_shape(const at::Tensor& student, const at::Tensor& teacher, std::string_view where);
/// Feature maps `[N, C, ...]` of different sizes averaged down to the smaller size; others as they are.
std::pair<at::Tensor, at::Tensor> same_map(const at::Tensor& a, const at::Tensor& b);

PARE_NAMESPACE_END
