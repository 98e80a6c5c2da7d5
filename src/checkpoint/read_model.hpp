#pragma once

#include <string>

#include "pare/checkpoint/safetensors.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

namespace checkpoint {

/// What becomes of packed weights: the numbers that they stand for, or integers with their scales in the graph.
enum class Unpacked : std::uint8_t { Numbers, Integers };

/// The Model that a file of a known version holds. Its checksum is the caller's to compare.
/// @throws Error `pare.checkpoint.133`
Model read_model(const SafeTensors& tensors, const std::string& file, Unpacked as);

}  // namespace checkpoint

PARE_NAMESPACE_END
