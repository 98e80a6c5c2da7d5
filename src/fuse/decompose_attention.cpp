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
  if (!graph.value(node.input(0)).type.sizes.back().is_constant()) return "the width of a head is not fixed";
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
    if (const auto mask = node.operand("attn_mask").value(); mask != kNoValue) {
      if (type_of(mask).dtype == c10::ScalarType::Bool) {
        const auto hidden = before("aten::logical_not", {mask}, type_of(mask), "hidden");
        scores = before("aten::masked_fill.Scalar", {scores, hidden, -std::numeric_limits<double>::infinity()},
                        scores_type, "masked");
      } else {
        scores = before("aten::add.Tensor", {scores, mask}, scores_type, "masked");
      }
    }
    const auto weights = before("aten::softmax.int", {scores, -1}, scores_type, "probabilities");
    rewriter.replace(id, "aten::matmul", {weights, node.input(2)});
    context.report().done(id, "written out as two products and a softmax");
    changed = true;
  }
  return changed ? Preserved::none() : Preserved::all();
}

PARE_NAMESPACE_END
