#include "capture/trace.hpp"

#include <algorithm>

PARE_NAMESPACE_BEGIN

std::string owner_of(const std::string& weight_path) {
  const auto dot = weight_path.rfind('.');
  return dot == std::string::npos ? std::string() : weight_path.substr(0, dot);
}

std::string Trace::module_at(std::size_t call) const {
  for (std::size_t i = std::min(call + 1, calls.size()); i-- > 0;) {
    std::string path;
    for (const auto& operand : calls[i].operands)
      operand.each_value([&](ValueId value) {
        if (values[index(value)].origin == Origin::Weight && path.empty()) path = owner_of(values[index(value)].path);
      });
    if (!path.empty()) return path;
  }
  return {};
}

PARE_NAMESPACE_END
