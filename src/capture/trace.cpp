#include "capture/trace.hpp"

#include <algorithm>

PARE_NAMESPACE_BEGIN

std::string owner_of(const std::string& weight_path) {
  const auto dot = weight_path.rfind('.');
  return dot == std::string::npos ? std::string() : weight_path.substr(0, dot);
}

std::string Trace::module_at(std::size_t call) const {
  for (std::size_t i = std::min(call + 1, calls.size()); i-- > 0;)
    if (auto path = module_of(calls[i].operands); !path.empty()) return path;
  return {};
}

std::string Trace::module_of(const std::vector<Operand>& operands) const {
  std::string path;
  for (const auto& operand : operands)
    operand.each_value([&](ValueId value) {
      if (values[index(value)].origin == Origin::Weight && path.empty()) path = owner_of(values[index(value)].path);
    });
  return path;
}

PARE_NAMESPACE_END
