#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

namespace onnx {

/// How a Model becomes an ONNX file.
struct SaveOptions {
  /// Oldest operator set to write, 17 to 21. int4 and group-wise weights need 21 and raise it by themselves.
  int opset = 17;
  /// Names of the inputs and outputs, in the Model's order; empty: the Model's own for inputs, `output`, `output_1`, …
  std::vector<std::string> input_names = {};
  std::vector<std::string> output_names = {};
  /// Initializers of more bytes than this in total go into a file of their own beside the model: protobuf ends at 2
  /// GiB.
  std::int64_t external_above = (std::int64_t{2} << 30) - (std::int64_t{64} << 20);
  /// Further entries of the file's metadata, e.g. the plan that the Model was made by.
  std::map<std::string, std::string> metadata = {};
};

}  // namespace onnx

PARE_NAMESPACE_END
