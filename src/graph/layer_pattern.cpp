#include "graph/layer_pattern.hpp"

PARE_NAMESPACE_BEGIN

bool fits_pattern(std::string_view text, std::string_view pattern) {
  std::size_t t = 0, p = 0;
  auto star = std::string_view::npos;
  std::size_t retry = 0;
  while (t < text.size()) {
    if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t]) && pattern[p] != '*') {
      ++t;
      ++p;
    } else if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      retry = t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++retry;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

bool is_within(std::string_view module, std::string_view path) {
  return module.starts_with(path) && (module.size() == path.size() || module[path.size()] == '.');
}

bool names_layer(const Node& node, std::string_view pattern) {
  if (fits_pattern(node.name, pattern)) return true;
  for (std::string_view path = node.module; !path.empty();) {
    if (fits_pattern(path, pattern)) return true;
    const auto dot = path.rfind('.');
    path = dot == std::string_view::npos ? std::string_view() : path.substr(0, dot);
  }
  return false;
}

PARE_NAMESPACE_END
