#pragma once

#include <string>

#include "pare/graph/model.hpp"
#include "pare/onnx/save_options.hpp"

PARE_NAMESPACE_BEGIN

namespace onnx {

/// Writes a Model, in evaluation mode, as an ONNX file.
///
///     pare::onnx::save(model, "net.onnx");        // float
///     pare::onnx::save(int8.model, "int8.onnx");  // QDQ: what Quantizer left
///
/// A quantized Model becomes QDQ: weights are stored as the integers that they are (int8, or int4 where their grid is)
/// with a DequantizeLinear per channel, tensor or group; activations pass QuantizeLinear and DequantizeLinear; a bias
/// behind integer operands is int32 with scale s_x · s_w. Symbolic dims keep their names. Nodes whose operands are all
/// constants are computed here.
///
/// The file appears whole or not at all. Values that the Model only compares with what it saw at capture (guards) are
/// taken as they were.
///
/// @throws Error `pare.onnx.101` an operator, or a use of one, that has no ONNX form: names operator and module,
///         `.102` an option out of range, `.103` a dtype that ONNX has no name for, `.104` the file cannot be written;
///         in all cases before anything is written
void save(const Model& model, const std::string& path, const SaveOptions& options = {});

}  // namespace onnx

PARE_NAMESPACE_END
