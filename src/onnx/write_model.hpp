#pragma once

#include <cstdint>
#include <string>

#include "onnx/proto.hpp"

PARE_NAMESPACE_BEGIN

namespace onnx {

/// Writes the file, whole or not at all; initializers of more bytes than `external_above` in total lie beside it. What
/// the model that it replaces had beside it is removed.
/// @throws Error `pare.onnx.104`
void write_model(const Proto& proto, const std::string& path, std::int64_t external_above);

}  // namespace onnx

PARE_NAMESPACE_END
