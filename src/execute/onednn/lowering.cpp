#include "execute/onednn/lowering.hpp"

#include <ATen/ATen.h>

#include <algorithm>

#include "graph/padding.hpp"
#include "graph/written_weights.hpp"
#include "pare/core/error.hpp"
#include "pare/graph/interpreter.hpp"

PARE_NAMESPACE_BEGIN

Program lower(const Model& model, const CompileOptions& options) { return Lowering(model, options).run(); }

Lowering::Lowering(const Model& model, const CompileOptions& options)
    : model_(model), options_(options), program_{model.graph(), options.tune, {}, {}, {}, {}}, graph_(program_.graph) {
  std::size_t nodes = 0;
  for (const auto id : graph_.nodes()) nodes = std::max(nodes, index(id) + 1);
  done_.resize(nodes);
  program_.root.resize(graph_.value_count());
  for (std::size_t i = 0; i < program_.root.size(); ++i) program_.root[i] = ValueId{static_cast<std::uint32_t>(i)};
  program_.quantization.resize(graph_.value_count());
}

Program Lowering::run() {
  find_state();
  find_aliases();
  find_paddings();
  absorb_quantizations();
  use_signed_products();
  std::vector<const FusedRegion*> ends_at(done_.size(), nullptr);
  const auto regions = match_regions(graph_);
  std::vector<bool> inside(done_.size());
  for (const auto& region : regions) {
    ends_at[index(region.nodes.back())] = &region;
    for (const auto node : region.nodes) inside[index(node)] = true;
  }
  for (const auto id : graph_.nodes()) {
    if (const auto* region = ends_at[index(id)]) {
      lower_region(*region);
    } else if (!inside[index(id)] && !done_[index(id)]) {
      lower_node(graph_.node(id));
    }
  }
  for (const auto output : graph_.outputs())
    if (output != kNoValue && is_constant(root(output))) keep(root(output));
  return std::move(program_);
}

// ---- values

// Weights that a call changes: whoever reads them reads them anew, and all readers share one tensor.
void Lowering::find_state() {
  for (const auto id : graph_.nodes()) {
    if (graph_.node(id).condition == Condition::Training) continue;
    for (const auto weight : written_weights(graph_, graph_.node(id)))
      if (program_.state.insert(weight).second)
        program_.constants[index(weight)] = model_.weight(weight).detach().clone();
  }
}

bool Lowering::reads_state(const Node& node) const {
  bool reads = false;
  for (const auto& operand : node.operands)
    operand.each_value([&](ValueId value) { reads = reads || program_.state.contains(root(value)); });
  return reads;
}

void Lowering::find_aliases() {
  for (const auto id : graph_.nodes()) {
    const auto& node = graph_.node(id);
    if (node.condition == Condition::Training) {
      done_[index(id)] = true;
      continue;
    }
    if (node.barrier || node.outputs.size() != 1) continue;
    const bool dropout = node.is("aten::dropout") || node.is("aten::feature_dropout") ||
                         node.is("aten::alpha_dropout") || node.is("aten::feature_alpha_dropout");
    bool alias = node.is("aten::detach") || node.is("aten::alias") || node.is("aten::contiguous") ||
                 node.is("aten::clone") || node.is("aten::lift_fresh");
    if (dropout) alias = !node.operand("train").boolean(false).value_or(true);
    if (node.is("aten::contiguous"))
      alias = node.operand("memory_format").is_none() || node.operand("memory_format").integer().value_or(0) == 0;
    const bool selects = node.is("pare::training_select");  // evaluation's value stands second
    if (!alias && !selects) continue;
    const auto source = node.input(selects ? 1 : 0);
    if (source == kNoValue) continue;
    program_.root[index(node.output())] = root(source);
    done_[index(id)] = true;
  }
}

std::vector<NodeId> Lowering::users(ValueId value) const {
  // The alias's users are the root's; aliases are followed forwards.
  std::vector<NodeId> result;
  std::vector<ValueId> pending{value};
  while (!pending.empty()) {
    const auto next = pending.back();
    pending.pop_back();
    for (const auto& use : graph_.uses(next)) {
      if (use.node == kNoNode) {
        result.push_back(kNoNode);
        continue;
      }
      const auto& node = graph_.node(use.node);
      if (node.condition == Condition::Training) continue;
      if (node.outputs.size() == 1 && root(node.output()) == value && node.output() != value) {
        pending.push_back(node.output());
      } else {
        result.push_back(use.node);
      }
    }
  }
  return result;
}

