#pragma once

#include <string>

#include "pare/checkpoint/map_options.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// A checkpoint as a compiled model's file: maps what `save_checkpoint` wrote, to run it.
///
///     pare::CompiledModel net = pare::compile(pare::map_checkpoint("net.pare"));
///
/// Nothing of the weights is read before they are used, and packed weights stay the integers of the file, with a
/// multiplication by their scales in the graph: float weights never exist as a whole, and `compile` takes the integers
/// as they are. The Model computes what that of `load_checkpoint` does, bit for bit. It is made to be run: it cannot be
/// trained, and passes that change weights want the one of `load_checkpoint`.
///
/// int4 weights are spread to bytes, two at a time; weights whose integers have a zero point are unpacked to float. The
/// file must not be cut while the Model, or what was compiled from it, lives; `save_checkpoint` onto the same path is
/// fine.
///
/// @throws Error as `load_checkpoint`
[[nodiscard]] Model map_checkpoint(const std::string& path, const MapOptions& options = {});

PARE_NAMESPACE_END
