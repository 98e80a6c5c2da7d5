#include <ATen/ATen.h>

#include <algorithm>
#include <array>

#include "execute/onednn/lowering.hpp"

PARE_NAMESPACE_BEGIN

using dnnl::algorithm;
using dnnl::memory;

namespace {

// Ops that return views wherever strides allow; the plan runs them on strides alone.
bool is_view(const Node& node) {
  constexpr std::array<std::string_view, 18> views{"aten::view",    "aten::_unsafe_view", "aten::reshape",
                                                   "aten::flatten", "aten::unflatten",    "aten::permute",
                                                   "aten::t",       "aten::transpose",    "aten::numpy_T",
                                                   "aten::squeeze", "aten::unsqueeze",    "aten::slice",
                                                   "aten::select",  "aten::narrow",       "aten::chunk",
                                                   "aten::split",   "aten::unbind",       "aten::split_with_sizes"};
  return std::ranges::find(views, node.op.base()) != views.end();
}

}  // namespace

void Lowering::lower_node(const Node& node) {
  const auto id = node.id;
  done_[index(id)] = true;
  if (!node.outputs.empty() && !node.barrier && is_constant(node.output())) return;  // folded when somebody asks
  ProgramStep step{.node = id};
  const auto precision = options_.node_precision.find(node.name);
  step.dtype = precision == options_.node_precision.end() ? options_.dtype : precision->second;
  if (node.barrier || !node.guard.isNone()) return run_on_aten(node, "it has an effect of its own");
  if (reads_state(node)) return run_on_aten(node, "it reads what the model writes");
  const bool is_float = !node.outputs.empty() && type(node.output()).dtype == at::kFloat && !node.operands.empty() &&
                        node.operands[0].value() != kNoValue && type(node.input(0)).dtype == at::kFloat;
  const bool first_constant = !node.operands.empty() && is_constant(node.operands[0].value());
  if (is_view(node) && !first_constant && node.operands[0].value() != kNoValue) {
    step.kind = StepKind::View;
    step.inputs = {input(node, 0)};
    for (const auto output : node.outputs) step.outputs.push_back(root(output));
    program_.steps.push_back(std::move(step));
    return;
  }
  if (node.is("aten::cat") && type(node.output()).dtype == at::kFloat) {
    bool plain = node.operand(1).integer().has_value();
    node.operand(0).each_value([&](ValueId value) {
      plain = plain && !is_constant(value) && type(value).rank() == type(node.output()).rank() &&
              type(value).dtype == at::kFloat;
      step.inputs.push_back(root(value));
    });
    if (plain) {
      step.kind = StepKind::Concat;
      step.axis = *node.operand(1).integer();
      if (step.axis < 0) step.axis += static_cast<std::int64_t>(type(node.output()).rank());
      const auto output = node.output();
      if (program_.quantization[index(output)]) {
        step.outputs = {output};
        program_.steps.push_back(std::move(step));
      } else {
        finish(std::move(step), root(output));
      }
      return;
    }
    step.inputs.clear();
  }
  if (node.is("aten::embedding") && lower_embedding(node, step)) return finish(std::move(step), node.output());
  if (program_.quantization[index(root(node.outputs.empty() ? ValueId{0} : node.output()))] && is_float &&
      family_of(node.op) == OpFamily::FakeQuantize && quantization_of(node)) {
    step.kind = StepKind::Quantize;
    step.inputs = {input(node, 0)};
    step.outputs = {node.output()};
    program_.steps.push_back(std::move(step));
    return;
  }
  if (is_float && !first_constant && node.outputs.size() == 1) {
    if (lower_elementwise(node, step) || lower_binary(node, step) || lower_batch_norm(node, step) ||
        lower_pooling(node, step) || lower_mean(node, step) || lower_normalization(node, step)) {
      const auto output = root(node.output());
      if (program_.quantization[index(output)]) {  // max pooling hands on its input's integers
        step.outputs = {output};
        program_.steps.push_back(std::move(step));
      } else {
        finish(std::move(step), output);
      }
      return;
    }
  }
  if (lower_recurrent(node)) return;
  run_on_aten(node, "no oneDNN kernel for it");
}

