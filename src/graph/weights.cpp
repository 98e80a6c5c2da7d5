#include "pare/graph/weights.hpp"

PARE_NAMESPACE_BEGIN

const std::vector<Narrowing>& Weights::narrowings(std::string_view path) const {
  static const std::vector<Narrowing> none;
  if (const auto found = find(path); found != end()) return found->second.narrowings;
  for (const auto& [name, weight] : *this)
    for (const auto& alias : weight.aliases)
      if (alias == path) return weight.narrowings;
  return none;
}

PARE_NAMESPACE_END
