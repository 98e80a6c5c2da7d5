// Sums, products, comparisons and functions of single elements.
#include <ATen/ATen.h>

#include <cmath>
#include <limits>

#include "onnx/rules.hpp"

PARE_NAMESPACE_BEGIN

namespace onnx {

namespace {

c10::ScalarType result_type(const Emitter& out, const Node& node) { return out.type(node.output()).dtype; }

// `a op alpha * b`, both in the result's dtype. The sum of flags is whether one of them is set.
void add_or_sub(Emitter& out, const Node& node, const char* op, bool reversed) {
  const auto dtype = result_type(out, node);
  Names inputs{out.input_as(node, 0, dtype), out.input_as(node, 1, dtype)};
  const auto alpha = node.operands.size() > 2 ? node.operand(2).number() : 1.0;
  if (!alpha) Emitter::refuse(node, "a factor that is computed");
  auto& scaled = inputs[reversed ? 0 : 1];
  if (dtype == at::kBool) {
    if (*alpha != 1.0) Emitter::refuse(node, "a factor of flags");
    return out.result(node, "Or", std::move(inputs));
  }
  if (*alpha != 1.0) scaled = out.call("Mul", {scaled, out.input_as(node, 2, dtype)});
  if (reversed) std::swap(inputs[0], inputs[1]);
  out.result(node, op, std::move(inputs));
}

void add(Emitter& out, const Node& node) { add_or_sub(out, node, "Add", false); }
void subtract(Emitter& out, const Node& node) { add_or_sub(out, node, "Sub", false); }
void subtract_from(Emitter& out, const Node& node) { add_or_sub(out, node, "Sub", true); }

// `of_flags` is the operator for results that are true or false, for which ONNX has no arithmetic.
template <auto& op, auto& of_flags>
void binary(Emitter& out, const Node& node) {
  const auto dtype = result_type(out, node);
  out.result(node, dtype == at::kBool ? of_flags : op, {out.input_as(node, 0, dtype), out.input_as(node, 1, dtype)});
}

void divide(Emitter& out, const Node& node) {
  const auto dtype = result_type(out, node);
  const Names inputs{out.input_as(node, 0, dtype), out.input_as(node, 1, dtype)};
  const auto* mode = node.operands.size() > 2 ? node.operand(2).get<std::string>() : nullptr;
  const bool floor = node.is("aten::floor_divide") || (mode && *mode == "floor");
  if (mode && *mode == "trunc" && at::isFloatingType(dtype)) Emitter::refuse(node, "truncation of a float quotient");
  if (floor && !at::isFloatingType(dtype)) Emitter::refuse(node, "integer division that rounds down");
  const auto quotient = out.call("Div", inputs, {}, floor ? std::string() : node.name);
  if (floor)
    out.result(node, "Floor", {quotient});
  else
    out.alias(node, quotient);
}

c10::ScalarType compared_type(const Emitter& out, const Node& node) {
  auto dtype = out.type(node.input(0)).dtype;
  if (const auto other = node.input(1); other != kNoValue) dtype = c10::promoteTypes(dtype, out.type(other).dtype);
  if (node.operand(1).get<double>() && !at::isFloatingType(dtype)) dtype = at::kFloat;
  return dtype == at::kBool ? at::kInt : dtype;
}

template <auto& op, bool negated>
void compare(Emitter& out, const Node& node) {
  const auto dtype = compared_type(out, node);
  Names inputs{out.input_as(node, 0, dtype), out.input_as(node, 1, dtype)};
  if (!negated) {
    out.result(node, op, std::move(inputs));
    return;
  }
  out.result(node, "Not", {out.call(op, std::move(inputs))});
}

template <auto& op>
void logical(Emitter& out, const Node& node) {
  Names inputs{out.input_as(node, 0, at::kBool)};
  if (node.operands.size() > 1) inputs.push_back(out.input_as(node, 1, at::kBool));
  out.result(node, op, std::move(inputs));
}

// Of flags the bitwise ops are the logical ones.
template <auto& op>
void bitwise(Emitter& out, const Node& node) {
  if (result_type(out, node) != at::kBool) Emitter::refuse(node, "bits of integers");
  logical<op>(out, node);
}

template <auto& op>
void unary(Emitter& out, const Node& node) {
  if (result_type(out, node) == at::kBool) Emitter::refuse(node, "a number's operator on flags");
  out.result(node, op, {out.input_as(node, 0, result_type(out, node))});
}

// Integers are whole already, and ONNX rounds floats alone.
template <auto& op>
void rounding(Emitter& out, const Node& node) {
  if (at::isFloatingType(result_type(out, node))) return unary<op>(out, node);
  out.alias(node, out.input(node, 0));
}

// A question about a float, which is not cast to the answer's type.
template <auto& op>
void unary_test(Emitter& out, const Node& node) {
  const auto dtype = out.type(node.input(0)).dtype;
  out.result(node, op, {out.input_as(node, 0, at::isFloatingType(dtype) ? dtype : at::kFloat)});
}

void reciprocal_root(Emitter& out, const Node& node) {
  out.result(node, "Reciprocal", {out.call("Sqrt", {out.input_as(node, 0, result_type(out, node))})});
}

// Halves to even. Decimals are rounded as LibTorch does: a multiple or a share by a whole power of ten, and back.
void round_decimals(Emitter& out, const Node& node) {
  const auto dtype = result_type(out, node);
  const auto x = out.input_as(node, 0, dtype);
  const auto position = node.op.argument("decimals");
  const auto decimals = position < 0 ? 0 : integer_of(node, static_cast<std::size_t>(position));
  if (!at::isFloatingType(dtype)) {
    if (decimals != 0) Emitter::refuse(node, "decimals of integers");
    return out.alias(node, x);
  }
  if (decimals == 0) return out.result(node, "Round", {x});
  const bool fraction = decimals > 0;
  const auto power = out.scalar(std::pow(10.0, std::abs(static_cast<double>(decimals))), dtype);
  const auto whole = out.call("Round", {out.call(fraction ? "Mul" : "Div", {x, power})});
  out.result(node, fraction ? "Div" : "Mul", {whole, power});
}

// log(1 + x), exp(x) - 1 and their like: a function of x after or before another number.
void log_of_one_more(Emitter& out, const Node& node) {
  const auto dtype = result_type(out, node);
  out.result(node, "Log", {out.call("Add", {out.input_as(node, 0, dtype), out.scalar(1, dtype)})});
}

void exp_less_one(Emitter& out, const Node& node) {
  const auto dtype = result_type(out, node);
  out.result(node, "Sub", {out.call("Exp", {out.input_as(node, 0, dtype)}), out.scalar(1, dtype)});
}

template <auto& base>
void logarithm(Emitter& out, const Node& node) {
  const auto dtype = result_type(out, node);
  out.result(node, "Div", {out.call("Log", {out.input_as(node, 0, dtype)}), out.scalar(std::log(base), dtype)});
}

void power_of_two(Emitter& out, const Node& node) {
  const auto dtype = result_type(out, node);
  out.result(node, "Pow", {out.scalar(2, dtype), out.input_as(node, 0, dtype)});
}

// input + value * a * b, or a / b
void add_product(Emitter& out, const Node& node) {
  const auto dtype = result_type(out, node);
  auto term =
      out.call(node.is("aten::addcmul") ? "Mul" : "Div", {out.input_as(node, 1, dtype), out.input_as(node, 2, dtype)});
  const auto factor = number_of(node, 3, 1);
  if (factor != 1.0) term = out.call("Mul", {term, out.scalar(factor, dtype)});
  out.result(node, "Add", {out.input_as(node, 0, dtype), term});
}

// start + weight (end - start)
void interpolate(Emitter& out, const Node& node) {
  const auto dtype = result_type(out, node);
  const auto start = out.input_as(node, 0, dtype);
  const auto way = out.call("Sub", {out.input_as(node, 1, dtype), start});
  out.result(node, "Add", {start, out.call("Mul", {out.input_as(node, 2, dtype), way})});
}

// The remainder has the divisor's sign, that of fmod the dividend's. ONNX has the first for integers alone.
void remainder(Emitter& out, const Node& node) {
  const auto dtype = result_type(out, node);
  const auto x = out.input_as(node, 0, dtype), y = out.input_as(node, 1, dtype);
  if (node.is("aten::fmod")) return out.result(node, "Mod", {x, y}, {{"fmod", std::int64_t{1}}});
  if (!at::isFloatingType(dtype)) return out.result(node, "Mod", {x, y}, {{"fmod", std::int64_t{0}}});
  out.result(node, "Sub", {x, out.call("Mul", {out.call("Floor", {out.call("Div", {x, y})}), y})});
}

void square(Emitter& out, const Node& node) {
  const auto x = out.input_as(node, 0, result_type(out, node));
  out.result(node, "Mul", {x, x});
}

void power(Emitter& out, const Node& node) {
  const auto dtype = result_type(out, node);
  const auto exponent = node.operand(1).number();
  const auto base = out.input_as(node, 0, dtype);
  if (exponent == 2.0)
    out.result(node, "Mul", {base, base});
  else if (exponent == 0.5)
    out.result(node, "Sqrt", {base});
  else
    out.result(node, "Pow", {base, out.input_as(node, 1, dtype)});
}

// Runtimes choose between numbers: flags go as integers.
void chosen(Emitter& out, const Node& node, std::size_t condition, std::size_t yes, std::size_t no) {
  const auto dtype = result_type(out, node);
  const Names inputs{out.input_as(node, condition, at::kBool), out.input_as(node, yes, dtype),
                     out.input_as(node, no, dtype)};
  if (dtype != at::kBool) return out.result(node, "Where", inputs);
  const auto as_integer = [&](const std::string& flags) { return out.cast(flags, dtype, at::kInt); };
  const auto integers = out.call("Where", {inputs[0], as_integer(inputs[1]), as_integer(inputs[2])});
  out.alias(node, out.cast(integers, at::kInt, dtype));
}

void where(Emitter& out, const Node& node) {
  if (node.operands.size() != 3) Emitter::refuse(node, "how many places it finds depends on values");
  chosen(out, node, 0, 1, 2);
}

void masked_fill(Emitter& out, const Node& node) { chosen(out, node, 1, 2, 0); }

void clamp(Emitter& out, const Node& node) {
  const auto dtype = result_type(out, node);
  const bool only_max = node.is("aten::clamp_max");
  auto value = out.input_as(node, 0, dtype);
  const auto bound = [&](std::size_t position, const char* op) {
    if (position < node.operands.size() && !node.operand(position).is_none())
      value = out.call(op, {value, out.input_as(node, position, dtype)});
  };
  const bool numbers = node.operands.size() < 2 || node.operand(1).value() == kNoValue;
  const auto number = [&](std::size_t position) {
    const bool given = position < node.operands.size() && !node.operand(position).is_none() &&
                       node.operand(position).value() == kNoValue;
    return given ? out.input_as(node, position, dtype) : std::string();
  };
  const auto low = only_max ? std::string() : number(1), high = number(only_max ? 1 : 2);
  if (numbers && !(low.empty() && high.empty())) {  // one node, which fuses with the layer before
    out.result(node, "Clip", {value, low, high});
    return;
  }
  bound(1, only_max ? "Min" : "Max");
  bound(2, "Min");
  out.alias(node, value);
}

constexpr const char kMul[] = "Mul", kMaximum[] = "Max", kMinimum[] = "Min", kEqual[] = "Equal", kLess[] = "Less",
                     kLessOrEqual[] = "LessOrEqual", kGreater[] = "Greater", kGreaterOrEqual[] = "GreaterOrEqual",
                     kNot[] = "Not", kAnd[] = "And", kOr[] = "Or", kXor[] = "Xor", kExp[] = "Exp", kLog[] = "Log",
                     kSqrt[] = "Sqrt", kAbs[] = "Abs", kNeg[] = "Neg", kErf[] = "Erf", kFloor[] = "Floor",
                     kCeil[] = "Ceil", kSin[] = "Sin", kCos[] = "Cos", kSign[] = "Sign", kReciprocal[] = "Reciprocal",
                     kIsNaN[] = "IsNaN", kTan[] = "Tan", kAtan[] = "Atan", kAsin[] = "Asin", kAcos[] = "Acos",
                     kSinh[] = "Sinh", kCosh[] = "Cosh", kAsinh[] = "Asinh", kAcosh[] = "Acosh", kAtanh[] = "Atanh",
                     kIsInf[] = "IsInf";
constexpr double kTwo = 2, kTen = 10;

constexpr RuleEntry kElementwiseRules[] = {
    {"aten::add", add},
    {"aten::sub", subtract},
    {"aten::rsub", subtract_from},
    {"aten::mul", binary<kMul, kAnd>},
    {"aten::div", divide},
    {"aten::true_divide", divide},
    {"aten::floor_divide", divide},
    {"aten::maximum", binary<kMaximum, kOr>},
    {"aten::minimum", binary<kMinimum, kAnd>},
    {"aten::eq", compare<kEqual, false>},
    {"aten::ne", compare<kEqual, true>},
    {"aten::lt", compare<kLess, false>},
    {"aten::le", compare<kLessOrEqual, false>},
    {"aten::gt", compare<kGreater, false>},
    {"aten::ge", compare<kGreaterOrEqual, false>},
    {"aten::logical_not", logical<kNot>},
    {"aten::logical_and", logical<kAnd>},
    {"aten::logical_or", logical<kOr>},
    {"aten::logical_xor", logical<kXor>},
    {"aten::bitwise_not", bitwise<kNot>},
    {"aten::bitwise_and", bitwise<kAnd>},
    {"aten::bitwise_or", bitwise<kOr>},
    {"aten::bitwise_xor", bitwise<kXor>},
    {"aten::exp", unary<kExp>},
    {"aten::log", unary<kLog>},
    {"aten::sqrt", unary<kSqrt>},
    {"aten::rsqrt", reciprocal_root},
    {"aten::abs", unary<kAbs>},
    {"aten::neg", unary<kNeg>},
    {"aten::erf", unary<kErf>},
    {"aten::floor", rounding<kFloor>},
    {"aten::ceil", rounding<kCeil>},
    {"aten::round", round_decimals},
    {"aten::sin", unary<kSin>},
    {"aten::cos", unary<kCos>},
    {"aten::sign", unary<kSign>},
    {"aten::reciprocal", unary<kReciprocal>},
    {"aten::isnan", unary_test<kIsNaN>},
    {"aten::isinf", unary_test<kIsInf>},
    {"aten::tan", unary<kTan>},
    {"aten::atan", unary<kAtan>},
    {"aten::asin", unary<kAsin>},
    {"aten::acos", unary<kAcos>},
    {"aten::sinh", unary<kSinh>},
    {"aten::cosh", unary<kCosh>},
    {"aten::asinh", unary<kAsinh>},
    {"aten::acosh", unary<kAcosh>},
    {"aten::atanh", unary<kAtanh>},
    {"aten::log1p", log_of_one_more},
    {"aten::expm1", exp_less_one},
    {"aten::log2", logarithm<kTwo>},
    {"aten::log10", logarithm<kTen>},
    {"aten::exp2", power_of_two},
    {"aten::addcmul", add_product},
    {"aten::addcdiv", add_product},
    {"aten::lerp", interpolate},
    {"aten::remainder", remainder},
    {"aten::fmod", remainder},
    {"aten::square", square},
    {"aten::pow", power},
    {"aten::where", where},
    {"aten::masked_fill", masked_fill},
    {"aten::clamp", clamp},
    {"aten::clamp_min", clamp},
    {"aten::clamp_max", clamp},
};

}  // namespace

std::span<const RuleEntry> elementwise_rules() { return kElementwiseRules; }

}  // namespace onnx

PARE_NAMESPACE_END
