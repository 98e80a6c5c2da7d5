#include "capture/trace.hpp"

#include <algorithm>

PARE_NAMESPACE_BEGIN

std::string owner_of(const std::string& weight_path) {
  const auto dot = weight_path.rfind('.');
  return dot == std::string::npos ? std::string() : weight_path.substr(0, dot);
}

namespace {

template <class SameValue>
bool same_operand(const Operand& a, const Operand& b, const SameValue& same_value) {
  if (a.storage().index() != b.storage().index()) return false;
  if (a.get<ValueId>()) return same_value(a.value(), b.value());
  if (a.get<Operand::Values>() || a.get<c10::IValue>()) return false;  // no view has them
  return a.storage() == b.storage();
}

}  // namespace

bool Trace::same_value(ValueId a, ValueId b) const {
  if (a == b) return true;
  const auto maker = [&](ValueId value) {
    return std::ranges::find_if(calls, [&](const Call& call) { return std::ranges::count(call.outputs, value) > 0; });
  };
  const auto one = maker(a), other = maker(b);
  if (one == calls.end() || other == calls.end() || one->barrier || other->barrier || !(one->op == other->op) ||
      one->operands.size() != other->operands.size() ||
      std::ranges::find(one->outputs, a) - one->outputs.begin() !=
          std::ranges::find(other->outputs, b) - other->outputs.begin())
    return false;
  return std::ranges::equal(one->operands, other->operands, [&](const Operand& x, const Operand& y) {
    return same_operand(x, y, [&](ValueId v, ValueId w) { return same_value(v, w); });
  });
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
