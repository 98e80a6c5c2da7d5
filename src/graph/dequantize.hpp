#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// Integers as a weight table stores them, as int8 of these sizes.
/// @param stored int8, or uint8 `[bytes]`: integers of 4 bits in two's complement, two a byte, the first one low
at::Tensor unpack_integers(const at::Tensor& stored, at::IntArrayRef sizes);

/// `(integers - zero_point) * scale` as float32 of these sizes: the operator `pare::dequantize`, with which a Model
/// whose weights are integers reads them.
/// @param integers as `unpack_integers` takes them
/// @param scale, zero_point to be broadcast over `sizes`; no zero point: zero
at::Tensor dequantize(const at::Tensor& integers, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                      at::IntArrayRef sizes);

PARE_NAMESPACE_END
