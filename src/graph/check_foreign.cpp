#include "graph/check_foreign.hpp"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

#include "graph/shape_only_call.hpp"
#include "pare/core/error.hpp"
#include "pare/graph/interpreter.hpp"

PARE_NAMESPACE_BEGIN

namespace {

// In place or not, these give a tensor other memory, or look beyond what it has.
constexpr std::array<std::string_view, 6> kRefused{"aten::from_file", "aten::set",        "aten::resize",
                                                   "aten::resize_as", "aten::as_strided", "aten::as_strided_scatter"};

bool is_harmless(const Op& op) {
  auto base = op.base();
  if (!base.starts_with("aten::") && !base.starts_with("pare::")) return false;
  // LibTorch's own shorthands that leave out the checks of indices and sizes.
  if (base.find("unsafe") != std::string_view::npos && base != "aten::_unsafe_view") return false;
  // What modules write into their buffers is written in place.
  if (op.schema().is_mutable() && !base.ends_with('_')) return false;
  if (base.ends_with('_')) base.remove_suffix(1);
  return std::ranges::find(kRefused, base) == kRefused.end();
}

at::Tensor without_numbers(const TensorType& type, const std::vector<std::int64_t>& dims) {
  return at::empty(type.sizes_at(dims), at::TensorOptions(type.dtype).device(at::kMeta));
}

// Runs at these sizes; every result must have its type.
void check_types(const Model& model, const Weights& weights, const std::vector<std::int64_t>& dims) {
  const auto& graph = model.graph();
  const auto compute = [&](const Node& node, std::vector<c10::IValue>& stack) {
    if (!node.guard.isNone()) {
      stack = {node.guard};  // a value that was read: there is none here
      return true;
    }
    if (shape_only_call(node.op.handle(), stack, stack.size(), false)) return true;
    auto results = stack;
    try {
      node.op.handle().callBoxed(&results);
    } catch (const std::exception&) {
      results.clear();
      for (const auto output : node.outputs) results.emplace_back(without_numbers(graph.value(output).type, dims));
    }
    stack = std::move(results);
    return true;
  };
  const auto check = [&](ValueId id, const at::Tensor& tensor) {
    if (!tensor.defined()) return;
    const auto& value = graph.value(id);
    const auto expected = without_numbers(value.type, dims);
    if (value.kind == ValueKind::Result &&
        (tensor.sizes() != expected.sizes() || tensor.scalar_type() != expected.scalar_type()))
      fail("pare.graph.211", graph.node(value.producer).name, "{} gives {}[{}], and the graph says {}[{}]",
           graph.node(value.producer).op.name(), c10::toString(tensor.scalar_type()), fmt::join(tensor.sizes(), ", "),
           c10::toString(expected.scalar_type()), fmt::join(expected.sizes(), ", "));
  };
  std::vector<at::Tensor> inputs;
  for (const auto input : graph.inputs()) inputs.push_back(without_numbers(graph.value(input).type, dims));
  static_cast<void>(Interpreter(graph).run(graph, weights, false, inputs, check, compute));
}

}  // namespace

void check_foreign(const Model& model) {
  const auto& graph = model.graph();
  for (const auto id : graph.nodes())
    if (const auto& node = graph.node(id); !is_harmless(node.op))
      fail("pare.graph.210", node.name, "{} reaches for more than its operands", node.op.name());
  if (std::ranges::all_of(graph.outputs(), [](ValueId output) { return output == kNoValue; }))
    fail("pare.graph.205", "", "the graph has no output");
  const at::NoGradGuard no_grad;
  auto weights = model.weights();
  for (auto& [path, weight] : weights)
    weight.tensor = at::empty(weight.tensor.sizes(), weight.tensor.options().device(at::kMeta).requires_grad(false));
  auto dims = graph.example_dims();
  check_types(model, weights, dims);
  if (dims.empty()) return;
  ++dims.front();
  check_types(model, weights, dims);
}

PARE_NAMESPACE_END