bool Lowering::is_output(ValueId value) const {
  const auto all = users(value);
  return std::ranges::find(all, kNoNode) != all.end();
}

// Zero padding of spatial dims in front of convolutions becomes their own padding.
void Lowering::find_paddings() {
  for (const auto id : graph_.nodes()) {
    const auto& node = graph_.node(id);
    if (!pads_zero(node) || node.barrier || node.condition == Condition::Training) continue;
    const auto amounts = node.operand(1).integers();
    const auto rank = type(node.output()).rank();
    if (!amounts || rank < 3 || amounts->size() > 2 * (rank - 2)) continue;
    if (std::ranges::any_of(*amounts, [](std::int64_t amount) { return amount < 0; })) continue;
    const auto uses = users(node.output());
    const bool only_convolutions = std::ranges::all_of(uses, [&](NodeId user) {
      return user != kNoNode && family_of(graph_, user) == OpFamily::Convolution &&
             root(graph_.node(user).input(0)) == node.output();
    });
    if (!only_convolutions || uses.empty()) continue;
    Padding padding{root(node.input(0)), dnnl::memory::dims(rank - 2, 0), dnnl::memory::dims(rank - 2, 0)};
    for (std::size_t i = 0; i < amounts->size(); ++i)
      (i % 2 == 0 ? padding.before : padding.after)[rank - 3 - i / 2] = (*amounts)[i];
    paddings_[index(node.output())] = padding;
    done_[index(id)] = true;
  }
}

std::optional<Quantization> Lowering::quantization_of(const Node& node) const {
  if (node.op.name() != "aten::fake_quantize_per_tensor_affine") return std::nullopt;
  const auto scale = node.operand("scale").number();
  const auto zero_point = node.operand("zero_point").integer();
  const auto low = node.operand("quant_min").integer(), high = node.operand("quant_max").integer();
  if (!scale || !zero_point || !low || !high || !(*scale > 0)) return std::nullopt;
  const bool is_unsigned = *low == 0 && *high == 255;
  const bool is_signed = (*low == -127 || *low == -128) && *high == 127;
  if (!is_unsigned && !is_signed) return std::nullopt;
  return Quantization{static_cast<float>(*scale), static_cast<int>(*zero_point), is_signed};
}

// The quantization that a node's outputs inherit from its inputs.
std::optional<Quantization> Lowering::passed_on(const Node& node) const {
  if (!passes_integers(graph_, node.id) || node.operands.empty()) return std::nullopt;
  if (family_of(node.op) == OpFamily::Concatenation) {
    std::optional<Quantization> common;
    bool same = true;
    node.operand(0).each_value([&](ValueId value) {
      const auto& one = program_.quantization[index(root(value))];
      if (!one || (common && !(*one == *common))) same = false;
      common = one;
    });
    return same ? common : std::nullopt;
  }
  const auto source = root(node.input(0));
  if (source == kNoValue || type(node.input(0)).dtype != at::kFloat) return std::nullopt;
  return program_.quantization[index(source)];
}

// A fake-quantize that is its input's only use is done by whoever stores that input.
void Lowering::absorb_quantizations() {
  for (const auto id : graph_.nodes()) {
    const auto& node = graph_.node(id);
    if (done_[index(id)] && !paddings_.contains(index(node.output()))) continue;
    if (node.outputs.empty()) continue;
    if (const auto quantization = quantization_of(node); quantization && !is_constant(node.input(0))) {
      const auto source = input(node, 0);
      const auto& before = program_.quantization[index(source)];
      if (before && *before == *quantization) {  // already on this grid
        program_.root[index(node.output())] = source;
        done_[index(id)] = true;
        continue;
      }
      program_.quantization[index(node.output())] = quantization;
      if (!before && users(source).size() == 1 && graph_.value(source).kind == ValueKind::Result)
        quantizer_[index(source)] = id;
      continue;
    }
    if (const auto quantization = passed_on(node))
      for (const auto output : node.outputs) program_.quantization[index(output)] = quantization;
  }
  // Aliases were resolved before; new ones may chain.
  for (auto& entry : program_.root)
    while (program_.root[index(entry)] != entry) entry = program_.root[index(entry)];
}

