#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "pare/graph/op.hpp"
#include "pare/graph/operand.hpp"

PARE_NAMESPACE_BEGIN

/// What one run of a module's forward did, already in SSA form: the raw material that capture aligns into a `Graph`.
struct Trace {
  enum class Origin : std::uint8_t { Input, Weight, Constant, Result };

  struct Value {
    Origin origin = Origin::Result;
    std::string path;          ///< weights: their path
    std::size_t position = 0;  ///< inputs: which one
    at::Tensor constant;       ///< constants: the tensor itself (a live one, or a snapshot)
    c10::ScalarType dtype = c10::ScalarType::Float;
    std::vector<std::int64_t> sizes;
    bool depends_on_input = false;
  };

  struct Call {
    Op op;
    std::vector<Operand> operands;  ///< ids are positions in `values`
    std::vector<ValueId> outputs;
    bool barrier = false;
    c10::IValue guard;
  };

  std::vector<Value> values;
  std::vector<Call> calls;
  bool reads_values = false;  ///< values of tensors may have decided which calls were made, or their shapes
  std::vector<ValueId> outputs;

  /// Whether two values are one, or the same calls of the same values: `x.transpose(0, 1)` written twice.
  [[nodiscard]] bool same_value(ValueId a, ValueId b) const;
  /// Nearest module path at or before a call, for messages: the owner of the last weight read.
  [[nodiscard]] std::string module_at(std::size_t call) const;
  /// The owner of the first weight among these operands; empty where there is none.
  [[nodiscard]] std::string module_of(const std::vector<Operand>& operands) const;
};

/// `layer1.0.conv1` of `layer1.0.conv1.weight`; empty for a parameter of the root.
std::string owner_of(const std::string& weight_path);

PARE_NAMESPACE_END
