#include "onnx/emitter.hpp"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>

PARE_NAMESPACE_BEGIN

namespace onnx {

Emitter::Emitter(const Model& model, int opset) : model_(model) {
  proto_.opset = opset;
  proto_.graph_name = "pare";
  for (std::size_t i = 0; i < graph().value_count(); ++i) {
    const ValueId id{static_cast<std::uint32_t>(i)};
    if (graph().value(id).kind == ValueKind::Weight && !graph().uses(id).empty())
      constants_[i].tensor = model.weight(id).detach().to(at::kCPU);
  }
}

const Constant* Emitter::constant(ValueId value) const {
  const auto found = constants_.find(index(value));
  return found == constants_.end() ? nullptr : &found->second;
}

const QParams* Emitter::qparams(ValueId value) const {
  const auto found = qparams_.find(index(value));
  return found == qparams_.end() ? nullptr : &found->second;
}

std::string Emitter::unique(const std::string& wanted) {
  auto name = wanted.empty() ? std::string("value") : wanted;
  for (int i = 1; !taken_.insert(name).second; ++i) name = fmt::format("{}_{}", wanted, i);
  return name;
}

std::string Emitter::value(ValueId id) {
  if (const auto known = names_.find(index(id)); known != names_.end()) return known->second;
  const auto* held = constant(id);
  if (!held) fail("pare.onnx.101", graph().value(id).name, "a value that no exported node computes");
  const auto* producer = graph().producer(id);
  const auto hint = producer ? producer->name : graph().value(id).name;
  const auto name = held->integers ? dequantize(*held->integers, hint) : tensor(held->tensor, hint);
  names_[index(id)] = name;
  return name;
}

std::string Emitter::input(const Node& node, std::size_t position) {
  if (position >= node.operands.size()) return {};
  const auto id = node.input(position);
  return id == kNoValue ? std::string() : value(id);
}

std::string Emitter::input_as(const Node& node, std::size_t position, c10::ScalarType dtype) {
  const auto& operand = node.operand(position);
  if (const auto id = operand.value(); id != kNoValue) {
    const auto* held = constant(id);
    if (held && !held->integers && held->tensor.scalar_type() != dtype && held->tensor.numel() <= 1)
      return tensor(held->tensor.to(dtype));
    return cast(value(id), type(id).dtype, dtype);
  }
  if (const auto whole = operand.integer()) return scalar(*whole, dtype);
  if (const auto number = operand.number()) return scalar(*number, dtype);
  if (const auto* size = operand.get<SymbolicInt>()) return cast(symbolic(*size), at::kLong, dtype);
  refuse(node, "argument {} is neither a tensor nor a number", position);
}

std::string Emitter::initializer(const at::Tensor& values, ElementType type, std::vector<std::int64_t> dims,
                                 const std::string& hint) {
  auto name = unique(hint);
  proto_.initializers.push_back({name, type, std::move(dims), values.contiguous()});
  return name;
}

std::string Emitter::tensor(const at::Tensor& values, const std::string& hint) {
  return initializer(values, element_type(values.scalar_type()), values.sizes().vec(), hint);
}

std::string Emitter::integers(const std::vector<std::int64_t>& values) {
  auto& name = small_[fmt::format("i{}", fmt::join(values, ","))];
  if (name.empty()) name = tensor(at::tensor(at::IntArrayRef(values), at::kLong), "integers");
  return name;
}

std::string Emitter::scalar(const at::Scalar& number, c10::ScalarType dtype) {
  const auto held = at::full({}, number, dtype);
  // Whole numbers as they are: a double holds 53 bits of them.
  const auto text = c10::isIntegralType(dtype, true) ? fmt::format("{}", held.to(at::kLong).item<std::int64_t>())
                                                     : fmt::format("{:a}", held.item<double>());
  auto& name = small_[fmt::format("s{}:{}", c10::toString(dtype), text)];
  if (name.empty()) name = tensor(held, "scalar");
  return name;
}

// Read from the first input that has the dim by itself.
std::string Emitter::dim(std::uint32_t wanted) {
  auto& name = dim_names_[wanted];
  if (!name.empty()) return name;
  const auto plain = SymbolicInt::dim(wanted);
  for (const auto id : graph().inputs()) {
    const auto& sizes = type(id).sizes;
    const auto found = std::ranges::find(sizes, plain);
    if (found == sizes.end()) continue;
    const auto all = call("Shape", {value(id)}, {}, "shape");
    name = call("Gather", {all, scalar(found - sizes.begin(), at::kLong)}, {{"axis", std::int64_t{0}}},
                graph().dims()[wanted]);
    return name;
  }
  fail("pare.onnx.101", graph().dims()[wanted], "no input has this dim by itself, so that it cannot be computed");
}

std::string Emitter::product(const SymbolicInt::Term& term) {
  std::string result;
  for (const auto factor : term.dims) result = result.empty() ? dim(factor) : call("Mul", {result, dim(factor)});
  if (term.coefficient == 1) return result;
  return call("Mul", {result, scalar(term.coefficient, at::kLong)});
}

// floor((sum of products + offset) / divisor) as an int64 scalar. Sizes are not negative, so Div, which truncates, is
// floor.
std::string Emitter::symbolic(const SymbolicInt& size) {
  if (const auto number = size.constant()) return scalar(*number, at::kLong);
  std::string sum;
  for (const auto& term : size.terms()) sum = sum.empty() ? product(term) : call("Add", {sum, product(term)});
  if (size.offset() != 0) sum = call("Add", {sum, scalar(size.offset(), at::kLong)});
  if (size.divisor() != 1) sum = call("Div", {sum, scalar(size.divisor(), at::kLong)});
  return sum;
}

std::string Emitter::shape(const std::vector<SymbolicInt>& sizes) {
  std::vector<std::int64_t> constants;
  for (const auto& size : sizes)
    if (const auto number = size.constant()) constants.push_back(*number);
  if (constants.size() == sizes.size()) return integers(constants);
  Names parts;
  for (const auto& size : sizes) {
    const auto number = size.constant();
    parts.push_back(number ? integers({*number}) : call("Unsqueeze", {symbolic(size), integers({0})}));
  }
  return parts.size() == 1 ? parts[0] : call("Concat", parts, {{"axis", std::int64_t{0}}}, "sizes");
}

std::string Emitter::call(std::string op, Names inputs, Attributes attributes, const std::string& name) {
  const auto output = unique(name.empty() ? fmt::format("{}.{}", layer_, op) : name);
  proto_.calls.push_back({std::move(op), std::move(inputs), {output}, output, std::move(attributes)});
  return output;
}

Names Emitter::calls(std::string op, Names inputs, std::size_t outputs, Attributes attributes) {
  Names results;
  for (std::size_t i = 0; i < outputs; ++i) results.push_back(unique(fmt::format("{}.{}", layer_, op)));
  proto_.calls.push_back({std::move(op), std::move(inputs), results, results.at(0), std::move(attributes)});
  return results;
}

void Emitter::result(const Node& node, std::string op, Names inputs, Attributes attributes) {
  alias(node, call(std::move(op), std::move(inputs), std::move(attributes), node.name));
}

void Emitter::alias(const Node& node, const std::string& name, std::size_t output) {
  names_[index(node.outputs.at(output))] = name;
}

void Emitter::set_constant(ValueId value, Constant constant) { constants_[index(value)] = std::move(constant); }

std::string Emitter::cast(const std::string& name, c10::ScalarType from, c10::ScalarType to) {
  if (from == to || name.empty()) return name;
  return call("Cast", {name}, {{"to", static_cast<std::int64_t>(element_type(to))}});
}

namespace {

// Two integers of 4 bits a byte, the first one low.
at::Tensor packed(const at::Tensor& integers) {
  auto flat = integers.flatten().to(at::kInt).bitwise_and(15);
  if (flat.numel() % 2 != 0) flat = at::cat({flat, at::zeros({1}, at::kInt)});
  const auto pairs = flat.view({-1, 2});
  return (pairs.select(1, 0) + pairs.select(1, 1) * 16).to(at::kByte);
}

}  // namespace

std::string Emitter::dequantize(const IntegerForm& form, const std::string& hint) {
  const auto integers_of = [&](const at::Tensor& values, const std::string& name) {
    if (!form.four_bits) return tensor(values, name);
    return initializer(packed(values), ElementType::Int4, values.sizes().vec(), name);
  };
  const auto sizes = fmt::format("{}.int{}", hint, form.four_bits ? 4 : 8);
  Names inputs{integers_of(form.integers, sizes), tensor(form.scale, hint + ".scale"),
               integers_of(form.zero_point, hint + ".zero_point")};
  Attributes attributes;
  if (form.scale.dim() > 0) attributes.emplace_back("axis", form.axis);
  if (form.block != 0) attributes.emplace_back("block_size", form.block);
  return call("DequantizeLinear", std::move(inputs), std::move(attributes), hint + ".dequantized");
}

std::string Emitter::requantize(const std::string& name, const QParams& qparams, const std::string& hint,
                                Bounds bounds) {
  const bool is_signed = qparams.quant_min < 0;
  // What saturates by itself needs no Clip; the one integer more of [-128, 127] only catches what is clipped anyway.
  const bool whole = is_signed ? qparams.quant_min <= -127 && qparams.quant_max == 127
                               : qparams.quant_min == 0 && qparams.quant_max == 255;
  auto source = name;
  if (!whole && bounds == Bounds::Clipped)
    source = call("Clip", {name, scalar(qparams.low(), at::kFloat), scalar(qparams.high(), at::kFloat)});
  const auto scale = scalar(qparams.scale, at::kFloat);
  const auto zero_point = scalar(qparams.zero_point, is_signed ? at::kChar : at::kByte);
  const auto integers = call("QuantizeLinear", {source, scale, zero_point}, {}, hint + ".quantized");
  return call("DequantizeLinear", {integers, scale, zero_point}, {}, hint + ".dequantized");
}

Port Emitter::port(ValueId id, const std::string& name) const {
  Port result{name, element_type(type(id).dtype), {}};
  for (const auto& size : type(id).sizes) {
    if (const auto number = size.constant())
      result.dims.emplace_back(*number);
    else
      result.dims.emplace_back(size.text(graph().dims()));
  }
  return result;
}

void Emitter::reserve(const std::string& name) {
  if (name.empty() || !taken_.insert(name).second)
    fail("pare.onnx.102", name, "names of inputs and outputs must differ and not be empty");
}

void Emitter::declare_input(ValueId id, const std::string& name) {
  names_[index(id)] = name;
  proto_.inputs.push_back(port(id, name));
}

void Emitter::declare_output(ValueId id, const std::string& name) {
  const auto source = value(id);
  if (!rename(source, name)) proto_.calls.push_back({"Identity", {source}, {name}, name, {}});
  proto_.outputs.push_back(port(id, name));
}

// What a call computes takes the output's name itself: behind an Identity ONNX Runtime fuses a padding into a
// convolution that reads another value. Inputs, constants and what is an output already keep their names.
bool Emitter::rename(const std::string& from, const std::string& to) {
  if (std::ranges::any_of(proto_.outputs, [&](const Port& output) { return output.name == from; })) return false;
  bool computed = false;
  for (auto& call : proto_.calls)
    if (const auto at = std::ranges::find(call.outputs, from); at != call.outputs.end()) {
      *at = to;
      computed = true;
    }
  if (!computed) return false;
  for (auto& call : proto_.calls) std::ranges::replace(call.inputs, from, to);
  for (auto& [value, name] : names_)
    if (name == from) name = to;
  return true;
}

Proto Emitter::finish() && { return std::move(proto_); }

}  // namespace onnx

PARE_NAMESPACE_END
