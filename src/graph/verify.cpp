#include "pare/graph/verify.hpp"

#include <ATen/core/jit_type.h>

#include <unordered_set>

#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

bool is_tensor_list(const c10::Type& type) {
  const auto* list = type.castRaw<c10::ListType>();
  if (!list) return false;
  const auto& element = *list->getElementType();
  if (element.kind() == c10::TypeKind::TensorType) return true;
  const auto* optional = element.castRaw<c10::OptionalType>();
  return optional && optional->getElementType()->kind() == c10::TypeKind::TensorType;
}

// Whether the dispatcher takes an operand of this kind for an argument of this type. What the graph has no kind for
// (devices, generators, …) travels as an IValue and is left to the dispatcher.
bool fits(const Operand& operand, const c10::Type& type) {
  if (operand.get<c10::IValue>()) return true;
  switch (type.kind()) {
    case c10::TypeKind::OptionalType:
      return operand.is_none() || operand.value() != kNoValue ||
             fits(operand, *type.castRaw<c10::OptionalType>()->getElementType());
    case c10::TypeKind::TensorType:
      return operand.get<ValueId>() != nullptr;
    case c10::TypeKind::NumberType:
      return operand.get<SymbolicInt>() || operand.get<double>() || operand.get<Flag>();
    case c10::TypeKind::IntType:
    case c10::TypeKind::SymIntType:
      return operand.get<SymbolicInt>() != nullptr;
    case c10::TypeKind::FloatType:
    case c10::TypeKind::SymFloatType:
      return operand.get<double>() != nullptr;
    case c10::TypeKind::BoolType:
    case c10::TypeKind::SymBoolType:
      return operand.get<Flag>() != nullptr;
    case c10::TypeKind::StringType:
      return operand.get<std::string>() != nullptr;
    case c10::TypeKind::ListType: {
      if (is_tensor_list(type)) return operand.get<Operand::Values>() != nullptr;
      const auto element = type.castRaw<c10::ListType>()->getElementType()->kind();
      if (element == c10::TypeKind::IntType || element == c10::TypeKind::SymIntType)
        return operand.get<Operand::Ints>() != nullptr;
      if (element == c10::TypeKind::FloatType) return operand.get<Operand::Doubles>() != nullptr;
      if (element == c10::TypeKind::BoolType) return operand.get<Operand::Bools>() != nullptr;
      return operand.get<Operand::Ints>() || operand.get<Operand::Doubles>() || operand.get<Operand::Bools>();
    }
    default:
      return false;
  }
}

class Verifier {
 public:
  explicit Verifier(const Graph& graph)
      : graph_(graph), defined_(graph.value_count(), false), condition_(graph.value_count(), Condition::Always) {}

  void run() {
    check_dims();
    std::unordered_set<std::string> names;
    for (const auto input : graph_.inputs()) {
      const auto& value = known(input, "input");
      if (value.kind != ValueKind::Input) fail("pare.graph.205", value.name, "a model input is not declared as one");
      if (value.name.empty() || !names.insert(value.name).second)
        fail("pare.graph.201", value.name, "input names must be unique and not empty");
      check_sizes(value.type, value.name);
      defined_[index(input)] = true;
    }
    names.clear();
    for (const auto id : graph_.nodes()) {
      const auto& node = graph_.node(id);
      if (node.name.empty()) fail("pare.graph.201", node.op.name(), "a node has no layer name");
      if (!names.insert(node.name).second) fail("pare.graph.201", node.name, "two nodes have this layer name");
      check_operands(node);
      check_results(node);
    }
    for (const auto output : graph_.outputs())
      if (output != kNoValue) check_use(output, "output", Condition::Always);
  }

 private:
  const Value& known(ValueId id, std::string_view where) const {
    if (index(id) >= graph_.value_count()) fail("pare.graph.202", where, "uses value {}, which is unknown", index(id));
    return graph_.value(id);
  }

  void check_dims() const {
    if (graph_.dims().size() != graph_.example_dims().size())
      fail("pare.graph.206", "", "{} dims, but {} example sizes", graph_.dims().size(), graph_.example_dims().size());
    std::unordered_set<std::string> names;
    for (const auto& dim : graph_.dims())
      if (dim.empty() || !names.insert(dim).second)
        fail("pare.graph.201", dim, "dim names must be unique and not empty");
  }

