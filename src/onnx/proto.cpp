#include "onnx/proto.hpp"

#include <algorithm>
#include <protozero/pbf_writer.hpp>
#include <string_view>

#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace onnx {

namespace {

using protozero::pbf_writer;

// Field numbers of onnx.proto.
namespace field {
enum Model { kIrVersion = 1, kProducerName = 2, kProducerVersion = 3, kGraph = 7, kOpset = 8, kMetadata = 14 };
enum Opset { kVersion = 2 };
enum Graph { kNode = 1, kName = 2, kInitializer = 5, kInput = 11, kOutput = 12 };
enum Node { kNodeInput = 1, kNodeOutput = 2, kNodeName = 3, kOpType = 4, kAttribute = 5 };
enum Attribute { kAttributeName = 1, kF = 2, kI = 3, kS = 4, kT = 5, kFloats = 7, kInts = 8, kType = 20 };
enum Tensor { kDims = 1, kDataType = 2, kTensorName = 8, kRawData = 9, kExternal = 13, kLocation = 14 };
enum Entry { kKey = 1, kValue = 2 };
enum Info { kInfoName = 1, kInfoType = 2, kTensorType = 1, kElement = 1, kShape = 2, kDim = 1 };
enum Dim { kDimValue = 1, kDimParam = 2 };
}  // namespace field

// Which IR came with an operator set.
int ir_version(int opset) { return opset >= 21 ? 10 : opset >= 19 ? 9 : 8; }

void write_entry(pbf_writer& parent, std::uint32_t tag, const std::string& key, const std::string& value) {
  pbf_writer entry(parent, tag);
  entry.add_string(field::kKey, key);
  entry.add_string(field::kValue, value);
}

void write_tensor(pbf_writer& parent, std::uint32_t tag, const Initializer& tensor, const std::string& file,
                  std::int64_t offset) {
  pbf_writer out(parent, tag);
  out.add_packed_int64(field::kDims, tensor.dims.begin(), tensor.dims.end());
  out.add_int32(field::kDataType, static_cast<std::int32_t>(tensor.type));
  out.add_string(field::kTensorName, tensor.name);
  if (offset < 0) {
    out.add_bytes(field::kRawData, static_cast<const char*>(tensor.data.const_data_ptr()), tensor.data.nbytes());
    return;
  }
  write_entry(out, field::kExternal, "location", file);
  write_entry(out, field::kExternal, "offset", std::to_string(offset));
  write_entry(out, field::kExternal, "length", std::to_string(tensor.data.nbytes()));
  out.add_enum(field::kLocation, 1);
}

void write_attribute(pbf_writer& node, const std::string& name, const AttributeValue& value) {
  enum Kind { kFloat = 1, kInt = 2, kString = 3, kTensor = 4, kFloatList = 6, kIntList = 7 };
  struct Visitor {
    pbf_writer& out;
    int operator()(std::int64_t number) const { return out.add_int64(field::kI, number), kInt; }
    int operator()(float number) const { return out.add_float(field::kF, number), kFloat; }
    int operator()(const std::string& text) const { return out.add_bytes(field::kS, text), kString; }
    int operator()(const std::vector<std::int64_t>& numbers) const {
      for (const auto number : numbers) out.add_int64(field::kInts, number);
      return kIntList;
    }
    int operator()(const std::vector<float>& numbers) const {
      for (const auto number : numbers) out.add_float(field::kFloats, number);
      return kFloatList;
    }
    int operator()(const Initializer& tensor) const { return write_tensor(out, field::kT, tensor, {}, -1), kTensor; }
  };
  pbf_writer out(node, field::kAttribute);
  out.add_string(field::kAttributeName, name);
  out.add_enum(field::kType, std::visit(Visitor{out}, value));
}

void write_call(pbf_writer& graph, const Call& call) {
  pbf_writer out(graph, field::kNode);
  for (const auto& name : call.inputs) out.add_string(field::kNodeInput, name);
  for (const auto& name : call.outputs) out.add_string(field::kNodeOutput, name);
  out.add_string(field::kNodeName, call.name);
  out.add_string(field::kOpType, call.op);
  for (const auto& [name, value] : call.attributes) write_attribute(out, name, value);
}

void write_port(pbf_writer& graph, std::uint32_t tag, const Port& port) {
  pbf_writer out(graph, tag);
  out.add_string(field::kInfoName, port.name);
  pbf_writer type(out, field::kInfoType);
  pbf_writer tensor(type, field::kTensorType);
  tensor.add_int32(field::kElement, static_cast<std::int32_t>(port.type));
  if (port.dims.empty())
    return tensor.add_message(field::kShape, std::string());  // one number: protozero drops empty messages
  pbf_writer shape(tensor, field::kShape);
  for (const auto& size : port.dims) {
    pbf_writer dim(shape, field::kDim);
    if (const auto* number = std::get_if<std::int64_t>(&size))
      dim.add_int64(field::kDimValue, *number);
    else
      dim.add_string(field::kDimParam, std::get<std::string>(size));
  }
}

// Whether each character is its shortest sequence of bytes and no half of a pair of UTF-16.
bool is_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i++]);
    const int more = lead < 0x80 ? 0 : lead >> 5 == 0x6 ? 1 : lead >> 4 == 0xE ? 2 : lead >> 3 == 0x1E ? 3 : -1;
    if (more < 0) return false;
    std::uint32_t code = more == 0 ? lead : lead & (0x3FU >> more);
    for (int k = 0; k < more; ++k, ++i) {
      if (i == text.size() || (static_cast<unsigned char>(text[i]) & 0xC0) != 0x80) return false;
      code = code << 6 | (static_cast<unsigned char>(text[i]) & 0x3FU);
    }
    constexpr std::uint32_t kFirst[] = {0, 0x80, 0x800, 0x10000};
    if (code < kFirst[more] || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return false;
  }
  return true;
}

}  // namespace

