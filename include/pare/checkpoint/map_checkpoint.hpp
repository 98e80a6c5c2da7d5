#pragma once

#include <string>

#include "pare/checkpoint/map_options.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// A checkpoint as a compiled model's file: maps what `save_checkpoint` wrote, to run it.
///
///     pare::CompiledModel net = pare::compile(pare::map_checkpoint("net.pare"));
///
/// Nothing of the weights is read before they are used, and packed weights stay the integers of the file, int4 two a
/// byte, with a multiplication by their scales (`pare::dequantize` for int4 and for zero points) in the graph: float
/// weights never exist as a whole, and `compile` takes the integers as they are. Weights of linear layers whose inputs
/// are numbers are then read from the file's pages at each call. The weights are those of `load_checkpoint`, bit
/// for bit; results may differ in the last bit, since LibTorch's kernels sum in another order where tensors lie at
/// other addresses. It is made to be run: it cannot be trained, and passes that change weights want the one of
/// `load_checkpoint`.
///
/// uint8 weights are unpacked to float. The file must not be cut while the Model, or what was compiled from it, lives;
/// `save_checkpoint` onto the same path is fine.
///
/// @throws Error as `load_checkpoint`
[[nodiscard]] Model map_checkpoint(const std::string& path, const MapOptions& options = {});

PARE_NAMESPACE_END
