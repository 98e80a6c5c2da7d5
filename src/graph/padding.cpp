#include "graph/padding.hpp"

#include <ATen/PadNd.h>

PARE_NAMESPACE_BEGIN

bool is_padding(const Node& node) {
  return node.is("aten::constant_pad_nd") || node.is("aten::pad") || node.is("aten::_pad_enum");
}

bool pads_constant(const Node& node) {
  if (node.is("aten::constant_pad_nd")) return true;
  if (!is_padding(node)) return false;
  const auto& mode = node.operand("mode");
  if (const auto* name = mode.get<std::string>()) return *name == "constant";
  return mode.integer() == static_cast<std::int64_t>(at::padding_mode::constant);
}

bool pads_zero(const Node& node) {
  if (!pads_constant(node)) return false;
  const auto& value = node.operand("value");
  return value.is_none() || value.number() == 0.0;
}

PARE_NAMESPACE_END
