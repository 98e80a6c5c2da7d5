#include "pare/onnx/save.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <limits>
#include <unordered_map>

#include "onnx/rules.hpp"
#include "onnx/write_model.hpp"
#include "pare/graph/fusion.hpp"
#include "pare/graph/interpreter.hpp"

PARE_NAMESPACE_BEGIN

namespace onnx {

Rule find_rule(const Op& op) {
  static const auto table = [] {
    std::unordered_map<std::string_view, Rule> rules;
    for (const auto family :
         {layer_rules(), elementwise_rules(), activation_rules(), shape_rules(), selection_rules(), creation_rules(),
          reduction_rules(), image_rules(), norm_rules(), attention_rules(), recurrent_rules(), quantization_rules()})
      for (const auto& entry : family) rules.emplace(entry.op, entry.rule);
    return rules;
  }();
  const auto found = table.find(op.base());
  return found == table.end() ? nullptr : found->second;
}

std::int64_t dim_of(const Node& node, std::size_t position, std::size_t rank) {
  const auto dim = integer_of(node, position);
  return dim < 0 ? dim + static_cast<std::int64_t>(rank) : dim;
}

std::vector<std::int64_t> integers_of(const Node& node, std::size_t position) {
  const auto numbers = node.operand(position).integers();
  if (!numbers) Emitter::refuse(node, "argument {} is not constant", position);
  return *numbers;
}

std::int64_t integer_of(const Node& node, std::size_t position) {
  const auto number = node.operand(position).integer();
  if (!number) Emitter::refuse(node, "argument {} is not constant", position);
  return *number;
}

double number_of(const Node& node, std::size_t position, double otherwise) {
  if (position >= node.operands.size() || node.operand(position).is_none()) return otherwise;
  const auto number = node.operand(position).number();
  if (!number) Emitter::refuse(node, "argument {} is not a constant number", position);
  return *number;
}

namespace {

constexpr int kOldest = 17, kNewest = 21;

/// Walks the Model's nodes: computes what is constant, asks the rules for the rest.
class Walk {
 public:
  Walk(const Model& model, Emitter& out) : graph_(model.graph()), out_(out) {}

  void run() {
    for (const auto id : graph_.nodes()) {
      const auto& node = graph_.node(id);
      if (node.condition == Condition::Training) continue;
      if (node.outputs.empty() && !node.guard.isNone()) continue;
      if (!is_used(node)) continue;
      out_.enter(node);
      if (fold(node)) continue;
      const auto rule = find_rule(node.op);
      if (!rule) Emitter::refuse(node, "no rule is known for this operator");
      round_before_clamp(node);
      rule(out_, node);
      if (passes_integers(graph_, id)) pass_integers(node);
    }
  }

 private:
  // In evaluation mode, and by something that is written.
  [[nodiscard]] bool is_used(const Node& node) const {
    return std::ranges::any_of(node.outputs, [&](ValueId value) {
      return std::ranges::any_of(graph_.uses(value), [&](const Use& use) {
        return use.node == kNoNode || graph_.node(use.node).condition != Condition::Training;
      });
    });
  }

  // A call on constants alone is made here.
  bool fold(const Node& node) {
    if (node.barrier || node.op.handle().hasTag(at::Tag::nondeterministic_seeded)) return false;
    if (fold_weight(node)) return true;
    std::int64_t read = 0;
    bool whole = true;
    for (const auto& operand : node.operands) {
      operand.each_value([&](ValueId value) {
        const auto* held = out_.constant(value);
        whole = whole && held && !held->integers;
        if (held) read += held->tensor.numel();
      });
      if (const auto* flag = operand.get<Flag>()) whole = whole && (*flag == Flag::True || *flag == Flag::False);
      if (const auto* size = operand.get<SymbolicInt>()) whole = whole && size->is_constant();
      if (const auto* sizes = operand.get<Operand::Ints>())
        whole = whole && std::ranges::all_of(*sizes, &SymbolicInt::is_constant);
    }
    constexpr std::int64_t kMayGrowTo = 1 << 20;
    for (const auto output : node.outputs) whole = whole && elements(output) <= std::max(read, kMayGrowTo);
    if (!whole || node.op.base() == "pare::training_select") return false;
    const auto results =
        Interpreter::call(node, {}, false, [&](ValueId value) { return out_.constant(value)->tensor; });
    for (std::size_t i = 0; i < results.size(); ++i)
      out_.set_constant(node.outputs[i], {results[i].contiguous(), std::nullopt});
    return true;
  }