void Lowering::run_on_aten(const Node& node, std::string reason) {
  ProgramStep step{.kind = StepKind::Aten, .node = node.id};
  step.reason = std::move(reason);
  const bool recurrent = family_of(node.op) == OpFamily::Recurrent;
  // One call reads them at every position: making numbers of them first costs little.
  const auto keep_packed = [&](ValueId value) {
    if (!recurrent) return false;
    if (program_.packed.contains(index(value))) return true;
    auto table = integer_table(value);
    if (table) program_.packed.emplace(index(value), std::move(*table));
    return table.has_value();
  };
  for (const auto& operand : node.operands)
    operand.each_value([&](ValueId value) {
      const auto from = root(value);
      if (is_constant(from)) {
        if (!keep_packed(from)) keep(from);
      } else if (!program_.state.contains(from) && std::ranges::find(step.inputs, from) == step.inputs.end()) {
        step.inputs.push_back(from);
      }
    });
  step.outputs = node.outputs;
  program_.steps.push_back(std::move(step));
}

bool Lowering::lower_elementwise(const Node& node, ProgramStep& step) {
  PostOp post;
  const auto base = node.op.base();
  const auto second = node.operands.size() > 1 ? scalar(node.operand(1)) : std::nullopt;
  const bool by_scalar = second && !node.operand(1).is_none();
  if (by_scalar && base == "aten::mul") {
    post = {algorithm::eltwise_linear, static_cast<float>(*second), 0, kNoValue};
  } else if (by_scalar && (node.is("aten::div.Scalar") || node.is("aten::div.Tensor"))) {
    post = {algorithm::eltwise_linear, static_cast<float>(1 / *second), 0, kNoValue};
  } else if (by_scalar && (base == "aten::add" || base == "aten::sub") && node.operand(2).number()) {
    const auto amount = *second * *node.operand(2).number();
    post = {algorithm::eltwise_linear, 1, static_cast<float>(base == "aten::add" ? amount : -amount), kNoValue};
  } else if (!activation(node, post)) {
    return false;
  }
  step.kind = StepKind::Eltwise;
  step.inputs = {input(node, 0)};
  step.algorithm = post.algorithm;
  step.alpha = post.alpha;
  step.beta = post.beta;
  return true;
}

bool Lowering::lower_binary(const Node& node, ProgramStep& step) {
  const bool add = node.is("aten::add.Tensor"), sub = node.is("aten::sub.Tensor"), mul = node.is("aten::mul.Tensor"),
             div = node.is("aten::div.Tensor");
  if (!add && !sub && !mul && !div) return false;
  if ((add || sub) && node.operand(2).number() != 1.0) return false;
  auto left = input(node, 0), right = input(node, 1);
  if (right == kNoValue || type(right).dtype != at::kFloat) return false;
  if (!(type(left) == type(node.output()))) {
    if (sub || div || is_constant(left)) return false;
    std::swap(left, right);
  }
  if (!(type(left) == type(node.output())) || is_constant(left)) return false;
  if (type(right).rank() == 0) return false;  // one number that is computed: no layout of oneDNN's
  if (type(right).rank() > type(left).rank() || type(left).rank() == 0 || type(left).rank() > 6) return false;
  if (is_constant(right)) keep(right);
  step.kind = StepKind::Binary;
  step.inputs = {left, right};
  step.algorithm = add   ? algorithm::binary_add
                   : sub ? algorithm::binary_sub
                   : mul ? algorithm::binary_mul
                         : algorithm::binary_div;
  absorb_activation(node, step);
  return true;
}

// An activation that is the only reader becomes part of the step.
void Lowering::absorb_activation(const Node& node, ProgramStep& step) {
  const auto uses = users(node.output());
  if (uses.size() != 1 || uses[0] == kNoNode) return;
  const auto& next = graph_.node(uses[0]);
  PostOp post;
  if (next.barrier || done_[index(next.id)] || next.outputs.size() != 1 || input(next, 0) != root(node.output()) ||
      !activation(next, post))
    return;
  step.post.push_back(post);
  step.absorbed.push_back(next.id);
  done_[index(next.id)] = true;
  program_.root[index(node.output())] = next.output();  // never stored by itself
}

