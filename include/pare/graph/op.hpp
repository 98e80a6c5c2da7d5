#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include <string>
#include <string_view>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// An operator: its name with overload (`aten::add.Tensor`) and its schema in this process.
///
/// Comparing ops is comparing handles. The unqualified form used in rules, `op("aten::add")`, is an `OpName`, which
/// matches every overload.
class Op {
 public:
  /// Looks the operator up. @throws Error `pare.graph.101` when this process has no such operator.
  explicit Op(std::string_view qualified_name);
  /// From the dispatcher's own handle.
  explicit Op(c10::OperatorHandle handle);

  /// `aten::add.Tensor`, or `aten::relu` where there is no overload name.
  [[nodiscard]] const std::string& name() const noexcept { return *name_; }
  /// `aten::add`: without the overload.
  [[nodiscard]] std::string_view base() const noexcept;
  [[nodiscard]] const c10::FunctionSchema& schema() const { return handle_.schema(); }
  [[nodiscard]] const c10::OperatorHandle& handle() const noexcept { return handle_; }
  /// Position of the argument called `argument`, or -1.
  [[nodiscard]] int argument(std::string_view argument) const;

  friend bool operator==(const Op& a, const Op& b) { return a.name_ == b.name_; }

 private:
  c10::OperatorHandle handle_;
  const std::string* name_;  // interned: one string per operator for the life of the process
};

/// A name to look for: with an overload (`aten::add.Tensor`) it matches that one, without it matches all of them.
struct OpName {
  std::string_view name;
  [[nodiscard]] bool matches(const Op& op) const {
    return name.find('.') == std::string_view::npos ? op.base() == name : op.name() == name;
  }
};

/// `model.graph().nodes(pare::op("aten::relu"))`.
constexpr OpName op(std::string_view name) noexcept { return {name}; }

PARE_NAMESPACE_END
