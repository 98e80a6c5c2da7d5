#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

namespace checkpoint {

/// How the integers of a weight become its numbers again: `(integer - zero_point) * scale` along `axis`.
struct Packing {
  std::string kind;                 ///< `int8`, `uint8`, or `int4`: two a byte, the first one low
  std::vector<std::int64_t> sizes;  ///< of the weight
  std::vector<std::int64_t> rows;   ///< the shape that the scales are of: groups cut it differently
  std::int64_t axis = 0;            ///< of `rows`
  bool transposed = false;          ///< the rows are those of the weight with its first axes swapped
  std::int64_t swapped_with = 0;    ///< that axis
  std::string scale, zero_point;    ///< weight paths; empty: the numbers below
  double scale_number = 1.0;        ///< per tensor
  std::int64_t zero_number = 0;     ///< per tensor
  std::int64_t quant_min = 0, quant_max = 0;
};

/// The integers of a weight that only fake-quantizes read, and how to read them; nothing where it has to stay as it is.
std::optional<Packing> packing_of(const Model& model, ValueId weight);

/// The stored form. @pre `packing_of` gave this packing for this model
at::Tensor pack(const Model& model, ValueId weight, const Packing& packing);

/// The weight again. Undefined where the stored tensor does not fit the packing.
at::Tensor unpack(const at::Tensor& stored, const Packing& packing, const at::Tensor& scale,
                  const at::Tensor& zero_point);

}  // namespace checkpoint

PARE_NAMESPACE_END
