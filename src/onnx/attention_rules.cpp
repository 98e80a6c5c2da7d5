// Attention as two products and a softmax.
#include <ATen/ATen.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "onnx/rules.hpp"

PARE_NAMESPACE_BEGIN

namespace onnx {

namespace {

// Heads of keys and values that several heads of queries share: [B, H, L, D] -> [B, H * n, L, D], each n times.
std::string shared_heads(Emitter& out, const Node& node, std::size_t position) {
  const auto& query = out.type(node.input(0)).sizes;
  const auto& sizes = out.type(node.input(position)).sizes;
  const auto name = out.input(node, position);
  const auto heads = sizes.at(1).constant(), wanted = query.at(1).constant();
  if (sizes.size() != 4 || !heads || !wanted || *wanted % *heads != 0)
    Emitter::refuse(node, "groups of heads whose number is not fixed");
  if (*heads == *wanted) return name;
  const auto count = *wanted / *heads;
  const auto apart = out.call("Unsqueeze", {name, out.integers({2})});
  const auto repeated = out.call("Expand", {apart, out.integers({1, 1, count, 1, 1})});
  // [B, H, n, L, D] -> [B, H n, L, D]: 0 would copy n, so the length is what is worked out.
  const auto width = sizes[3].constant();
  if (!width) Emitter::refuse(node, "the width of a head is not fixed");
  return out.call("Reshape", {repeated, out.integers({0, *wanted, -1, *width})});
}

// -inf above the diagonal. Sizes that vary are read from the scores: formulas of pooled sizes are fitted, not derived.
std::string causal_mask(Emitter& out, const std::string& scores, c10::ScalarType dtype, const SymbolicInt& rows,
                        const SymbolicInt& columns) {
  constexpr auto kHidden = -std::numeric_limits<double>::infinity();
  if (rows.is_constant() && columns.is_constant())
    return out.tensor(at::full({*rows.constant(), *columns.constant()}, kHidden, dtype).triu(1), "causal_mask");
  const auto end = out.integers({std::numeric_limits<std::int64_t>::max()});
  const auto sizes = out.call("Slice", {out.call("Shape", {scores}), out.integers({-2}), end});
  const auto all = out.call("Expand", {out.scalar(kHidden, dtype), sizes});
  return out.call("Trilu", {all, out.scalar(1, at::kLong)}, {{"upper", std::int64_t{1}}}, "causal_mask");
}

// Whether a row of a mask hides every key, [..., rows, 1], or empty where a constant shows that none does. Softmax
// makes 0 / 0 of such rows, LibTorch zeros. The largest of infinities is not asked for: OpenVINO's is finite.
std::string hidden_rows(Emitter& out, ValueId mask) {
  constexpr auto kHidden = -std::numeric_limits<double>::infinity();
  const auto dtype = out.type(mask).dtype;
  const bool flags = dtype == at::kBool;
  if (const auto* held = out.constant(mask); held && !held->integers) {
    const auto hides = flags ? held->tensor.logical_not() : held->tensor.eq(kHidden);
    const auto rows = hides.all(-1, true);
    return rows.any().item<bool>() ? out.tensor(rows, "hidden") : std::string();
  }
  const auto name = out.value(mask);
  const auto hides = flags ? out.call("Not", {name}) : out.call("Equal", {name, out.scalar(kHidden, dtype)});
  return out.cast(reduce(out, "Min", out.cast(hides, at::kBool, at::kInt), {-1}, true), at::kInt, at::kBool);
}

// query, key, value, mask, dropout, is_causal, scale, enable_gqa
void attention(Emitter& out, const Node& node) {
  const auto& query = out.type(node.input(0));
  const auto& key = out.type(node.input(1));
  const auto dtype = query.dtype;
  const auto rank = query.rank();
  const auto width = query.sizes.back().constant();
  if (!width) Emitter::refuse(node, "the width of a head is not fixed");
  if (const auto dropout = node.operand("dropout_p").number(); !dropout || *dropout != 0.0)
    Emitter::refuse(node, "it drops out at random");
  const auto causal = node.operand("is_causal").boolean();
  if (!causal) Emitter::refuse(node, "whether it is causal depends on the mode");
  const bool grouped = node.op.argument("enable_gqa") >= 0 && node.operand("enable_gqa").boolean().value_or(false);
  const auto keys = grouped ? shared_heads(out, node, 1) : out.input(node, 1);
  const auto values = grouped ? shared_heads(out, node, 2) : out.input(node, 2);

  Ints order(rank);
  std::iota(order.begin(), order.end(), 0);
  std::swap(order[rank - 1], order[rank - 2]);
  const auto scale = number_of(node, 6, 1.0 / std::sqrt(static_cast<double>(*width)));
  const auto products = out.call("MatMul", {out.input(node, 0), out.call("Transpose", {keys}, {{"perm", order}})});
  auto scores = out.call("Mul", {products, out.scalar(scale, dtype)});
  if (const auto mask = node.input(3); mask != kNoValue) {
    if (out.type(mask).dtype == at::kBool)
      scores =
          out.call("Where", {out.value(mask), scores, out.scalar(-std::numeric_limits<double>::infinity(), dtype)});
    else
      scores = out.call("Add", {scores, out.value(mask)});
  }
  if (*causal)
    scores = out.call("Add", {scores, causal_mask(out, scores, dtype, query.sizes[rank - 2], key.sizes[rank - 2])});
  const auto weights = out.call("Softmax", {scores}, {{"axis", std::int64_t{-1}}});
  const auto hidden = node.input(3) == kNoValue ? std::string() : hidden_rows(out, node.input(3));
  if (hidden.empty()) return out.result(node, "MatMul", {weights, values});
  out.result(node, "Where", {hidden, out.scalar(0, dtype), out.call("MatMul", {weights, values})});
}

constexpr RuleEntry kAttentionRules[] = {{"aten::scaled_dot_product_attention", attention}};

}  // namespace

std::span<const RuleEntry> attention_rules() { return kAttentionRules; }

}  // namespace onnx

PARE_NAMESPACE_END
