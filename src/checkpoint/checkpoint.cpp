#include "pare/checkpoint/checkpoint.hpp"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <optional>

#include "checkpoint/read_model.hpp"
#include "checkpoint/recipe.hpp"
#include "checkpoint/safetensors_format.hpp"
#include "graph/check_foreign.hpp"
#include "pare/checkpoint/safetensors.hpp"
#include "pare/core/error.hpp"
#include "pare/graph/rewriter.hpp"
#include "pare/graph/text.hpp"
#include "pare/graph/verify.hpp"

PARE_NAMESPACE_BEGIN

namespace {

using checkpoint::printable;

// The shape that a weight of the captured module had before anything was taken from it.
void check_origin(const Model& model, const Model& captured, const std::string& file) {
  for (const auto& [path, weight] : model.weights()) {
    const auto found = captured.weights().find(path);
    if (found == captured.weights().end()) {
      if (weight.is_parameter)
        fail("pare.checkpoint.134", file, "the module has no '{}': it is not the one this was made from",
             printable(path));
      continue;
    }
    auto sizes = found->second.tensor.sizes().vec();
    bool fits = true;
    for (const auto& step : weight.narrowings) {
      const auto dim = static_cast<std::size_t>(step.dim);
      fits = fits && step.dim >= 0 && dim < sizes.size() && !step.kept.empty();
      for (const auto kept : step.kept) fits = fits && kept >= 0 && kept < sizes[dim];
      if (!fits) break;
      sizes[dim] = static_cast<std::int64_t>(step.kept.size());
    }
    if (!fits || weight.tensor.sizes() != at::IntArrayRef(sizes))
      fail("pare.checkpoint.134", file, "'{}' is [{}] in the module: it is not the one this was made from",
           printable(path), fmt::join(found->second.tensor.sizes(), ", "));
  }
}

// Values of the file's graph as the captured graph numbers them; nothing for a value that it has not.
std::optional<ValueId> value_in(const Graph& to, const Graph& from, ValueId id) {
  if (id == kNoValue) return id;
  const auto& value = from.value(id);
  if (value.kind == ValueKind::Weight) {
    const auto found = to.weight(value.name);
    return found == kNoValue ? std::nullopt : std::optional(found);
  }
  if (value.kind == ValueKind::Input)
    return value.position < to.inputs().size() ? std::optional(to.inputs()[value.position]) : std::nullopt;
  const auto node = to.find(from.node(value.producer).name);
  if (node == kNoNode || value.position >= to.node(node).outputs.size()) return std::nullopt;
  return to.node(node).outputs[value.position];
}

// The captured graph with the operands and sizes of the file's: the same calls under the ids that `commit` follows.
// Nothing where calls were added or taken out; such a Model runs, and `commit` says what it cannot write back.
std::optional<Graph> under_ids_of(const Model& captured, const Graph& from) {
  if (captured.graph().nodes().size() != from.nodes().size() || captured.graph().dims() != from.dims())
    return std::nullopt;
  Model model = captured;
  Rewriter rewriter(model);
  for (const auto id : from.nodes()) {
    const auto& node = from.node(id);
    const auto at = model.graph().find(node.name);
    if (at == kNoNode || !(model.graph().node(at).op == node.op) ||
        model.graph().node(at).outputs.size() != node.outputs.size())
      return std::nullopt;
    for (std::size_t i = 0; i < node.operands.size(); ++i) {
      auto operand = node.operands[i];
      bool known = true;
      operand.each_value([&](ValueId& value) {
        const auto own = value_in(model.graph(), from, value);
        known = known && own;
        if (own) value = *own;
      });
      if (!known) return std::nullopt;
      rewriter.set_operand(at, i, std::move(operand));
    }
    for (std::size_t i = 0; i < node.outputs.size(); ++i)
      rewriter.set_type(model.graph().node(at).outputs[i], from.value(node.outputs[i]).type);
  }
  for (std::size_t i = 0; i < from.value_count(); ++i) {
    const auto& value = from.value(ValueId{static_cast<std::uint32_t>(i)});
    if (value.kind != ValueKind::Weight) continue;
    const auto own = model.graph().weight(value.name);
    if (own == kNoValue) return std::nullopt;
    rewriter.set_type(own, value.type);
  }
  return model.graph();
}

}  // namespace

void save_checkpoint(const Model& model, const std::string& path, const CheckpointOptions& options) {
  check_foreign(model);  // what could not be read back is not written
  checkpoint::Tensors tensors;
  const auto recipe = checkpoint::model_json(model, options.pack, tensors, printable(path));
  checkpoint::write_recipe(path, recipe, tensors, options.metadata);
}

Model load_checkpoint(const std::string& path) {
  const SafeTensors tensors(path);
  const auto file = printable(path);
  checkpoint::check_version(tensors, file);
  checkpoint::check_whole(tensors, file);
  return checkpoint::read_model(tensors, file, checkpoint::Unpacked::Numbers);
}

Model load_checkpoint(const std::string& path, const Model& captured) {
  auto model = load_checkpoint(path);
  check_origin(model, captured, printable(path));
  if (auto graph = under_ids_of(captured, model.graph())) {
    Model own(std::move(*graph), model.weights());
    for (const auto& note : model.notes()) own.note(note);
    own.set_can_train(model.can_train());
    verify(own);
    model = std::move(own);
  }
  model.set_origin(captured.origin());
  return model;
}

PARE_NAMESPACE_END
