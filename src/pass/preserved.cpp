#include "pare/pass/preserved.hpp"

#include <algorithm>

PARE_NAMESPACE_BEGIN

bool Preserved::survives(std::type_index analysis, Aspect aspects) const {
  return (aspects & aspects_) == aspects || std::find(kept_.begin(), kept_.end(), analysis) != kept_.end();
}

Preserved operator&(const Preserved& a, const Preserved& b) {
  Preserved both(a.aspects_ & b.aspects_);
  const auto add = [&](const Preserved& from, const Preserved& other) {
    for (const auto type : from.kept_)
      if (other.is_all() || std::find(other.kept_.begin(), other.kept_.end(), type) != other.kept_.end())
        both.kept_.push_back(type);
  };
  add(a, b);
  if (!b.is_all()) add(b, a);
  return both;
}

PARE_NAMESPACE_END