ElementType element_type(c10::ScalarType dtype) {
  switch (dtype) {
    case c10::ScalarType::Float:
      return ElementType::Float;
    case c10::ScalarType::Byte:
      return ElementType::UInt8;
    case c10::ScalarType::Char:
      return ElementType::Int8;
    case c10::ScalarType::Short:
      return ElementType::Int16;
    case c10::ScalarType::Int:
      return ElementType::Int32;
    case c10::ScalarType::Long:
      return ElementType::Int64;
    case c10::ScalarType::Bool:
      return ElementType::Bool;
    case c10::ScalarType::Half:
      return ElementType::Half;
    case c10::ScalarType::Double:
      return ElementType::Double;
    case c10::ScalarType::BFloat16:
      return ElementType::BFloat16;
    default:
      fail("pare.onnx.103", "", "ONNX has no tensors of {}", c10::toString(dtype));
  }
}

std::string other_than_utf8(const Proto& proto) {
  std::string found;
  const auto look = [&](const std::string& text) {
    if (!found.empty() || is_utf8(text)) return;
    found = text;
    std::ranges::replace_if(
        found, [](char byte) { return byte < 0x20 || byte >= 0x7F; }, '?');
  };
  for (const auto* ports : {&proto.inputs, &proto.outputs})
    for (const auto& port : *ports) {
      look(port.name);
      for (const auto& dim : port.dims)
        if (const auto* name = std::get_if<std::string>(&dim)) look(*name);
    }
  for (const auto& call : proto.calls) {
    look(call.name);
    std::ranges::for_each(call.outputs, look);
  }
  for (const auto& tensor : proto.initializers) look(tensor.name);
  for (const auto& [key, value] : proto.metadata) look(key), look(value);
  return found;
}

std::string serialize(const Proto& proto, const ExternalData& external) {
  std::string bytes;
  pbf_writer model(bytes);
  model.add_int64(field::kIrVersion, ir_version(proto.opset));
  model.add_string(field::kProducerName, "pare");
  {
    pbf_writer opset(model, field::kOpset);
    opset.add_int64(field::kVersion, proto.opset);
  }
  for (const auto& [key, value] : proto.metadata) write_entry(model, field::kMetadata, key, value);
  pbf_writer graph(model, field::kGraph);
  graph.add_string(field::kName, proto.graph_name);
  for (const auto& port : proto.inputs) write_port(graph, field::kInput, port);
  for (const auto& port : proto.outputs) write_port(graph, field::kOutput, port);
  for (const auto& call : proto.calls) write_call(graph, call);
  for (std::size_t i = 0; i < proto.initializers.size(); ++i)
    write_tensor(graph, field::kInitializer, proto.initializers[i], external.file,
                 external.offsets.empty() ? -1 : external.offsets[i]);
  graph.commit();
  return bytes;
}

}  // namespace onnx

PARE_NAMESPACE_END
