#include "mcu/lowering.hpp"
#include "graph/padding.hpp"

#include <algorithm>
#include <array>

PARE_NAMESPACE_BEGIN

namespace mcu {

std::vector<std::int64_t> spread(const Node& node, std::string_view argument, std::int64_t otherwise) {
  auto values = node.operand(argument).integers().value_or(std::vector<std::int64_t>{});
  if (values.empty()) values = {otherwise};
  if (values.size() == 1) values.push_back(values[0]);
  return values;
}

Lowering::Lowering(const Model& model) : model_(model), graph_(model.graph()), regions_(match_regions(graph_)) {
  for (const auto& region : regions_) {
    last_[pare::index(region.nodes.back())] = &region;
    for (const auto id : region.nodes) inside_.insert(pare::index(id));
  }
}

Program Lowering::run() {
  check_ports();
  for (const auto id : graph_.nodes()) {
    const auto& node = graph_.node(id);
    if (node.condition == Condition::Training || is_table_node(node)) continue;
    if (const auto found = last_.find(pare::index(id)); found != last_.end())
      lower_region(*found->second);
    else if (!inside_.contains(pare::index(id)))
      lower_node(node);
  }
  if (program_.outputs == 0) fail("pare.mcu.102", "", "the last layer is not an integer layer");
  plan_arena(program_);
  return std::move(program_);
}

void Lowering::check_ports() const {
  if (graph_.inputs().size() != 1 || graph_.outputs().size() != 1)
    fail("pare.mcu.103", "", "{} inputs and {} outputs: a program has one of each", graph_.inputs().size(),
         graph_.outputs().size());
  if (graph_.dims().size() > 1)
    fail("pare.mcu.103", "", "sizes besides the batch vary ({}): capture the model at fixed ones", graph_.dims()[1]);
  // One that varies is the batch, of which a program has one sample, only as dimension 0.
  const auto& input = graph_.value(graph_.inputs()[0]);
  for (std::size_t d = 0; d < input.type.rank(); ++d)
    if (const auto& size = input.type.sizes[d]; !size.is_constant() && (d > 0 || size != SymbolicInt::dim(0)))
      fail("pare.mcu.103", input.name,
           "sizes besides the batch vary (dimension {} is {}): capture the model at fixed ones", d,
           size.text(graph_.dims()));
}

bool Lowering::is_table_node(const Node& node) const {
  return !node.operands.empty() && node.output() != kNoValue && table_weight(graph_, node.output()) != kNoValue;
}

Shape Lowering::shape_of(ValueId value) const {
  const auto sizes = graph_.value(value).type.sizes_at(std::vector<std::int64_t>(graph_.dims().size(), 1));
  const auto* producer = graph_.producer(value);
  const auto& name = producer ? producer->name : graph_.value(value).name;
  if (sizes.empty() || sizes[0] != 1 || sizes.size() > 4)
    fail("pare.mcu.103", name, "a value of {} dimensions whose first is not the batch", sizes.size());
  Shape shape;
  if (sizes.size() > 1) shape.channels = sizes[1];
  if (sizes.size() == 3) shape.width = sizes[2];
  if (sizes.size() == 4) shape.height = sizes[2], shape.width = sizes[3];
  return shape;
}

const Activation& Lowering::activation(const Node& reader, ValueId value) const {
  const auto found = known_.find(pare::index(value));
  if (found == known_.end() && graph_.value(value).kind == ValueKind::Input)
    fail("pare.mcu.102", reader.name,
         "{} reads the model's input as it is, not quantized: Quantizer::float_first_share = 0 does", reader.op.name());
  if (found == known_.end())
    fail("pare.mcu.102", reader.name, "{} reads a value that is not quantized; quantize the whole model",
         reader.op.name());
  return found->second;
}

Activation Lowering::unpadded(const Node& reader, ValueId value) const {
  const auto& result = activation(reader, value);
  if (result.pad_top + result.pad_left + result.pad_bottom + result.pad_right != 0)
    refuse(reader, "padding in front of anything but a convolution");
  return result;
}

Place Lowering::new_buffer(std::int64_t size) {
  program_.buffer_sizes.push_back(size);
  return static_cast<Place>(program_.buffer_sizes.size() - 1);
}

// Whether nothing but other names of dimensions and a softmax stands between a value and the model's output.
bool Lowering::ends_model(ValueId value) const {
  const auto& uses = graph_.uses(value);
  if (uses.size() != 1) return false;
  if (uses[0].node == kNoNode) return true;
  const auto& user = graph_.node(uses[0].node);
  return follows_scores(user) && ends_model(user.output());
}

// The fake-quantize that alone reads a value, or null where the value is the
// model's output.
const Node* Lowering::quantizer_of(const Node& node, ValueId value) const {
  if (ends_model(value)) return nullptr;
  const auto& uses = graph_.uses(value);
  if (uses.size() == 1 && uses[0].node != kNoNode && family_of(graph_.node(uses[0].node).op) == OpFamily::FakeQuantize)
    return &graph_.node(uses[0].node);
  fail("pare.mcu.102", node.name, "the result of {} stays float; quantize the whole model", node.op.name());
}

QParams Lowering::qparams_of(const Node& node) const {
  if (node.op.base() != "aten::fake_quantize_per_tensor_affine") refuse(node, "a scale a channel");
  const auto scale = node.operand(1).number();
  const auto zero_point = node.operand(2).integer(), low = node.operand(3).integer(), high = node.operand(4).integer();
  if (!scale || !zero_point || !low || !high) refuse(node, "a scale that is computed");
  if (*low < 0 || *high > 255) refuse(node, "activations from {} to {}: 0 to 255 are possible", *low, *high);
  return {*scale, *zero_point, *low, *high};
}

namespace {

// Whether an op only gives its input other dimensions.
bool only_renames(const Node& node) {
  constexpr std::array<std::string_view, 11> kRenaming{
      "aten::view",       "aten::reshape", "aten::flatten", "aten::squeeze", "aten::unsqueeze", "aten::unflatten",
      "aten::contiguous", "aten::alias",   "aten::detach",  "aten::dropout", "aten::clone"};
  return std::ranges::find(kRenaming, node.op.base()) != kRenaming.end();
}

}  // namespace

bool follows_scores(const Node& node) { return only_renames(node) || family_of(node.op) == OpFamily::Softmax; }

void Lowering::lower_node(const Node& node) {
  const auto base = node.op.base();
  if (family_of(node.op) == OpFamily::FakeQuantize) return quantize(node);
  if (only_renames(node)) return rename(node);
  if (base == "aten::max_pool2d" || base == "aten::max_pool1d") return max_pool(node);
  if (is_padding(node)) return pad(node);
  const bool unused = std::ranges::all_of(node.outputs, [&](ValueId value) { return graph_.uses(value).empty(); });
  if (!unused) refuse(node, "no kernel for this operator");
}

void Lowering::quantize(const Node& node) {
  const auto source = node.input(0);
  if (known_.contains(pare::index(node.output()))) return;  // by the layer before
  const auto qparams = qparams_of(node);
  if (graph_.value(source).kind == ValueKind::Input) {
    if (have_input_) refuse(node, "the input is quantized in two ways");
    have_input_ = true;
    program_.input = {Place::Input, qparams, shape_of(source)};
    known_[pare::index(node.output())] = program_.input;
    return;
  }
  const auto& held = activation(node, source);
  if (!(held.qparams == qparams)) refuse(node, "a second scale for one value");
  known_[pare::index(node.output())] = held;
}

void Lowering::rename(const Node& node) {
  if (program_.outputs != 0 && !known_.contains(pare::index(node.input(0)))) return;  // of the scores
  auto result = unpadded(node, node.input(0));
  result.shape = shape_of(node.output());
  known_[pare::index(node.output())] = result;
}

void Lowering::pad(const Node& node) {
  const auto pairs = node.operand(1).integers().value_or(std::vector<std::int64_t>{});
  const bool plain = !pairs.empty() && pairs.size() <= 4 && pads_zero(node) &&
                     std::ranges::all_of(pairs, [](auto size) { return size >= 0; });
  const auto rank = graph_.value(node.input(0)).type.rank();
  if (!plain || rank < 3 || pairs.size() / 2 > rank - 2)
    refuse(node, "only zeros around height and width can be added");
  auto result = unpadded(node, node.input(0));
  result.pad_left = pairs[0], result.pad_right = pairs[1];
  if (pairs.size() == 4) result.pad_top = pairs[2], result.pad_bottom = pairs[3];
  known_[pare::index(node.output())] = result;
}

void Lowering::max_pool(const Node& node) {
  if (std::ranges::any_of(spread(node, "dilation", 1), [](auto d) { return d != 1; })) refuse(node, "dilation");
  Step step;
  step.kind = StepKind::MaxPool;
  step.name = node.name;
  step.inputs = {unpadded(node, node.input(0))};
  window(node, step);
  step.output = {new_buffer(0), step.inputs[0].qparams, shape_of(node.output())};
  program_.buffer_sizes.back() = step.output.shape.size();
  step.value = node.output();
  known_[pare::index(step.value)] = step.output;
  program_.steps.push_back(std::move(step));
}

void Lowering::window(const Node& node, Step& step) const {
  const bool flat = node.op.base().ends_with("1d");
  if (graph_.value(node.input(0)).type.rank() != (flat ? 3 : 4)) refuse(node, "its input has no batch");
  const auto kernel = spread(node, "kernel_size", 1), padding = spread(node, "padding", 0);
  auto stride = node.operand("stride").integers().value_or(std::vector<std::int64_t>{});
  if (stride.empty()) stride = kernel;
  if (stride.size() == 1) stride.push_back(stride[0]);
  step.kernel_height = flat ? 1 : kernel[0], step.kernel_width = kernel[1];
  step.stride_height = flat ? 1 : stride[0], step.stride_width = stride[1];
  step.pad_top = flat ? 0 : padding[0], step.pad_left = padding[1];
}

void Lowering::lower_region(const FusedRegion& region) {
  const auto& anchor = graph_.node(region.anchor);
  if (region.batch_norm != kNoNode) refuse(anchor, "fold its batch norm first (FoldBatchNorm)");
  if (region.channel_scale != kNoNode) refuse(anchor, "a scale a channel behind it");
  Step step;
  step.name = anchor.name;
  switch (region.family) {
    case OpFamily::Convolution:
      return convolution(region, anchor, std::move(step));
    case OpFamily::Linear:
      return linear(region, anchor, std::move(step));
    case OpFamily::AveragePooling:
      return average_pool(region, anchor, std::move(step));
    case OpFamily::Addition:
      return add(region, anchor, std::move(step));
    case OpFamily::Concatenation:
      return concatenate(region, anchor);
    case OpFamily::Softmax:
      if (program_.outputs != 0) return;  // the order of the scores is that of the probabilities
      [[fallthrough]];
    default:
      refuse(anchor, "no integer kernel for {}", name_of(region.family));
  }
}

}  // namespace mcu

PARE_NAMESPACE_END
