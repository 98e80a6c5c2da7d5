#pragma once

#include <string_view>

#include "pare/graph/node.hpp"

PARE_NAMESPACE_BEGIN

/// Whether `text` has the form of `pattern`: `*` stands for any characters, `?` for one.
bool fits_pattern(std::string_view text, std::string_view pattern);
/// Whether a module's path is that of a module or of one inside it.
bool is_within(std::string_view module, std::string_view path);
/// Whether a pattern names a node: by its layer name, by its module's path, or by a module around it.
bool names_layer(const Node& node, std::string_view pattern);

PARE_NAMESPACE_END
