#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pare/graph/node.hpp"

PARE_NAMESPACE_BEGIN

/// Whether `text` has the form of `pattern`: `*` stands for any characters, `?` for one.
bool fits_pattern(std::string_view text, std::string_view pattern);
/// Whether a module's path is that of a module or of one inside it.
bool is_within(std::string_view module, std::string_view path);
/// Whether a pattern names a node: by its layer name, by its module's path, or by a module around it.
bool names_layer(const Node& node, std::string_view pattern);

/// What a list of patterns asks for a node: the entry with exactly its name, otherwise the first that names it; null
/// where none does. A module that owns a weight has the name of that weight's layer, and layers inside it.
template <class Wish>
const Wish* wish_for(const Node& node, const std::vector<std::pair<std::string, Wish>>& wishes) {
  const Wish* first = nullptr;
  for (const auto& [pattern, wish] : wishes) {
    if (pattern == node.name) return &wish;
    if (first == nullptr && names_layer(node, pattern)) first = &wish;
  }
  return first;
}

PARE_NAMESPACE_END