  void check_size(const SymbolicInt& size, std::string_view where) const {
    if (size.divisor() <= 0) fail("pare.graph.206", where, "a size is divided by {}", size.divisor());
    for (const auto& term : size.terms())
      for (const auto dim : term.dims)
        if (dim >= graph_.dims().size())
          fail("pare.graph.206", where, "a size depends on dim {}, and the graph has {}", dim, graph_.dims().size());
  }
  void check_sizes(const TensorType& type, std::string_view where) const {
    for (const auto& size : type.sizes) check_size(size, where);
  }

  void check_use(ValueId id, std::string_view where, Condition user) {
    const auto& value = known(id, where);
    if (value.kind == ValueKind::Weight) return check_sizes(value.type, where);
    if (!defined_[index(id)]) fail("pare.graph.202", where, "uses value {} before it is computed", index(id));
    const auto condition = condition_[index(id)];
    if (condition != Condition::Always && condition != user)
      fail("pare.graph.207", where, "uses value {}, which is only computed in {} mode", index(id),
           condition == Condition::Training ? "training" : "evaluation");
  }

  void check_operands(const Node& node) {
    const auto& arguments = node.op.schema().arguments();
    if (node.operands.size() != arguments.size())
      fail("pare.graph.203", node.name, "{} takes {} operands, the node has {}", node.op.name(), arguments.size(),
           node.operands.size());
    const bool selects = node.op.base() == "pare::training_select";
    for (std::size_t i = 0; i < arguments.size(); ++i) {
      const auto& operand = node.operands[i];
      if (!fits(operand, *arguments[i].type()))
        fail("pare.graph.204", node.name, "operand '{}' of {} must be {}", arguments[i].name(), node.op.name(),
             arguments[i].type()->str());
      const auto user = !selects ? node.condition : i == 0 ? Condition::Training : Condition::Evaluation;
      operand.each_value([&](ValueId value) { check_use(value, node.name, user); });
      if (const auto* size = operand.get<SymbolicInt>()) check_size(*size, node.name);
      if (const auto* sizes = operand.get<Operand::Ints>())
        for (const auto& size : *sizes) check_size(size, node.name);
    }
  }

  void check_results(const Node& node) {
    std::size_t tensors = 0;
    bool any_count = node.barrier;  // a write is kept for its effect; its result may be named elsewhere
    for (const auto& result : node.op.schema().returns()) {
      tensors += result.type()->kind() == c10::TypeKind::TensorType || is_optional_tensor(*result.type()) ? 1 : 0;
      any_count = any_count || is_tensor_list(*result.type());
    }
    if (!any_count && node.outputs.size() != tensors)
      fail("pare.graph.205", node.name, "{} has {} results, the node has {}", node.op.name(), tensors,
           node.outputs.size());
    for (std::size_t i = 0; i < node.outputs.size(); ++i) {
      const auto& value = known(node.outputs[i], node.name);
      if (value.kind != ValueKind::Result || value.producer != node.id || value.position != i ||
          defined_[index(value.id)])
        fail("pare.graph.205", node.name, "result {} is another node's value", i);
      check_sizes(value.type, node.name);
      defined_[index(value.id)] = true;
      condition_[index(value.id)] = node.condition;
    }
  }

  static bool is_optional_tensor(const c10::Type& type) {
    const auto* optional = type.castRaw<c10::OptionalType>();
    return optional && optional->getElementType()->kind() == c10::TypeKind::TensorType;
  }

  const Graph& graph_;
  std::vector<bool> defined_;
  std::vector<Condition> condition_;
};

}  // namespace

void verify(const Graph& graph) { Verifier(graph).run(); }

void verify(const Model& model) {
  const auto& graph = model.graph();
  verify(graph);
  for (std::size_t i = 0; i < graph.value_count(); ++i) {
    const auto& value = graph.value(ValueId{static_cast<std::uint32_t>(i)});
    if (value.kind != ValueKind::Weight || graph.uses(value.id).empty()) continue;
    const auto found = model.weights().find(value.name);
    if (found == model.weights().end() || !found->second.tensor.defined())
      fail("pare.graph.208", value.name, "the graph reads this weight and the weight table has none");
    const auto& tensor = found->second.tensor;
    TensorType actual{tensor.scalar_type(), {}};
    for (const auto size : tensor.sizes()) actual.sizes.emplace_back(size);
    if (actual != value.type)
      fail("pare.graph.209", value.name, "the weight is {} of shape {}, the graph was made for another shape or dtype",
           c10::toString(actual.dtype), c10::str(tensor.sizes()));
  }
}

PARE_NAMESPACE_END