  // Quantized weights stay integers, through whatever their scales can follow.
  bool fold_weight(const Node& node) {
    const auto source = node.operands.empty() ? kNoValue : node.operand(0).value();
    const auto* held = source == kNoValue ? nullptr : out_.constant(source);
    if (!held) return false;
    if (node.op.base().starts_with("aten::fake_quantize")) {
      auto form = quantized(node, *held);
      if (!form) return false;
      out_.set_constant(node.output(), {dequantized(*form), std::move(form)});
      return true;
    }
    if (!held->integers) return false;
    for (std::size_t i = 1; i < node.operands.size(); ++i)
      if (node.operands[i].value() != kNoValue) return false;
    const auto& form = *held->integers;
    if (!moves(node)) return false;
    const auto results = Interpreter::call(node, {}, false, [&](ValueId) { return form.integers; });
    auto result = moved(graph_, node, form, results.at(0));
    if (!result) return false;
    out_.set_constant(node.output(), {dequantized(*result), std::move(result)});
    return true;
  }

  static bool moves(const Node& node) {
    constexpr std::array<std::string_view, 8> kMoving{"aten::t",          "aten::numpy_T", "aten::transpose",
                                                      "aten::contiguous", "aten::alias",   "aten::detach",
                                                      "aten::reshape",    "aten::view"};
    return std::ranges::find(kMoving, node.op.base()) != kMoving.end();
  }

  std::optional<IntegerForm> quantized(const Node& node, const Constant& held) const {
    const auto tensor_of = [&](std::size_t position, c10::ScalarType dtype) -> at::Tensor {
      if (const auto value = node.input(position); value != kNoValue) {
        const auto* given = out_.constant(value);
        return given ? given->tensor : at::Tensor();
      }
      const auto number = node.operand(position).number();
      return number ? at::full({}, *number, dtype) : at::Tensor();
    };
    auto scale = tensor_of(1, at::kFloat), zero_point = tensor_of(2, at::kInt);
    const auto low = node.operand("quant_min").integer(), high = node.operand("quant_max").integer();
    if (!scale.defined() || !zero_point.defined() || !low || !high) return std::nullopt;
    const bool per_channel = node.op.base() == "aten::fake_quantize_per_channel_affine";
    const auto axis = per_channel ? node.operand("axis").integer() : std::optional<std::int64_t>(0);
    if (!axis) return std::nullopt;
    if (!per_channel) scale = scale.reshape({}), zero_point = zero_point.reshape({});
    return integer_form(held.tensor, scale, zero_point, *axis, *low, *high);
  }

  [[nodiscard]] std::int64_t elements(ValueId value) const {
    std::int64_t count = 1;
    for (const auto& size : graph_.value(value).type.sizes) count *= size.constant().value_or(0);
    return count;
  }

  // A clamp between a convolution and its rounding that is not the integers' own saturation: rounded before, too, on
  // the same grid, which changes no result, and the convolution writes integers.
  void round_before_clamp(const Node& node) {
    const auto bounds = clamp_bounds(node);
    if (!bounds || graph_.uses(node.output()).size() != 1) return;
    const auto* layer = graph_.producer(node.input(0));
    const auto use = graph_.uses(node.output())[0];
    if (!layer || family_of(graph_, layer->id) != OpFamily::Convolution || !out_.qparams(layer->input(0)) ||
        use.node == kNoNode || graph_.uses(layer->output()).size() != 1)
      return;
    const auto& quantizer = graph_.node(use.node);
    if (!quantizer.is("aten::fake_quantize_per_tensor_affine")) return;
    const auto qparams = literal_qparams(quantizer);
    if (!qparams || (bounds->first <= qparams->low() && bounds->second >= qparams->high())) return;
    out_.alias(*layer, out_.requantize(out_.value(layer->output()), *qparams, layer->name));
  }

  // Of an activation that clamps to numbers.
  static std::optional<std::pair<double, double>> clamp_bounds(const Node& node) {
    constexpr auto kInfinity = std::numeric_limits<double>::infinity();
    const auto number = [&](std::string_view argument, double otherwise) {
      const auto& operand = node.operand(argument);
      return operand.is_none() ? std::optional(otherwise) : operand.number();
    };
    if (node.is("aten::relu")) return std::pair(0.0, kInfinity);
    if (node.is("aten::relu6")) return std::pair(0.0, 6.0);
    const bool hardtanh = node.is("aten::hardtanh");
    if (!hardtanh && !node.is("aten::clamp")) return std::nullopt;
    const auto low = number(hardtanh ? "min_val" : "min", -kInfinity),
               high = number(hardtanh ? "max_val" : "max", kInfinity);
    return low && high ? std::optional(std::pair(*low, *high)) : std::nullopt;
  }