// What a batch norm of constants does in evaluation.
ChannelAffine Lowering::channel_affine(const Node& batch_norm) {
  const auto read = [&](std::size_t at) {
    return batch_norm.input(at) == kNoValue ? at::Tensor() : constant(batch_norm.input(at));
  };
  return batch_norm_affine(read(1), read(2), read(3), read(4), batch_norm.operand("eps").number().value_or(1e-5));
}

// A batch norm in evaluation that no layer in front could take in.
bool Lowering::lower_batch_norm(const Node& node, ProgramStep& step) {
  if (!node.is("aten::batch_norm") || node.operand("training").boolean(false).value_or(true)) return false;
  const auto rank = type(node.output()).rank();
  if (rank < 2 || rank > 5 || node.input(3) == kNoValue || node.input(4) == kNoValue) return false;
  for (std::size_t i = 1; i < 5; ++i)
    if (node.input(i) != kNoValue && !is_constant(node.input(i))) return false;
  const auto affine = channel_affine(node);
  step.kind = StepKind::ChannelAffine;
  step.inputs = {input(node, 0)};
  step.gamma = affine.scale.to(at::kFloat);
  step.beta_tensor = fold_bias({}, affine, at::kFloat);
  absorb_activation(node, step);
  return true;
}

bool Lowering::lower_pooling(const Node& node, ProgramStep& step) {
  const bool max = node.is("aten::max_pool2d") || node.is("aten::max_pool1d") || node.is("aten::max_pool3d");
  const bool average = node.is("aten::avg_pool2d") || node.is("aten::avg_pool1d") || node.is("aten::avg_pool3d");
  if (!max && !average) return false;
  const auto rank = type(node.input(0)).rank();
  const std::size_t spatial =
      node.op.base().back() == 'd' ? static_cast<std::size_t>(node.op.base()[node.op.base().size() - 2] - '0') : 0;
  if (rank != spatial + 2) return false;
  const auto ceil_mode = node.operand("ceil_mode").boolean();
  if (!ceil_mode) return false;
  const auto read = [&](std::string_view name, std::int64_t otherwise) {
    auto values = node.operand(name).integers().value_or(memory::dims{});
    if (values.empty()) values.push_back(otherwise);
    if (values.size() == 1) values.resize(spatial, values[0]);
    return values;
  };
  auto& window = step.window;
  window.kernel = read("kernel_size", 1);
  window.strides =
      node.operand("stride").integers().value_or(memory::dims{}).empty() ? window.kernel : read("stride", 1);
  window.pads_before = window.pads_after = read("padding", 0);
  window.dilation = max ? read("dilation", 1) : memory::dims(spatial, 1);
  step.algorithm = algorithm::pooling_max;
  if (average) {
    if (node.operand("count_include_pad").is_none()) return false;
    const auto include = node.operand("count_include_pad").boolean().value_or(true);
    if (spatial > 1 && !node.operand("divisor_override").is_none()) return false;
    // A window beyond the edge counts what lies inside the image and its padding: oneDNN knows all of it or none.
    const bool padded = std::ranges::any_of(window.pads_before, [](std::int64_t pad) { return pad > 0; });
    if (*ceil_mode && include && padded) return false;
    step.algorithm =
        include && !*ceil_mode ? algorithm::pooling_avg_include_padding : algorithm::pooling_avg_exclude_padding;
  }
  step.kind = StepKind::Pooling;
  step.inputs = {input(node, 0)};
  return true;
}

// Means over all spatial dims of an image.
bool Lowering::lower_mean(const Node& node, ProgramStep& step) {
  const auto rank = type(node.input(0)).rank();
  if (rank < 3) return false;
  if (node.is("aten::mean.dim")) {
    auto dims = node.operand("dim").integers().value_or(memory::dims{});
    for (auto& dim : dims)
      if (dim < 0) dim += static_cast<std::int64_t>(rank);
    std::ranges::sort(dims);
    if (dims.size() != rank - 2 || dims.front() != 2 || !node.operand("dtype").is_none()) return false;
  } else if (node.is("aten::adaptive_avg_pool2d") || node.is("aten::adaptive_avg_pool1d") ||
             node.is("aten::adaptive_avg_pool3d")) {
    const auto size = node.operand("output_size").integers();
    if (!size || std::ranges::any_of(*size, [](std::int64_t one) { return one != 1; })) return false;
    if (rank != size->size() + 2) return false;
  } else {
    return false;
  }
  step.kind = StepKind::SpatialMean;
  step.inputs = {input(node, 0)};
  return true;
}

