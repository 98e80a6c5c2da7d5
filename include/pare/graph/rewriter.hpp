#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// The sole editor of a Model's graph. Edits take effect at once; ids of what is not erased stay valid.
///
/// A Model that shares its graph with copies gets a graph of its own on the first edit.
class Rewriter {
 public:
  explicit Rewriter(Model& model) : model_(&model) {}

  /// Inserts a call right before (after) `anchor`.
  /// @param types one entry for each output; empty: one output of the same type as the first tensor operand
  /// @param name  layer name, made unique; empty: `<module of anchor>.<op>`
  /// @return the new node
  NodeId insert_before(NodeId anchor, std::string_view op, std::vector<Operand> operands,
                       std::vector<TensorType> types = {}, std::string name = {});
  NodeId insert_after(NodeId anchor, std::string_view op, std::vector<Operand> operands,
                      std::vector<TensorType> types = {}, std::string name = {});
  /// Inserts at the very front: for calls on inputs and weights.
  NodeId insert_front(std::string_view op, std::vector<Operand> operands, std::vector<TensorType> types = {},
                      std::string name = {});
  /// Makes a node call another op. Without operands it keeps its own, which must fit the new schema's first arguments
  /// (the rest take their defaults). Outputs, name and position stay.
  /// @throws Error `pare.graph.111` when operands do not fit the schema.
  void replace(NodeId node, std::string_view op, std::vector<Operand> operands = {});
  void set_operand(NodeId node, std::size_t position, Operand operand);
  void set_operand(NodeId node, std::string_view argument, Operand operand);
  /// Redirects the uses of `from` (model outputs included) to `to`, except those in `keep`.
  void replace_uses(ValueId from, ValueId to, const std::vector<NodeId>& keep = {});
  /// Redirects one use of `from`; in a list, wherever it stands.
  void replace_use(Use use, ValueId from, ValueId to);
  /// Removes a node. @throws Error `pare.graph.112` while its outputs are used.
  void erase(NodeId node);
  /// Removes nodes whose results nobody uses and weights nobody reads; barriers stay. @return how many nodes went
  std::size_t eliminate_dead();

  /// Adds a tensor to the weight table. @return its value. @throws Error `pare.graph.113` when the path is taken.
  ValueId add_weight(std::string path, at::Tensor tensor, bool is_parameter = false);
  /// Replaces a tensor, shape changes included. @throws Error `pare.graph.104` when there is no such path.
  void set_weight(std::string_view path, at::Tensor tensor);
  /// Keeps the entries `kept` of a weight along `dim`, in that order, and records the selection in the weight table
  /// (`Weights::narrowings`), so that it can be repeated on the live module and on an optimizer's state. Every
  /// structural edit of a weight goes through here; the nodes that read it are the caller's to adapt.
  /// @throws Error `pare.graph.104` no such path, `.114` a dim or index that the tensor has not, or nothing kept
  void narrow(std::string_view path, std::int64_t dim, std::vector<std::int64_t> kept);
  /// The same, one cut after the other, with nothing changed where one of them is refused.
  void narrow(std::string_view path, std::vector<Narrowing> cuts);
  void set_type(ValueId value, TensorType type);
  /// Makes the Model refuse to run with a dim smaller than this. @param dim index in `Graph::dims()`
  void limit_dim(std::size_t dim, std::int64_t smallest);
  void rename(NodeId node, std::string name);

  [[nodiscard]] const Graph& graph() const { return model_->graph(); }
  [[nodiscard]] Model& model() noexcept { return *model_; }

 private:
  Graph& edit();
  NodeId insert_at(std::size_t position, std::string_view op, std::vector<Operand> operands,
                   std::vector<TensorType> types, std::string name, std::string module);

  Model* model_;
};

PARE_NAMESPACE_END
