#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <variant>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// Any weights may be zero.
struct Unstructured {};

/// Of every `of` weights next to each other along the reduction axis, `kept` stay: 2:4.
struct NofM {
  int kept = 2;
  int of = 4;
};

/// Weights go in blocks of `rows` output channels by `columns` input channels: 1x4, 4x4, 16x1.
struct Blocks {
  int rows = 1;
  int columns = 4;
};

/// Where zeros may stand in a layer's weight `[rows, channels * taps]`: output channels by input channels, and for a
/// convolution by the taps of its kernel. Groups and blocks run along the input channels of one tap, as kernels read
/// them.
using SparsityPattern = std::variant<Unstructured, NofM, Blocks>;

/// `unstructured`, `2:4`, `blocks of 1x4`.
[[nodiscard]] std::string name_of(const SparsityPattern& pattern);

/// Why a layer cannot have the pattern, or an empty string.
[[nodiscard]] std::string misfit(const SparsityPattern& pattern, std::int64_t rows, std::int64_t channels);

/// The weights to keep: those with the largest saliency that the pattern allows.
/// @param saliency `[rows, channels * taps]`; blocks are judged by their sum
/// @param keep     how many weights stay; rounded to whole blocks, at least one; with `NofM` the pattern decides
/// @return bool, like `saliency`
/// @throws Error `pare.numerics.122` for shapes the pattern does not fit, or a saliency that is NaN
[[nodiscard]] at::Tensor choose_mask(const at::Tensor& saliency, std::int64_t keep, const SparsityPattern& pattern,
                                     std::int64_t taps = 1);

PARE_NAMESPACE_END
