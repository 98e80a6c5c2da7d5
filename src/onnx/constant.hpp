#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "pare/graph/graph.hpp"

PARE_NAMESPACE_BEGIN

namespace onnx {

/// A quantized weight as the integers that it is.
struct IntegerForm {
  at::Tensor integers;     ///< int8 (or uint8), in the shape of the weight
  at::Tensor scale;        ///< float32: `[]` per tensor, `[channels]`, or `[.., groups, ..]` in blocks along `axis`
  at::Tensor zero_point;   ///< as `scale`, of the integers' dtype
  std::int64_t axis = 0;   ///< of channels, or of blocks
  std::int64_t block = 0;  ///< integers that share a scale along `axis`; 0: per tensor or channel
  bool four_bits = false;  ///< all integers fit into int4
};

/// A value known when the file is written.
struct Constant {
  at::Tensor tensor;  ///< its float values when it is quantized
  std::optional<IntegerForm> integers;
};

/// The integers behind a fake-quantize of a constant, or nothing where they are more than 8 bits.
/// @param scale, zero_point `[]` or `[channels]`
std::optional<IntegerForm> integer_form(const at::Tensor& weight, const at::Tensor& scale, const at::Tensor& zero_point,
                                        std::int64_t axis, std::int64_t quant_min, std::int64_t quant_max);

/// The integer form behind an op that moves elements, given the op's result on the integers; nothing where scales do
/// not follow.
std::optional<IntegerForm> moved(const Graph& graph, const Node& node, const IntegerForm& form,
                                 const at::Tensor& integers);

/// The float values of a quantized weight, by channel or block.
at::Tensor dequantized(const IntegerForm& form);

}  // namespace onnx

PARE_NAMESPACE_END
