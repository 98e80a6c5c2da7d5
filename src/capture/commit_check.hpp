#pragma once

#include "capture/origin.hpp"
#include "pare/capture/commit_options.hpp"

PARE_NAMESPACE_BEGIN

/// Runs the module's own forward on fresh values, in both modes, and compares it with the Model. Flags, buffers and the
/// random state are put back.
/// @throws Error `pare.commit.111` naming the first layer that differs, `.102` for a module of another type
void check_commit(const Model& model, torch::nn::Module& module, const Origin& origin, const CommitOptions& options);

PARE_NAMESPACE_END