bool Lowering::lower_normalization(const Node& node, ProgramStep& step) {
  if (node.is("aten::softmax.int")) {
    if (!node.operand("dtype").is_none() || !node.operand("dim").integer()) return false;
    step.kind = StepKind::Softmax;
    step.axis = *node.operand("dim").integer();
    const auto rank = static_cast<std::int64_t>(type(node.input(0)).rank());
    if (step.axis < 0) step.axis += rank;
    if (rank == 0) return false;
  } else if (node.is("aten::layer_norm")) {
    const auto shape = node.operand("normalized_shape").integers();
    if (!shape || shape->size() != 1 || type(node.input(0)).rank() < 2) return false;
    for (const std::size_t position : {std::size_t{2}, std::size_t{3}}) {
      const auto value = node.input(position);
      if (value != kNoValue && !is_constant(value)) return false;
    }
    const auto vector = [&](ValueId value, double otherwise) {
      return value == kNoValue ? at::full(*shape, otherwise, at::kFloat)
                               : constant(value).to(at::kFloat).contiguous().clone();
    };
    step.kind = StepKind::LayerNorm;
    step.alpha = static_cast<float>(node.operand("eps").number().value_or(1e-5));
    step.gamma = vector(node.input(2), 1);
    step.beta_tensor = vector(node.input(3), 0);
  } else {
    return false;
  }
  step.inputs = {input(node, 0)};
  return true;
}

// A rounded matrix with a scale a row, as its integers; where they are not of that kind, nothing.
std::optional<IntegerTable> Lowering::integer_table(ValueId value) {
  std::vector<NodeId> path;
  if (table_weight(graph_, value, &path) == kNoValue || path.empty() || type(value).rank() != 2) return std::nullopt;
  const auto stored = stored_integers(path);
  if (path.size() != 1 && !stored.defined()) return std::nullopt;
  const auto& quantizer = graph_.node(path.back());
  if (family_of(quantizer.op) != OpFamily::FakeQuantize) return std::nullopt;
  const bool per_channel = quantizer.op.base() == "aten::fake_quantize_per_channel_affine";
  if (!per_channel && !quantizer.operand(1).number()) return std::nullopt;
  if (per_channel && quantizer.operand("axis").integer() != 0) return std::nullopt;
  if (quantizer.operand("quant_min").integer().value_or(-999) < -128 ||
      quantizer.operand("quant_max").integer().value_or(999) > 127)
    return std::nullopt;
  auto scale = per_channel ? constant(quantizer.input(1)).to(at::kFloat)
                           : at::full({1}, *quantizer.operand(1).number(), at::kFloat);
  auto zero = per_channel ? constant(quantizer.input(2)).to(at::kFloat)
                          : at::full({1}, quantizer.operand("zero_point").number().value_or(0), at::kFloat);
  if (!zero.eq(0).all().item<bool>()) return std::nullopt;
  IntegerTable table{stored, {}};
  if (!stored.defined()) {
    const auto& numbers = constant(value);
    table.integers = at::round(numbers.to(at::kFloat) / scale.view({-1, 1})).clamp(-128, 127).to(at::kChar);
  }
  table.scale = scale.expand({table.integers.size(0)}).contiguous().view({-1, 1});
  table.integers = table.integers.contiguous();
  folded_.erase(index(value));
  return table;
}

// Rows stored as integers, made float as they are looked up.
bool Lowering::lower_embedding(const Node& node, ProgramStep& step) {
  if (is_constant(node.input(1))) return false;
  if (lower_row_lookup(node, step)) return true;
  auto table = integer_table(node.input(0));
  if (!table) return false;
  step.table = std::move(*table);
  step.kind = StepKind::Embedding;
  step.inputs = {input(node, 1)};
  return true;
}

PARE_NAMESPACE_END
