#include "pare/graph/operand.hpp"

PARE_NAMESPACE_BEGIN

Operand::Operand() = default;
Operand::Operand(ValueId value) : storage_(value) {}
Operand::Operand(Values values) : storage_(std::move(values)) {}
Operand::Operand(Flag flag) : storage_(flag) {}
Operand::Operand(bool flag) : storage_(flag ? Flag::True : Flag::False) {}
Operand::Operand(SymbolicInt integer) : storage_(std::move(integer)) {}
Operand::Operand(c10::ScalarType dtype) : storage_(SymbolicInt(static_cast<std::int64_t>(dtype))) {}
Operand::Operand(Ints integers) : storage_(std::move(integers)) {}
Operand::Operand(double number) : storage_(number) {}
Operand::Operand(Doubles numbers) : storage_(std::move(numbers)) {}
Operand::Operand(Bools flags) : storage_(std::move(flags)) {}
Operand::Operand(std::string text) : storage_(std::move(text)) {}
Operand::Operand(const c10::IValue& constant) {
  if (constant.isNone()) return;
  if (constant.isBool()) {
    storage_ = constant.toBool() ? Flag::True : Flag::False;
  } else if (constant.isInt() || constant.isSymInt()) {
    storage_ = SymbolicInt(constant.toSymInt().guard_int(__FILE__, __LINE__));
  } else if (constant.isDouble()) {
    storage_ = constant.toDouble();
  } else if (constant.isString()) {
    storage_ = constant.toStringRef();
  } else if (constant.isIntList() || constant.isSymIntList()) {
    const auto integers = constant.toDimVector();
    storage_ = Ints(integers.begin(), integers.end());
  } else if (constant.isDoubleList()) {
    storage_ = constant.toDoubleVector();
  } else if (constant.isBoolList()) {
    const auto flags = constant.toBoolList();
    storage_ = Bools(flags.begin(), flags.end());
  } else {
    storage_ = constant;
  }
}
Operand::Operand(const Operand& other) = default;
Operand::Operand(Operand&& other) noexcept = default;
Operand& Operand::operator=(const Operand& other) = default;
Operand& Operand::operator=(Operand&& other) noexcept = default;
Operand::~Operand() = default;

std::optional<std::int64_t> Operand::integer() const {
  if (const auto* symbolic = get<SymbolicInt>()) return symbolic->constant();
  if (const auto flag = boolean()) return *flag ? 1 : 0;
  return std::nullopt;
}

std::optional<std::vector<std::int64_t>> Operand::integers() const {
  if (const auto one = integer()) return std::vector<std::int64_t>{*one};
  const auto* many = get<Ints>();
  if (!many) return std::nullopt;
  std::vector<std::int64_t> result;
  for (const auto& entry : *many) {
    if (!entry.is_constant()) return std::nullopt;
    result.push_back(*entry.constant());
  }
  return result;
}

std::optional<double> Operand::number() const {
  if (const auto* real = get<double>()) return *real;
  if (const auto whole = integer()) return static_cast<double>(*whole);
  return std::nullopt;
}

std::optional<bool> Operand::boolean() const {
  const auto* flag = get<Flag>();
  if (!flag || *flag == Flag::Training || *flag == Flag::Evaluation) return std::nullopt;
  return *flag == Flag::True;
}

std::optional<bool> Operand::boolean(bool training) const {
  const auto* flag = get<Flag>();
  if (!flag) return std::nullopt;
  return *flag == Flag::Training ? training : *flag == Flag::Evaluation ? !training : *flag == Flag::True;
}

PARE_NAMESPACE_END