  static std::optional<QParams> literal_qparams(const Node& node) {
    const auto scale = node.operand(1).number();
    const auto zero_point = node.operand(2).integer(), low = node.operand(3).integer(),
               high = node.operand(4).integer();
    if (!scale || !zero_point || !low || !high) return std::nullopt;
    return QParams{*scale, *zero_point, *low, *high};
  }

  // Behind an op that only moves integers they are integers still: said again, so that back ends need not find out.
  void pass_integers(const Node& node) {
    if (out_.qparams(node.output())) return;
    const QParams* shared = nullptr;
    bool all = true;
    const auto read = [&](ValueId value) {
      const auto* qparams = out_.qparams(value);
      all = all && qparams && (!shared || *shared == *qparams);
      shared = qparams;
    };
    if (const auto* values = node.operand(0).get<Operand::Values>())
      std::ranges::for_each(*values, read);
    else
      read(node.input(0));
    if (!all || !shared) return;
    const auto qparams = *shared;
    for (std::size_t i = 0; i < node.outputs.size(); ++i) {
      if (graph_.value(node.outputs[i]).type.dtype != at::kFloat || graph_.uses(node.outputs[i]).empty()) continue;
      out_.alias(node, out_.requantize(out_.value(node.outputs[i]), qparams, node.name, Emitter::Bounds::Kept), i);
      out_.set_qparams(node.outputs[i], qparams);
    }
  }

  const Graph& graph_;
  Emitter& out_;
};

// int4 and blocks of a scale each came with 21.
int needed_opset(const Graph& graph, int wanted) {
  for (const auto id : graph.nodes()) {
    const auto& node = graph.node(id);
    if (!node.op.base().starts_with("aten::fake_quantize")) continue;
    if (table_weight(graph, node.input(0)) == kNoValue) continue;
    const auto low = node.operand("quant_min").integer().value_or(-128);
    const auto high = node.operand("quant_max").integer().value_or(127);
    if ((low >= -8 && high <= 7) || graph.value(node.input(0)).kind != ValueKind::Weight) return kNewest;
  }
  return wanted;
}

Names names_of(const std::vector<ValueId>& values, const Names& given,
               const std::function<std::string(std::size_t)>& own, std::string_view what) {
  if (!given.empty() && given.size() != values.size())
    fail("pare.onnx.102", "", "{} names for {} {}", given.size(), values.size(), what);
  auto names = given;
  for (std::size_t i = names.size(); i < values.size(); ++i) names.push_back(own(i));
  return names;
}

Proto proto_of(const Model& model, const SaveOptions& options) {
  const auto& graph = model.graph();
  Emitter out(model, needed_opset(graph, options.opset));
  const auto inputs = names_of(
      graph.inputs(), options.input_names, [&](std::size_t i) { return graph.value(graph.inputs()[i]).name; },
      "inputs");
  std::size_t next = 0;
  const auto own_output = [&](std::size_t) {  // the next that no input has
    std::string name;
    do {
      name = next == 0 ? std::string("output") : fmt::format("output_{}", next);
      ++next;
    } while (std::ranges::find(inputs, name) != inputs.end());
    return name;
  };
  const auto outputs = names_of(graph.outputs(), options.output_names, own_output, "outputs");
  for (const auto& name : inputs) out.reserve(name);
  for (const auto& name : outputs) out.reserve(name);
  for (std::size_t i = 0; i < inputs.size(); ++i) out.declare_input(graph.inputs()[i], inputs[i]);
  Walk(model, out).run();
  for (std::size_t i = 0; i < outputs.size(); ++i)
    if (graph.outputs()[i] != kNoValue) out.declare_output(graph.outputs()[i], outputs[i]);
  auto proto = std::move(out).finish();
  proto.metadata = options.metadata;
  for (std::size_t i = 0; i < model.notes().size(); ++i)
    proto.metadata.emplace(fmt::format("pare.note.{}", i), model.notes()[i]);
  if (const auto text = other_than_utf8(proto); !text.empty())
    fail("pare.onnx.102", text, "names and metadata must be UTF-8");
  return proto;
}

}  // namespace

void save(const Model& model, const std::string& path, const SaveOptions& options) {
  if (options.opset < kOldest || options.opset > kNewest)
    fail("pare.onnx.102", "", "operator set {}: {} to {} can be written", options.opset, kOldest, kNewest);
  const at::NoGradGuard no_grad;
  write_model(proto_of(model, options), path, options.external_above);
}

}  // namespace onnx

PARE_NAMESPACE_END
