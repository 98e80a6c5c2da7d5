#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

namespace onnx {

/// `TensorProto.DataType`.
enum class ElementType : std::int32_t {
  Float = 1,
  UInt8 = 2,
  Int8 = 3,
  Int16 = 5,
  Int32 = 6,
  Int64 = 7,
  Bool = 9,
  Half = 10,
  Double = 11,
  BFloat16 = 16,
  UInt4 = 21,
  Int4 = 22,
};

/// The type for a dtype of LibTorch. @throws Error `pare.onnx.103`
ElementType element_type(c10::ScalarType dtype);

/// `TensorProto`: `data` is contiguous and on the CPU; 4-bit types have two elements a byte, the first one low.
struct Initializer {
  std::string name;
  ElementType type = ElementType::Float;
  std::vector<std::int64_t> dims;
  at::Tensor data;
};

using AttributeValue =
    std::variant<std::int64_t, float, std::string, std::vector<std::int64_t>, std::vector<float>, Initializer>;
using Attributes = std::vector<std::pair<std::string, AttributeValue>>;

/// `NodeProto`.
struct Call {
  std::string op;
  std::vector<std::string> inputs;
  std::vector<std::string> outputs;
  std::string name;
  Attributes attributes;
};

/// `ValueInfoProto`: a dim is a number or a name.
struct Port {
  std::string name;
  ElementType type = ElementType::Float;
  std::vector<std::variant<std::int64_t, std::string>> dims;
};

/// `ModelProto` with its graph.
struct Proto {
  int opset = 17;
  std::string graph_name;
  std::vector<Port> inputs, outputs;
  std::vector<Call> calls;
  std::vector<Initializer> initializers;
  std::map<std::string, std::string> metadata;
};

/// Where initializers outside the model lie: file name and, for each initializer, its offset; -1: inside.
struct ExternalData {
  std::string file;
  std::vector<std::int64_t> offsets;
};

/// A name or a line of metadata that is not UTF-8, which protobuf's strings are; other bytes than ASCII are shown as
/// '?'. Empty: there is none.
std::string other_than_utf8(const Proto& proto);

/// The bytes of the model in protobuf's wire format.
std::string serialize(const Proto& proto, const ExternalData& external = {});

}  // namespace onnx

PARE_NAMESPACE_END
