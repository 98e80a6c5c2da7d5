#pragma once

#include <fmt/format.h>

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "onnx/constant.hpp"
#include "onnx/proto.hpp"
#include "pare/core/error.hpp"
#include "pare/core/qparams.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

namespace onnx {

using Names = std::vector<std::string>;

/// Builds the ONNX graph while the rules walk the Model: ATen values have ONNX names, constants become initializers
/// when something reads them.
class Emitter {
 public:
  Emitter(const Model& model, int opset);

  // What a rule reads.
  [[nodiscard]] const Graph& graph() const { return model_.graph(); }
  [[nodiscard]] const TensorType& type(ValueId value) const { return graph().value(value).type; }
  [[nodiscard]] int opset() const { return proto_.opset; }
  /// The constant behind a value, or null.
  [[nodiscard]] const Constant* constant(ValueId value) const;
  /// The quantization that a value's elements lie on, or null.
  [[nodiscard]] const QParams* qparams(ValueId value) const;
  /// ONNX name of a value; a constant becomes an initializer (with its DequantizeLinear) here.
  std::string value(ValueId value);
  /// ONNX name of an operand, empty where it is none.
  std::string input(const Node& node, std::size_t position);
  /// The same, cast to another dtype where it differs; numbers become constants of that dtype.
  std::string input_as(const Node& node, std::size_t position, c10::ScalarType dtype);

  // Constants.
  std::string tensor(const at::Tensor& values, const std::string& hint = "constant");
  std::string integers(const std::vector<std::int64_t>& values);
  std::string scalar(const at::Scalar& number, c10::ScalarType dtype);
  /// A rank-1 int64 tensor of these sizes: an initializer, or computed from the inputs' shapes.
  std::string shape(const std::vector<SymbolicInt>& sizes);

  // What a rule writes.
  /// A call with one result; `name` hints at what the result is called.
  std::string call(std::string op, Names inputs, Attributes attributes = {}, const std::string& name = {});
  Names calls(std::string op, Names inputs, std::size_t outputs, Attributes attributes = {});
  /// A call whose results are the node's.
  void result(const Node& node, std::string op, Names inputs, Attributes attributes = {});
  /// Gives a node's result an ONNX name that exists already.
  void alias(const Node& node, const std::string& name, std::size_t output = 0);
  void set_constant(ValueId value, Constant constant);
  void set_qparams(ValueId value, const QParams& qparams) { qparams_[index(value)] = qparams; }
  std::string cast(const std::string& name, c10::ScalarType from, c10::ScalarType to);
  std::string dequantize(const IntegerForm& form, const std::string& hint);
  enum class Bounds { Clipped, Kept };
  /// QuantizeLinear and DequantizeLinear, behind a Clip where the integers' type does not saturate at their bounds.
  /// @param bounds `Kept`: moved integers, which are within them already and get no Clip
  std::string requantize(const std::string& name, const QParams& qparams, const std::string& hint,
                         Bounds bounds = Bounds::Clipped);
  /// While set, results carry this layer's name.
  void enter(const Node& node) { layer_ = node.name; }

  /// Keeps a name for an input or an output. @throws Error `pare.onnx.102` when it is taken
  void reserve(const std::string& name);
  void declare_input(ValueId value, const std::string& name);
  void declare_output(ValueId value, const std::string& name);
  [[nodiscard]] Proto finish() &&;

  /// @throws Error `pare.onnx.101` naming the node's layer, operator and module
  template <class... Args>
  [[noreturn]] static void refuse(const Node& node, fmt::format_string<Args...> format, Args&&... args) {
    fail("pare.onnx.101", node.name, "{} (in module '{}') has no ONNX form: {}", node.op.name(), node.module,
         fmt::format(format, std::forward<Args>(args)...));
  }

 private:
  std::string unique(const std::string& wanted);
  bool rename(const std::string& from, const std::string& to);
  std::string dim(std::uint32_t index);
  std::string product(const SymbolicInt::Term& term);
  std::string symbolic(const SymbolicInt& size);
  std::string initializer(const at::Tensor& values, ElementType type, std::vector<std::int64_t> dims,
                          const std::string& hint);
  Port port(ValueId value, const std::string& name) const;

  const Model& model_;
  Proto proto_;
  std::string layer_;
  std::unordered_map<std::size_t, std::string> names_;  // by ValueId
  std::unordered_map<std::size_t, Constant> constants_;
  std::unordered_map<std::size_t, QParams> qparams_;
  std::unordered_set<std::string> taken_;
  std::map<std::string, std::string> small_;        // constants that many nodes read: by their text
  std::map<std::uint32_t, std::string> dim_names_;  // symbolic dims as scalars
};

}  // namespace onnx

PARE_NAMESPACE_END
