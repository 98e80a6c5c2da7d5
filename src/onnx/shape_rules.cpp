// Ops that keep every element and change where it is: reshapes, transposes, joins, padding.
#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "onnx/rules.hpp"

PARE_NAMESPACE_BEGIN

namespace onnx {

namespace {

std::vector<SymbolicInt> constants(std::initializer_list<std::int64_t> sizes) { return {sizes.begin(), sizes.end()}; }

void identity(Emitter& out, const Node& node) {
  out.alias(node, out.input(node, 0));
  if (const auto* qparams = out.qparams(node.input(0))) out.set_qparams(node.output(), *qparams);
}

void reshape(Emitter& out, const Node& node) {
  if (out.type(node.input(0)).dtype != out.type(node.output()).dtype)
    Emitter::refuse(node, "the same bits read as another type");
  out.alias(node, reshape_to(out, out.input(node, 0), out.type(node.input(0)).sizes, out.type(node.output()).sizes));
}

void convert(Emitter& out, const Node& node) {
  const auto from = out.type(node.input(0)).dtype, to = out.type(node.output()).dtype;
  if (from == to) return identity(out, node);
  out.alias(node, out.cast(out.input(node, 0), from, to));
}

void transposed(Emitter& out, const Node& node, Ints order) {
  out.result(node, "Transpose", {out.input(node, 0)}, {{"perm", std::move(order)}});
}

void swap(Emitter& out, const Node& node) {
  const auto rank = out.type(node.input(0)).rank();
  if (rank == 0) return identity(out, node);
  Ints order(rank);
  std::iota(order.begin(), order.end(), 0);
  std::swap(order[static_cast<std::size_t>(dim_of(node, 1, rank))],
            order[static_cast<std::size_t>(dim_of(node, 2, rank))]);
  transposed(out, node, std::move(order));
}

void reverse(Emitter& out, const Node& node) {
  const auto rank = out.type(node.input(0)).rank();
  if (rank < 2) return identity(out, node);
  Ints order(rank);
  std::iota(order.begin(), order.end(), 0);
  if (node.is("aten::mT"))
    std::swap(order[rank - 1], order[rank - 2]);
  else
    std::ranges::reverse(order);
  transposed(out, node, std::move(order));
}

void permute(Emitter& out, const Node& node) {
  const auto rank = static_cast<std::int64_t>(out.type(node.input(0)).rank());
  auto order = integers_of(node, 1);
  for (auto& dim : order) dim = dim < 0 ? dim + rank : dim;
  transposed(out, node, std::move(order));
}

void squeeze(Emitter& out, const Node& node) {
  if (out.type(node.input(0)).rank() == out.type(node.output()).rank()) return identity(out, node);
  reshape(out, node);
}

void expand(Emitter& out, const Node& node) {
  const auto& from = out.type(node.input(0)).sizes;
  auto to = out.type(node.output()).sizes;
  const auto offset = to.size() - from.size();
  for (std::size_t d = 0; d < from.size(); ++d)
    if (from[d] == to[d + offset]) to[d + offset] = 1;  // Expand broadcasts: what stays need not be named
  out.result(node, "Expand", {out.input(node, 0), out.shape(to)});
}

void repeat(Emitter& out, const Node& node) {
  const auto* counts = node.operand(1).get<Operand::Ints>();
  if (!counts) Emitter::refuse(node, "repeats that are no numbers");
  auto sizes = out.type(node.input(0)).sizes;
  auto name = out.input(node, 0);
  if (counts->size() > sizes.size()) {
    Ints axes(counts->size() - sizes.size());
    std::iota(axes.begin(), axes.end(), 0);
    name = out.call("Unsqueeze", {name, out.integers(axes)});
  }
  out.result(node, "Tile", {name, out.shape(*counts)});
}

void concatenate(Emitter& out, const Node& node) {
  Names parts;
  const auto dtype = out.type(node.output()).dtype;
  node.operand(0).each_value([&](ValueId value) {
    const auto& type = out.type(value);
    // LibTorch skips empty one-dimensional tensors of any list.
    if (type.rank() == 1 && type.sizes[0] == SymbolicInt(0) && out.type(node.output()).rank() != 1) return;
    parts.push_back(out.cast(out.value(value), type.dtype, dtype));
  });
  const auto dim = dim_of(node, 1, out.type(node.output()).rank());
  if (node.is("aten::stack"))
    for (auto& part : parts) part = out.call("Unsqueeze", {part, out.integers({dim})});
  out.result(node, "Concat", std::move(parts), {{"axis", dim}});
}

// Pads come from the last dimension forwards, in pairs. Argument `fill` is what is put there.
void write_padding(Emitter& out, const Node& node, const std::string& mode, std::size_t fill = 0) {
  const auto pairs = integers_of(node, 1);
  const auto rank = out.type(node.input(0)).rank();
  if (pairs.size() % 2 != 0 || pairs.size() > 2 * rank) Emitter::refuse(node, "{} paddings", pairs.size());
  Ints pads(2 * rank, 0);
  for (std::size_t i = 0; i < pairs.size() / 2; ++i) {
    pads[rank - 1 - i] = pairs[2 * i];
    pads[2 * rank - 1 - i] = pairs[2 * i + 1];
  }
  Names inputs{out.input(node, 0), out.integers(pads)};
  const auto dtype = out.type(node.output()).dtype;
  if (mode == "constant") {
    const bool given = fill < node.operands.size() && !node.operand(fill).is_none();
    inputs.push_back(given ? out.input_as(node, fill, dtype) : out.scalar(0, dtype));
  }
  out.result(node, "Pad", std::move(inputs), {{"mode", mode}});
}

void pad_constant(Emitter& out, const Node& node) { write_padding(out, node, "constant", 2); }
void pad_reflect(Emitter& out, const Node& node) { write_padding(out, node, "reflect"); }
void pad_edge(Emitter& out, const Node& node) { write_padding(out, node, "edge"); }

// What lies at one end goes before or behind the other.
void pad_circular(Emitter& out, const Node& node) {
  const auto pairs = integers_of(node, 1);
  const auto rank = out.type(node.input(0)).rank();
  auto name = out.input(node, 0);
  for (std::size_t i = 0; i < pairs.size() / 2; ++i) {
    const auto before = pairs[2 * i], after = pairs[2 * i + 1];
    if (before < 0 || after < 0) Emitter::refuse(node, "circular padding that cuts");
    const auto dim = static_cast<std::int64_t>(rank - 1 - i);
    const auto part = [&](std::int64_t from, std::int64_t to) {
      return out.call("Slice", {name, out.integers({from}), out.integers({to}), out.integers({dim})});
    };
    Names parts;
    if (before > 0) parts.push_back(part(-before, std::numeric_limits<std::int64_t>::max()));
    parts.push_back(name);
    if (after > 0) parts.push_back(part(0, after));
    if (parts.size() > 1) name = out.call("Concat", std::move(parts), {{"axis", dim}});
  }
  out.alias(node, name);
}

void pad(Emitter& out, const Node& node) {
  const auto& operand = node.operand(2);
  const auto* mode = operand.get<std::string>();
  constexpr std::string_view by_number[] = {"reflect", "replicate", "circular", "constant"};
  const auto number = operand.integer().value_or(-1);
  const auto kind = mode ? std::string_view(*mode) : number >= 0 && number < 4 ? by_number[number] : "unknown";
  if (kind == "constant") return write_padding(out, node, "constant", 3);
  if (kind == "reflect") return pad_reflect(out, node);
  if (kind == "replicate") return pad_edge(out, node);
  if (kind == "circular") return pad_circular(out, node);
  Emitter::refuse(node, "{} padding", kind);
}

void roll(Emitter& out, const Node& node) {
  const auto shifts = integers_of(node, 1), dims = integers_of(node, 2);
  if (dims.empty() || dims.size() != shifts.size()) Emitter::refuse(node, "rolling without dims");
  const auto rank = static_cast<std::int64_t>(out.type(node.input(0)).rank());
  auto name = out.input(node, 0);
  for (std::size_t i = 0; i < dims.size(); ++i) {
    const auto dim = dims[i] < 0 ? dims[i] + rank : dims[i];
    // The last `shift` elements come first; counted from the end, so that the size need not be known.
    const auto size = out.type(node.input(0)).sizes[static_cast<std::size_t>(dim)].constant();
    if (!size) Emitter::refuse(node, "rolling along a size that varies");
    const auto shift = *size == 0 ? 0 : ((shifts[i] % *size) + *size) % *size;
    if (shift == 0) continue;
    const auto part = [&](std::int64_t from, std::int64_t to) {
      return out.call("Slice", {name, out.integers({from}), out.integers({to}), out.integers({dim})});
    };
    name = out.call("Concat", {part(*size - shift, *size), part(0, *size - shift)}, {{"axis", dim}});
  }
  out.alias(node, name);
}

void pixel_shuffle(Emitter& out, const Node& node) {
  if (out.type(node.input(0)).rank() != 4) Emitter::refuse(node, "the input has not four dimensions");
  out.result(node, "DepthToSpace", {out.input(node, 0)},
             {{"blocksize", integer_of(node, 1)}, {"mode", std::string("CRD")}});
}

// [N, C, H r, W r] -> [N, C, H, r, W, r] -> [N, C, r, r, H, W] -> [N, C r r, H, W]
void pixel_unshuffle(Emitter& out, const Node& node) {
  const auto& from = out.type(node.input(0)).sizes;
  const auto& to = out.type(node.output()).sizes;
  const auto factor = integer_of(node, 1);
  if (from.size() != 4) Emitter::refuse(node, "the input has not four dimensions");
  const std::vector<SymbolicInt> split{from[0], from[1], to[2], factor, to[3], factor};
  const std::vector<SymbolicInt> moved{from[0], from[1], factor, factor, to[2], to[3]};
  const auto blocks = reshape_to(out, out.input(node, 0), from, split);
  const auto order = out.call("Transpose", {blocks}, {{"perm", Ints{0, 1, 3, 5, 2, 4}}});
  out.alias(node, reshape_to(out, order, moved, to));
}

void channel_shuffle(Emitter& out, const Node& node) {
  const auto& sizes = out.type(node.input(0)).sizes;
  const auto channels = sizes.at(1).constant();
  const auto groups = integer_of(node, 1);
  if (!channels) Emitter::refuse(node, "the number of channels is not fixed");
  auto split = constants({0, groups, *channels / groups}), swapped = constants({0, *channels / groups, groups});
  split[0] = swapped[0] = sizes[0];
  split.insert(split.end(), sizes.begin() + 2, sizes.end());
  swapped.insert(swapped.end(), sizes.begin() + 2, sizes.end());
  Ints order(split.size());
  std::iota(order.begin(), order.end(), 0);
  std::swap(order[1], order[2]);
  const auto blocks = reshape_to(out, out.input(node, 0), sizes, split);
  out.alias(node, reshape_to(out, out.call("Transpose", {blocks}, {{"perm", order}}), swapped, sizes));
}

// Evaluation mode: what drops out at random does nothing.
void dropout(Emitter& out, const Node& node) {
  const auto* flag = node.operand(2).get<Flag>();
  if (flag && *flag == Flag::True) Emitter::refuse(node, "it drops out in evaluation mode too");
  identity(out, node);
}

void training_select(Emitter& out, const Node& node) {
  const auto chosen = node.input(1);
  if (chosen == kNoValue) return;
  out.alias(node, out.value(chosen));
  if (const auto* qparams = out.qparams(chosen)) out.set_qparams(node.output(), *qparams);
}

constexpr RuleEntry kShapeRules[] = {
    {"aten::view", reshape},
    {"aten::_unsafe_view", reshape},
    {"aten::reshape", reshape},
    {"aten::view_as", reshape},
    {"aten::reshape_as", reshape},
    {"aten::flatten", reshape},
    {"aten::unflatten", reshape},
    {"aten::squeeze", squeeze},
    {"aten::unsqueeze", reshape},
    {"aten::t", reverse},
    {"aten::numpy_T", reverse},
    {"aten::mT", reverse},
    {"aten::transpose", swap},
    {"aten::swapaxes", swap},
    {"aten::permute", permute},
    {"aten::contiguous", identity},
    {"aten::clone", identity},
    {"aten::alias", identity},
    {"aten::detach", identity},
    {"aten::lift_fresh", identity},
    {"aten::dropout", dropout},
    {"aten::feature_dropout", dropout},
    {"aten::alpha_dropout", dropout},
    {"aten::feature_alpha_dropout", dropout},
    {"aten::to", convert},
    {"aten::_to_copy", convert},
    {"aten::type_as", convert},
    {"aten::expand", expand},
    {"aten::expand_as", expand},
    {"aten::broadcast_to", expand},
    {"aten::repeat", repeat},
    {"aten::cat", concatenate},
    {"aten::concat", concatenate},
    {"aten::stack", concatenate},
    {"aten::constant_pad_nd", pad_constant},
    {"aten::pad", pad},
    {"aten::_pad_enum", pad},
    {"aten::reflection_pad1d", pad_reflect},
    {"aten::reflection_pad2d", pad_reflect},
    {"aten::reflection_pad3d", pad_reflect},
    {"aten::replication_pad1d", pad_edge},
    {"aten::replication_pad2d", pad_edge},
    {"aten::replication_pad3d", pad_edge},
    {"aten::roll", roll},
    {"aten::pixel_shuffle", pixel_shuffle},
    {"aten::pixel_unshuffle", pixel_unshuffle},
    {"aten::channel_shuffle", channel_shuffle},
    {"pare::training_select", training_select},
};

}  // namespace

std::span<const RuleEntry> shape_rules() { return kShapeRules; }

std::string reshape_to(Emitter& out, const std::string& name, const std::vector<SymbolicInt>& from,
                       const std::vector<SymbolicInt>& to) {
  Ints sizes;
  int unknown = 0;
  bool empty = false;
  for (std::size_t d = 0; d < to.size(); ++d) {
    const auto number = to[d].constant();
    if (number) {
      empty = empty || *number == 0;
      sizes.push_back(*number);
    } else if (d < from.size() && from[d] == to[d]) {
      sizes.push_back(0);  // as in the input
    } else {
      sizes.push_back(-1);
      ++unknown;
    }
  }
  const bool plain = unknown <= 1 && !empty;
  return out.call("Reshape", {name, plain ? out.integers(sizes) : out.shape(to)},
                  empty ? Attributes{{"allowzero", std::int64_t{1}}} : Attributes{});
}

}  // namespace onnx

PARE_NAMESPACE_END
