#pragma once

#include <cstdint>
#include <string_view>

#include "pare/graph/graph.hpp"

PARE_NAMESPACE_BEGIN

/// What kind of arithmetic an operator does: the word in which fusion rules and target descriptions speak.
enum class OpFamily : std::uint8_t {
  Convolution,            ///< conv1d/2d/3d, grouped and depthwise included
  TransposedConvolution,  ///< conv_transpose1d/2d/3d
  Linear,                 ///< linear, or addmm/matmul with a weight of the table
  MatrixMultiply,         ///< matmul/bmm of two activations, e.g. attention products
  Attention,              ///< scaled_dot_product_attention
  Recurrent,              ///< lstm, gru, rnn
  Embedding,
  Normalization,   ///< batch, layer, group, instance, RMS norm
  Addition,        ///< add, sub of two activations
  Multiplication,  ///< mul, div of two activations
  Activation,      ///< relu, gelu, …: elementwise functions of one activation
  Softmax,
  AveragePooling,  ///< avg_pool, adaptive_avg_pool, mean over spatial dims
  Concatenation,   ///< cat, stack: integers pass when all inputs share qparams
  PassThrough,     ///< moves elements or picks some of them: output values are input values (views, max_pool, …)
  FakeQuantize,
  Other,
};

/// The family's name as reports print it, e.g. `convolution`.
std::string_view name_of(OpFamily family) noexcept;
/// The family of an operator, by name alone: a matmul is `MatrixMultiply` whatever its operands.
OpFamily family_of(const Op& op);
/// The family of a node: `Linear` when a matmul's second operand comes from the weight table; an elementwise op with a
/// constant is `Other`.
OpFamily family_of(const Graph& graph, NodeId node);

PARE_NAMESPACE_END
