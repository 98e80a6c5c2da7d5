#pragma once

#include <ATen/core/ivalue.h>

#include <concepts>
#include <string>
#include <variant>
#include <vector>

#include "pare/graph/ids.hpp"
#include "pare/graph/symbolic_int.hpp"

PARE_NAMESPACE_BEGIN

/// A flag of an op: a constant, or whether the Model is in training mode (or the opposite).
enum class Flag : std::uint8_t { False, True, Training, Evaluation };

/// One argument of a node, in the order of the op's schema: a value, a list of values, or a constant that may be
/// symbolic (`SymbolicInt` in the sizes, `Flag` in the training mode).
class Operand {
 public:
  using Values = std::vector<ValueId>;
  using Ints = std::vector<SymbolicInt>;
  using Doubles = std::vector<double>;
  using Bools = std::vector<bool>;
  using Storage = std::variant<std::monostate, ValueId, Values, Flag, SymbolicInt, Ints, double, Doubles, Bools,
                               std::string, c10::IValue>;

  // Defined out of line: what a variant of that many kinds is made of would otherwise be compiled wherever one is used.
  Operand();                     ///< None
  Operand(ValueId value);        // NOLINT: operands are written inline
  Operand(Values values);        // NOLINT
  Operand(Flag flag);            // NOLINT
  Operand(bool flag);            // NOLINT
  Operand(SymbolicInt integer);  // NOLINT
  template <std::integral T>
  requires(!std::same_as<T, bool>) Operand(T integer)
      : Operand(SymbolicInt(static_cast<std::int64_t>(integer))) {}  // NOLINT
  Operand(c10::ScalarType dtype);                                    // NOLINT
  Operand(Ints integers);                                            // NOLINT
  Operand(double number);                                            // NOLINT
  Operand(Doubles numbers);                                          // NOLINT
  Operand(Bools flags);                                              // NOLINT
  Operand(std::string text);                                         // NOLINT
  /// A constant as the dispatcher holds it, by its kind; devices, generators and complex scalars stay as they are.
  Operand(const c10::IValue& constant);  // NOLINT
  Operand(const Operand& other);
  Operand(Operand&& other) noexcept;
  Operand& operator=(const Operand& other);
  Operand& operator=(Operand&& other) noexcept;
  ~Operand();

  /// Typed access: null unless the operand holds a `T` (one of the alternatives of `Storage`).
  template <class T>
  [[nodiscard]] const T* get() const noexcept {
    return std::get_if<T>(&storage_);
  }
  template <class T>
  [[nodiscard]] T* get() noexcept {
    return std::get_if<T>(&storage_);
  }
  [[nodiscard]] bool is_none() const noexcept { return std::holds_alternative<std::monostate>(storage_); }
  [[nodiscard]] const Storage& storage() const noexcept { return storage_; }

  /// The value held, or `kNoValue`.
  [[nodiscard]] ValueId value() const noexcept {
    const auto* held = get<ValueId>();
    return held ? *held : kNoValue;
  }
  /// Calls `visit(ValueId&)` for each value held, one or a list; absent optional tensors are skipped.
  template <class Visit>
  void each_value(Visit&& visit) {
    if (auto* one = get<ValueId>()) visit(*one);
    if (auto* many = get<Values>())
      for (auto& value : *many)
        if (value != kNoValue) visit(value);
  }
  template <class Visit>
  void each_value(Visit&& visit) const {
    const_cast<Operand*>(this)->each_value([&](ValueId& value) { visit(static_cast<const ValueId&>(value)); });
  }

  // Constants as plain numbers, for rules that need them; an empty optional when symbolic or of another kind.
  [[nodiscard]] std::optional<std::int64_t> integer() const;                ///< also from a flag
  [[nodiscard]] std::optional<std::vector<std::int64_t>> integers() const;  ///< an int is a list of one
  [[nodiscard]] std::optional<double> number() const;                       ///< from a double, int or flag
  [[nodiscard]] std::optional<bool> boolean() const;                        ///< from a constant flag
  [[nodiscard]] std::optional<bool> boolean(bool training) const;           ///< from any flag, in that mode

 private:
  Storage storage_;
};

PARE_NAMESPACE_END
