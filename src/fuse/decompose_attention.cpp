#include "pare/fuse/decompose_attention.hpp"

#include <ATen/ATen.h>

#include <cmath>

PARE_NAMESPACE_BEGIN

namespace {

const char* obstacle(const Graph& graph, const Node& node) {
  const auto dropout = node.operand("dropout_p").number();
  if (!dropout || *dropout != 0.0) return "it drops out at random";
  if (node.operand("is_causal").boolean().value_or(true)) return "it is causal: the mask depends on the length";
  if (node.op.argument("enable_gqa") >= 0 && node.operand("enable_gqa").boolean().value_or(true))
    return "queries are grouped";
  if (!node.operand("scale").is_none() && !node.operand("scale").number()) return "its scale is computed";
  const auto sizes = [&](std::size_t at) -> const auto& { return graph.value(node.input(at)).type.sizes; };
  if (!sizes(0).back().is_constant()) return "the width of a head is not fixed";
  if (sizes(1).size() != sizes(0).size() || sizes(2).size() != sizes(0).size() ||
      !std::equal(sizes(0).begin(), sizes(0).end() - 2, sizes(1).begin()) ||
      !std::equal(sizes(0).begin(), sizes(0).end() - 2, sizes(2).begin()))
    return "queries, keys and values are not as many";
  return nullptr;
}

}  // namespace

Preserved DecomposeAttention::run(Model& model, Context& context) {
  auto& rewriter = context.rewriter();
  bool changed = false;
  for (const auto id : model.graph().nodes(op("aten::scaled_dot_product_attention"))) {
    const auto node = model.graph().node(id);  // a copy: the graph is edited
    if (const auto* reason = obstacle(model.graph(), node)) {
      context.report().declined(id, reason);
      continue;
    }
    const auto type_of = [&](ValueId value) { return model.graph().value(value).type; };
    const auto query = type_of(node.input(0)), key = type_of(node.input(1));
    const auto before = [&](std::string_view op_name, std::vector<Operand> operands, TensorType type,
                            std::string_view suffix) {
      const auto inserted = rewriter.insert_before(id, op_name, std::move(operands), {std::move(type)},
                                                   fmt::format("{}.{}", node.name, suffix));
      return model.graph().node(inserted).output();
    };
    auto transposed = key;
    std::swap(transposed.sizes[key.rank() - 1], transposed.sizes[key.rank() - 2]);
    auto scores_type = query;
    scores_type.sizes.back() = key.sizes[key.rank() - 2];
    const double scale =
        node.operand("scale").number().value_or(1.0 / std::sqrt(static_cast<double>(*query.sizes.back().constant())));
    const auto k = before("aten::transpose.int", {node.input(1), -2, -1}, transposed, "key_transposed");
    const auto products = before("aten::matmul", {node.input(0), k}, scores_type, "scores");
    auto scores = before("aten::mul.Scalar", {products, scale}, scores_type, "scaled");
    const auto mask = node.operand("attn_mask").value();
    auto blind = kNoValue;  // queries that see no key: the op gives zeros for them, where a softmax knows no answer
    if (mask != kNoValue) {
      constexpr double kHidden = -std::numeric_limits<double>::infinity();
      auto flags = type_of(mask);
      flags.dtype = c10::ScalarType::Bool;
      auto rows = flags;
      rows.sizes.back() = SymbolicInt(1);
      const bool is_boolean = type_of(mask).dtype == c10::ScalarType::Bool;
      const auto hidden = is_boolean ? before("aten::logical_not", {mask}, flags, "hidden")
                                     : before("aten::eq.Scalar", {mask, kHidden}, flags, "hidden");
      blind = before("aten::all.dim", {hidden, -1, true}, rows, "blind");
      if (is_boolean) {
        const auto some = before("aten::logical_xor", {hidden, blind}, flags, "hidden_from_some");
        scores = before("aten::masked_fill.Scalar", {scores, some, kHidden}, scores_type, "masked");
      } else {
        const auto finite = before("aten::masked_fill.Scalar", {mask, blind, 0.0}, type_of(mask), "mask_of_some");
        scores = before("aten::add.Tensor", {scores, finite}, scores_type, "masked");
      }
    }
    const auto weights = before("aten::softmax.int", {scores, -1}, scores_type, "probabilities");
    if (blind == kNoValue) {
      rewriter.replace(id, "aten::matmul", {weights, node.input(2)});
    } else {
      const auto seen = before("aten::matmul", {weights, node.input(2)}, type_of(node.output()), "seen");
      rewriter.replace(id, "aten::masked_fill.Scalar", {seen, blind, 0.0});
    }
    context.report().done(id, "written out as two products and a softmax");
    changed = true;
  }
  return changed ? Preserved::none() : Preserved::all();
}

PARE_NAMESPACE_END
