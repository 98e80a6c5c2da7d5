#pragma once

#include <ATen/core/Tensor.h>

#include "pare/core/qparams.hpp"

PARE_NAMESPACE_BEGIN

/// Scales at which what kernels compute in float32 has no rounding but the one to integers, so that every runtime, in
/// whatever order it adds and multiplies, gets the same integers.
///
/// Activations have powers of two, weights scales of `kExactScaleBits` significant bits. Products of integers and
/// scales, their sums, the quotient with the next scale: all have few bits, and float32 holds 24. That covers sums of
/// up to 2^20 quanta, its bias included. Zero points are even: then rounding a half to even before adding them, as ONNX
/// does, and after, as kernels may that have them in their bias, are the same.
inline constexpr int kExactScaleBits = 4;

/// As `choose_qparams`, with the power of two as scale that holds nine tenths of the range at least (what is beyond
/// saturates), and an even zero point.
/// @throws Error `pare.numerics.102` for a range that is not finite or upside down
[[nodiscard]] QParams choose_exact_qparams(Range range, const IntegerGrid& grid);

/// The next larger scales of `kExactScaleBits` significant bits: at most an eighth larger. @param scales positive, any
/// shape
[[nodiscard]] at::Tensor exact_scales(const at::Tensor& scales);

PARE_NAMESPACE_END
