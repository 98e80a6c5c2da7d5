#pragma once

#include <string>
#include <vector>

#include "pare/graph/ids.hpp"
#include "pare/graph/op.hpp"
#include "pare/graph/operand.hpp"

PARE_NAMESPACE_BEGIN

/// When a node runs.
enum class Condition : std::uint8_t { Always, Training, Evaluation };

/// One call of an operator.
struct Node {
  NodeId id{};
  Op op;
  std::vector<Operand> operands;  ///< one for every argument of the schema, in its order
  std::vector<ValueId> outputs;   ///< flat: an op that returns `Tensor[]` has one for each element
  std::string name;               ///< unique layer name, e.g. `layer1.0.conv1`, `layer1.0.add`
  std::string module;             ///< path of the module whose weights it uses, or of the nearest one before it
  Condition condition = Condition::Always;
  bool barrier = false;  ///< has an effect that could not be made pure (in place, random state): keeps its position
  /// For ops that return no tensor (`aten::equal`, `aten::item`): the result seen at capture. A run that sees another
  /// one throws Error `pare.run.106`, because the module would have taken another path.
  c10::IValue guard;

  /// The operand for the schema's argument `argument`. @throws Error `pare.graph.102` when there is none.
  [[nodiscard]] const Operand& operand(std::string_view argument) const;
  /// The operand at a position. @throws Error `pare.graph.102` when out of range.
  [[nodiscard]] const Operand& operand(std::size_t position) const;
  /// The value at a position of the schema, or `kNoValue`.
  [[nodiscard]] ValueId input(std::size_t position) const { return operand(position).value(); }
  /// The first output.
  [[nodiscard]] ValueId output() const { return outputs.empty() ? kNoValue : outputs.front(); }
  [[nodiscard]] bool is(std::string_view op_name) const { return pare::op(op_name).matches(op); }
};

PARE_NAMESPACE_END
