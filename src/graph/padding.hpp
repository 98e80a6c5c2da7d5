#pragma once

#include "pare/graph/node.hpp"

PARE_NAMESPACE_BEGIN

/// Whether a node adds elements at the borders of its input: `constant_pad_nd`, `pad`, or `_pad_enum`, which is what
/// `torch::nn::functional::pad` calls.
[[nodiscard]] bool is_padding(const Node& node);
/// Whether what a padding adds is one number, not a copy of the border.
[[nodiscard]] bool pads_constant(const Node& node);
/// Whether that number is zero.
[[nodiscard]] bool pads_zero(const Node& node);

PARE_NAMESPACE_END
