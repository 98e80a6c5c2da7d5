#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// Replaces a costly op by results of the shapes that it would have: zeros, or memory as it is. Arguments may be meta
/// tensors; results are where the arguments are.
/// @param count  arguments on top of the stack
/// @return false, with the stack as it was, when the op is not one of those, when its kernel shall judge the arguments,
/// or
///         when a result is no floating tensor (it may be an index)
bool shape_only_call(const c10::OperatorHandle& handle, torch::jit::Stack& stack, std::size_t count, bool zeros);

PARE_NAMESPACE_END
