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

/// The fake-quantizes through which a weight is read, one for each use; empty where something else reads it.
std::vector<NodeId> quantizers_of(const Graph& graph, ValueId weight);

/// A vector along the packing's axis, shaped to be multiplied with its rows.
at::Tensor along_rows(const at::Tensor& vector, const Packing& packing);

/// The stored form. @pre `packing_of` gave this packing for this model
at::Tensor pack(const Model& model, ValueId weight, const Packing& packing);

/// Whether a stored tensor, a scale and a zero point are what the packing says.
bool fits(const at::Tensor& stored, const Packing& packing, const at::Tensor& scale, const at::Tensor& zero_point);

/// The weight again. @pre it fits
at::Tensor unpack(const at::Tensor& stored, const Packing& packing, const at::Tensor& scale,
                  const at::Tensor& zero_point);

}  // namespace checkpoint

PARE_NAMESPACE_END
