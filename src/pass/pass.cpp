#include "pare/pass/pass.hpp"

#include <c10/util/Type.h>

PARE_NAMESPACE_BEGIN

std::string pass_name(const std::type_info& type) {
  auto name = c10::demangle(type.name());
  name = name.substr(0, name.find('<'));  // policies are no part of the name
  const auto scope = name.rfind("::");
  return scope == std::string::npos ? name : name.substr(scope + 2);
}

PARE_NAMESPACE_END