// oneDNN's matrix products want signed second operands: u8 values that reach one are stored shifted by 128.
void Lowering::use_signed_products() {
  const auto& nodes = graph_.nodes();
  for (auto it = nodes.rbegin(); it != nodes.rend(); ++it) {
    const auto& node = graph_.node(*it);
    const auto family = family_of(graph_, *it);
    if (family != OpFamily::MatrixMultiply && family != OpFamily::Attention) continue;
    const auto shift = [&](ValueId value) {
      for (;;) {
        auto& quantization = program_.quantization[index(value)];
        if (!quantization || quantization->is_signed) return;
        quantization->is_signed = true;
        quantization->zero_point -= 128;
        const auto* producer = graph_.producer(value);
        if (!producer || family_of(producer->op) != OpFamily::PassThrough || producer->operands.empty()) return;
        for (const auto other : producer->outputs)  // pieces of one value stay on one grid
          if (auto& one = program_.quantization[index(other)]; one && !one->is_signed)
            one->is_signed = true, one->zero_point -= 128;
        value = root(producer->input(0));
      }
    };
    shift(root(node.input(1)));
    if (family == OpFamily::Attention) shift(root(node.input(2)));
  }
  // What hangs on a shifted value through views follows it.
  for (const auto id : nodes)
    if (!quantization_of(graph_.node(id)) && !done_[index(id)])
      if (const auto quantization = passed_on(graph_.node(id)))
        for (const auto output : graph_.node(id).outputs) program_.quantization[index(output)] = quantization;
}

bool Lowering::is_constant(ValueId value) const {
  if (value == kNoValue) return false;
  if (graph_.value(value).kind == ValueKind::Weight) return !program_.state.contains(value);
  const auto* node = graph_.producer(value);
  if (!node || node->barrier || node->operands.empty() || node->condition != Condition::Always) return false;
  const auto family = family_of(node->op);
  if (family == OpFamily::Other && !node->is("aten::to") && !node->is("pare::dequantize") && !node->is("aten::mul") &&
      !node->is("aten::add") && !node->is("aten::div") && !node->is("aten::sub"))
    return false;
  bool all = true, any = false;
  for (const auto& operand : node->operands) {
    operand.each_value([&](ValueId one) {
      any = true;
      all = all && is_constant(one);
    });
    if (const auto* integer = operand.get<SymbolicInt>()) all = all && integer->is_constant();
    if (const auto* integers = operand.get<Operand::Ints>())
      for (const auto& integer : *integers) all = all && integer.is_constant();
    if (!all) return false;
  }
  return any;
}

const at::Tensor& Lowering::constant(ValueId value) {
  if (const auto found = folded_.find(index(value)); found != folded_.end()) return found->second;
  at::Tensor result;
  if (graph_.value(value).kind == ValueKind::Weight) {
    result = model_.weight(value).detach();
  } else {
    const auto* node = graph_.producer(value);
    const auto outputs = Interpreter::call(*node, {}, false, [&](ValueId one) { return constant(one); });
    for (std::size_t i = 0; i < outputs.size(); ++i)
      if (node->outputs[i] == value) result = outputs[i];
  }
  return folded_[index(value)] = result;
}

// For steps to read: a copy of its own, which the module's training does not change, in the order of its elements.
void Lowering::keep(ValueId value) {
  auto& kept = program_.constants[index(value)];
  if (kept.defined()) return;
  const auto& tensor = constant(value);
  const bool own = tensor.is_contiguous() && tensor.storage().use_count() == 1;  // made here, and no view
  kept = own ? tensor : tensor.clone(at::MemoryFormat::Contiguous);
}

std::optional<double> Lowering::scalar(const Operand& operand) {
  if (const auto number = operand.number()) return number;
  const auto value = operand.value();
  if (value == kNoValue || !is_constant(value)) return std::nullopt;
  const auto& tensor = constant(value);
  if (tensor.dim() != 0 || tensor.is_complex()) return std::nullopt;
  return tensor.item<double>();
}

PARE_NAMESPACE_END
