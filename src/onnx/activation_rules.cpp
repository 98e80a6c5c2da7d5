// Activation functions and softmax.
#include <cmath>
#include <numbers>

#include "onnx/rules.hpp"

PARE_NAMESPACE_BEGIN

namespace onnx {

namespace {

c10::ScalarType dtype_of(const Emitter& out, const Node& node) { return out.type(node.output()).dtype; }

template <auto& op>
void plain(Emitter& out, const Node& node) {
  out.result(node, op, {out.input(node, 0)});
}

void relu6(Emitter& out, const Node& node) {
  out.result(node, "Clip",
             {out.input(node, 0), out.scalar(0, dtype_of(out, node)), out.scalar(6, dtype_of(out, node))});
}

void hardtanh(Emitter& out, const Node& node) {
  const auto dtype = dtype_of(out, node);
  out.result(node, "Clip",
             {out.input(node, 0), out.scalar(number_of(node, 1, -1), dtype), out.scalar(number_of(node, 2, 1), dtype)});
}

void hardsigmoid(Emitter& out, const Node& node) {
  out.result(node, "HardSigmoid", {out.input(node, 0)}, {{"alpha", 1.0F / 6}, {"beta", 0.5F}});
}

void silu(Emitter& out, const Node& node) {
  const auto x = out.input(node, 0);
  out.result(node, "Mul", {x, out.call("Sigmoid", {x})});
}

void mish(Emitter& out, const Node& node) {
  const auto x = out.input(node, 0);
  out.result(node, "Mul", {x, out.call("Tanh", {out.call("Softplus", {x})})});
}

// x/2 (1 + erf(x / sqrt 2)), or its approximation by tanh.
void gelu(Emitter& out, const Node& node) {
  const auto dtype = dtype_of(out, node);
  const auto x = out.input(node, 0);
  const auto* kind = node.operand("approximate").get<std::string>();
  if (out.opset() >= 20) {
    out.result(node, "Gelu", {x}, {{"approximate", kind ? *kind : std::string("none")}});
    return;
  }
  std::string curve;
  if (kind && *kind == "tanh") {
    const auto cube = out.call("Mul", {out.call("Mul", {x, x}), x});
    const auto inner = out.call("Add", {x, out.call("Mul", {cube, out.scalar(0.044715, dtype)})});
    curve = out.call("Tanh", {out.call("Mul", {inner, out.scalar(std::sqrt(2.0 * std::numbers::inv_pi), dtype)})});
  } else {
    curve = out.call("Erf", {out.call("Div", {x, out.scalar(std::numbers::sqrt2, dtype)})});
  }
  const auto both = out.call("Mul", {x, out.call("Add", {curve, out.scalar(1, dtype)})});
  out.result(node, "Mul", {both, out.scalar(0.5, dtype)});
}

void leaky_relu(Emitter& out, const Node& node) {
  out.result(node, "LeakyRelu", {out.input(node, 0)}, {{"alpha", static_cast<float>(number_of(node, 1, 0.01))}});
}

void elu(Emitter& out, const Node& node) {
  if (number_of(node, 2, 1) != 1.0 || number_of(node, 3, 1) != 1.0) Emitter::refuse(node, "scales other than 1");
  out.result(node, "Elu", {out.input(node, 0)}, {{"alpha", static_cast<float>(number_of(node, 1, 1))}});
}

void celu(Emitter& out, const Node& node) {
  out.result(node, "Celu", {out.input(node, 0)}, {{"alpha", static_cast<float>(number_of(node, 1, 1))}});
}

// log(1 + exp(beta x)) / beta, the identity above a threshold of beta x.
void softplus(Emitter& out, const Node& node) {
  const auto beta = number_of(node, 1, 1), threshold = number_of(node, 2, 20);
  const auto dtype = dtype_of(out, node);
  const auto x = out.input(node, 0);
  const auto factor = beta == 1.0 ? std::string() : out.scalar(beta, dtype);
  const auto scaled = factor.empty() ? x : out.call("Mul", {x, factor});
  // From there on the curve is the identity to the last bit.
  const double meets = dtype == at::kDouble ? 34 : 15;
  const auto last = threshold >= meets ? node.name : std::string();
  auto curve = out.call("Softplus", {scaled}, {}, factor.empty() ? last : std::string());
  if (!factor.empty()) curve = out.call("Div", {curve, factor}, {}, last);
  if (threshold >= meets) return out.alias(node, curve);
  out.result(node, "Where", {out.call("Greater", {scaled, out.scalar(threshold, dtype)}), x, curve});
}

// One slope for all, or one a channel: axis 1.
void prelu(Emitter& out, const Node& node) {
  const auto& x = out.type(node.input(0));
  auto slope = out.input(node, 1);
  const auto count = out.type(node.input(1)).sizes.empty() ? SymbolicInt(1) : out.type(node.input(1)).sizes[0];
  if (x.rank() > 2 && !(count == SymbolicInt(1))) {
    std::vector<std::int64_t> axes;
    for (std::size_t d = 2; d < x.rank(); ++d) axes.push_back(static_cast<std::int64_t>(d) - 1);
    slope = out.call("Unsqueeze", {slope, out.integers(axes)});
  }
  out.result(node, "PRelu", {out.input(node, 0), slope});
}

void softmax(Emitter& out, const Node& node) {
  const auto axis = integer_of(node, 1);
  out.result(node, node.is("aten::log_softmax") || node.is("aten::_log_softmax") ? "LogSoftmax" : "Softmax",
             {out.input_as(node, 0, dtype_of(out, node))}, {{"axis", axis}});
}

void gated(Emitter& out, const Node& node) {
  const auto dim = dim_of(node, 1, out.type(node.input(0)).rank());
  const auto half = out.type(node.output()).sizes[static_cast<std::size_t>(dim)].constant();
  if (!half) Emitter::refuse(node, "the size that it halves is not fixed");
  const auto parts = out.calls("Split", {out.input(node, 0), out.integers({*half, *half})}, 2, {{"axis", dim}});
  out.result(node, "Mul", {parts[0], out.call("Sigmoid", {parts[1]})});
}

void log_sigmoid(Emitter& out, const Node& node) {
  out.result(node, "Neg", {out.call("Softplus", {out.call("Neg", {out.input(node, 0)})})});
}

// Zero near zero; the rest as it is, or moved towards it.
void shrink(Emitter& out, const Node& node) {
  const auto lambda = static_cast<float>(number_of(node, 1, 0.5));
  out.result(node, "Shrink", {out.input(node, 0)},
             {{"lambd", lambda}, {"bias", node.is("aten::softshrink") ? lambda : 0.0F}});
}

void threshold(Emitter& out, const Node& node) {
  const auto dtype = dtype_of(out, node);
  const auto x = out.input(node, 0);
  const auto above = out.call("Greater", {x, out.input_as(node, 1, dtype)});
  out.result(node, "Where", {above, x, out.input_as(node, 2, dtype)});
}

// In evaluation mode the slope is the middle of those drawn from in training.
void random_relu(Emitter& out, const Node& node) {
  const auto* training = node.operand("training").get<Flag>();
  if (training && *training == Flag::True) Emitter::refuse(node, "it draws slopes in evaluation mode too");
  const auto slope = (number_of(node, 1, 1.0 / 8) + number_of(node, 2, 1.0 / 3)) / 2;
  out.result(node, "LeakyRelu", {out.input(node, 0)}, {{"alpha", static_cast<float>(slope)}});
}

constexpr const char kRelu[] = "Relu", kSigmoid[] = "Sigmoid", kTanh[] = "Tanh", kHardSwish[] = "HardSwish",
                     kSelu[] = "Selu", kSoftsign[] = "Softsign";

constexpr RuleEntry kActivationRules[] = {
    {"aten::relu", plain<kRelu>},
    {"aten::sigmoid", plain<kSigmoid>},
    {"aten::tanh", plain<kTanh>},
    {"aten::hardswish", plain<kHardSwish>},
    {"aten::selu", plain<kSelu>},
    {"aten::softsign", plain<kSoftsign>},
    {"aten::relu6", relu6},
    {"aten::hardtanh", hardtanh},
    {"aten::hardsigmoid", hardsigmoid},
    {"aten::silu", silu},
    {"aten::mish", mish},
    {"aten::gelu", gelu},
    {"aten::leaky_relu", leaky_relu},
    {"aten::elu", elu},
    {"aten::celu", celu},
    {"aten::softplus", softplus},
    {"aten::prelu", prelu},
    {"aten::_prelu_kernel", prelu},
    {"aten::softmax", softmax},
    {"aten::_softmax", softmax},
    {"aten::log_softmax", softmax},
    {"aten::_log_softmax", softmax},
    {"aten::glu", gated},
    {"aten::log_sigmoid", log_sigmoid},
    {"aten::softshrink", shrink},
    {"aten::hardshrink", shrink},
    {"aten::threshold", threshold},
    {"aten::rrelu", random_relu},
};

}  // namespace

std::span<const RuleEntry> activation_rules() { return kActivationRules; }

}  // namespace onnx

PARE_NAMESPACE_END
