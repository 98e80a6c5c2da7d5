#include "pare/graph/op_family.hpp"

#include <string>
#include <unordered_map>

#include "pare/graph/fusion.hpp"

PARE_NAMESPACE_BEGIN

namespace {

using Table = std::unordered_map<std::string_view, OpFamily>;

const Table& families() {
  using enum OpFamily;
  static const Table table{
      {"aten::conv1d", Convolution},
      {"aten::conv2d", Convolution},
      {"aten::conv3d", Convolution},
      {"aten::convolution", Convolution},
      {"aten::_convolution", Convolution},
      {"aten::conv_transpose1d", TransposedConvolution},
      {"aten::conv_transpose2d", TransposedConvolution},
      {"aten::conv_transpose3d", TransposedConvolution},
      {"aten::linear", Linear},
      {"aten::addmm", Linear},
      {"aten::mm", MatrixMultiply},
      {"aten::matmul", MatrixMultiply},
      {"aten::bmm", MatrixMultiply},
      {"aten::baddbmm", MatrixMultiply},
      {"aten::scaled_dot_product_attention", Attention},
      {"aten::lstm", Recurrent},
      {"aten::gru", Recurrent},
      {"aten::rnn_tanh", Recurrent},
      {"aten::rnn_relu", Recurrent},
      {"aten::embedding", Embedding},
      {"aten::embedding_bag", Embedding},
      {"aten::batch_norm", Normalization},
      {"aten::layer_norm", Normalization},
      {"aten::native_layer_norm", Normalization},
      {"aten::group_norm", Normalization},
      {"aten::instance_norm", Normalization},
      {"aten::rms_norm", Normalization},
      {"aten::add", Addition},
      {"aten::sub", Addition},
      {"aten::mul", Multiplication},
      {"aten::div", Multiplication},
      {"aten::relu", Activation},
      {"aten::relu6", Activation},
      {"aten::hardtanh", Activation},
      {"aten::clamp", Activation},
      {"aten::clamp_min", Activation},
      {"aten::hardswish", Activation},
      {"aten::hardsigmoid", Activation},
      {"aten::sigmoid", Activation},
      {"aten::silu", Activation},
      {"aten::gelu", Activation},
      {"aten::tanh", Activation},
      {"aten::leaky_relu", Activation},
      {"aten::elu", Activation},
      {"aten::mish", Activation},
      {"aten::softplus", Activation},
      {"aten::prelu", Activation},
      {"aten::softmax", Softmax},
      {"aten::_softmax", Softmax},
      {"aten::log_softmax", Softmax},
      {"aten::avg_pool1d", AveragePooling},
      {"aten::avg_pool2d", AveragePooling},
      {"aten::avg_pool3d", AveragePooling},
      {"aten::adaptive_avg_pool1d", AveragePooling},
      {"aten::adaptive_avg_pool2d", AveragePooling},
      {"aten::adaptive_avg_pool3d", AveragePooling},
      {"aten::mean", AveragePooling},
      {"aten::cat", Concatenation},
      {"aten::concat", Concatenation},
      {"aten::stack", Concatenation},
      {"aten::view", PassThrough},
      {"aten::_unsafe_view", PassThrough},
      {"aten::reshape", PassThrough},
      {"aten::flatten", PassThrough},
      {"aten::unflatten", PassThrough},
      {"aten::permute", PassThrough},
      {"aten::transpose", PassThrough},
      {"aten::t", PassThrough},
      {"aten::numpy_T", PassThrough},
      {"aten::squeeze", PassThrough},
      {"aten::unsqueeze", PassThrough},
      {"aten::expand", PassThrough},
      {"aten::expand_as", PassThrough},
      {"aten::repeat", PassThrough},
      {"aten::contiguous", PassThrough},
      {"aten::clone", PassThrough},
      {"aten::alias", PassThrough},
      {"aten::detach", PassThrough},
      {"aten::slice", PassThrough},
      {"aten::select", PassThrough},
      {"aten::narrow", PassThrough},
      {"aten::chunk", PassThrough},
      {"aten::split", PassThrough},
      {"aten::split_with_sizes", PassThrough},
      {"aten::unbind", PassThrough},
      {"aten::index_select", PassThrough},
      {"aten::flip", PassThrough},
      {"aten::roll", PassThrough},
      {"aten::pixel_shuffle", PassThrough},
      {"aten::pixel_unshuffle", PassThrough},
      {"aten::channel_shuffle", PassThrough},
      {"aten::max_pool1d", PassThrough},
      {"aten::max_pool2d", PassThrough},
      {"aten::max_pool3d", PassThrough},
      {"aten::adaptive_max_pool2d", PassThrough},
      {"aten::upsample_nearest1d", PassThrough},
      {"aten::upsample_nearest2d", PassThrough},
      {"aten::upsample_nearest3d", PassThrough},
      {"aten::constant_pad_nd", PassThrough},
      {"aten::pad", PassThrough},
      {"aten::_pad_enum", PassThrough},
      {"aten::dropout", PassThrough},
      {"aten::feature_dropout", PassThrough},
      {"aten::alpha_dropout", PassThrough},
      {"aten::feature_alpha_dropout", PassThrough},
      {"aten::fake_quantize_per_tensor_affine", FakeQuantize},
      {"aten::fake_quantize_per_channel_affine", FakeQuantize},
  };
  return table;
}

bool is_activation_value(const Graph& graph, const Operand& operand) {
  return operand.value() != kNoValue && graph.value(operand.value()).kind != ValueKind::Weight;
}

}  // namespace

std::string_view name_of(OpFamily family) noexcept {
  constexpr std::string_view names[] = {
      "convolution",     "transposed convolution", "linear",       "matrix multiply", "attention",  "recurrent",
      "embedding",       "normalization",          "addition",     "multiplication",  "activation", "softmax",
      "average pooling", "concatenation",          "pass-through", "fake-quantize",   "other"};
  return names[static_cast<std::size_t>(family)];
}

OpFamily family_of(const Op& op) {
  const auto found = families().find(op.base());
  return found == families().end() ? OpFamily::Other : found->second;
}

OpFamily family_of(const Graph& graph, NodeId id) {
  const auto& node = graph.node(id);
  const auto family = family_of(node.op);
  switch (family) {
    case OpFamily::Linear:
      return table_weight(graph, node.input(node.is("aten::linear") ? 1 : 2)) == kNoValue ? OpFamily::MatrixMultiply
                                                                                          : family;
    case OpFamily::MatrixMultiply:
      if (node.operands.size() != 2 || graph.value(node.input(1)).type.rank() < 2) return family;  // a vector: one dot
      return table_weight(graph, node.input(1)) != kNoValue ? OpFamily::Linear : family;
    case OpFamily::Convolution:
      if (node.is("aten::convolution") || node.is("aten::_convolution"))
        if (node.operand("transposed").boolean().value_or(false)) return OpFamily::TransposedConvolution;
      return family;
    case OpFamily::Addition:
    case OpFamily::Multiplication:
      return is_activation_value(graph, node.operand(0)) && is_activation_value(graph, node.operand(1))
                 ? family
                 : OpFamily::Other;
    default:
      return family;
  }
}

PARE_NAMESPACE_END
