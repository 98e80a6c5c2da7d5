#pragma once

#include <torch/nn/module.h>

#include <functional>
#include <vector>

#include "pare/graph/graph.hpp"

PARE_NAMESPACE_BEGIN

/// Brings the `options` (and what is derived from them) of LibTorch's standard layers in line with the shapes that
/// their tensors have now, and with the constants of the graph where shapes do not say (groups, heads).
/// @return steps that put everything back
std::vector<std::function<void()>> update_layer_options(torch::nn::Module& root, const Graph& graph);

PARE_NAMESPACE_END
