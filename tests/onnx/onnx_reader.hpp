#pragma once

#include <cstdint>
#include <fstream>
#include <iterator>
#include <map>
#include <protozero/pbf_reader.hpp>
#include <string>
#include <vector>

/// What tests want to know of an ONNX file, read by field numbers of onnx.proto.
struct OnnxFile {
  struct Tensor {
    std::vector<std::int64_t> dims;
    int type = 0;
    std::size_t bytes = 0;  ///< inside the file
    std::map<std::string, std::string> external;
  };
  struct Node {
    std::string op;
    std::vector<std::string> inputs, outputs;
  };
  int opset = 0;
  std::vector<Node> nodes;
  std::map<std::string, Tensor> initializers;
  std::map<std::string, std::vector<std::string>> inputs;  ///< dims as text
  std::vector<std::string> outputs;
  std::map<std::string, std::string> metadata;

  [[nodiscard]] std::size_t count(const std::string& op) const {
    std::size_t result = 0;
    for (const auto& node : nodes) result += node.op == op ? 1 : 0;
    return result;
  }
};

namespace detail {

inline std::pair<std::string, std::string> read_entry(protozero::pbf_reader entry) {
  std::pair<std::string, std::string> result;
  while (entry.next()) {
    if (entry.tag() == 1)
      result.first = entry.get_string();
    else
      result.second = entry.get_string();
  }
  return result;
}

inline void read_initializer(protozero::pbf_reader reader, OnnxFile& file) {
  OnnxFile::Tensor tensor;
  std::string name;
  while (reader.next()) {
    if (reader.tag() == 1)
      for (const auto dim : reader.get_packed_int64()) tensor.dims.push_back(dim);
    else if (reader.tag() == 2)
      tensor.type = reader.get_int32();
    else if (reader.tag() == 8)
      name = reader.get_string();
    else if (reader.tag() == 9)
      tensor.bytes = reader.get_view().size();
    else if (reader.tag() == 13)
      tensor.external.insert(read_entry(reader.get_message()));
    else
      reader.skip();
  }
  file.initializers[name] = tensor;
}

inline std::string read_dim(protozero::pbf_reader dim) {
  std::string text;
  while (dim.next()) text = dim.tag() == 1 ? std::to_string(dim.get_int64()) : dim.get_string();
  return text;
}

inline std::pair<std::string, std::vector<std::string>> read_port(protozero::pbf_reader port) {
  std::pair<std::string, std::vector<std::string>> result;
  while (port.next()) {
    if (port.tag() == 1) {
      result.first = port.get_string();
      continue;
    }
    auto type = port.get_message();
    type.next(1);
    auto tensor = type.get_message();
    while (tensor.next()) {
      if (tensor.tag() != 2) {
        tensor.skip();
        continue;
      }
      auto shape = tensor.get_message();
      while (shape.next(1)) result.second.push_back(read_dim(shape.get_message()));
    }
  }
  return result;
}

inline void read_graph(protozero::pbf_reader graph, OnnxFile& file) {
  while (graph.next()) {
    if (graph.tag() == 1) {
      OnnxFile::Node node;
      auto reader = graph.get_message();
      while (reader.next()) {
        if (reader.tag() == 1)
          node.inputs.push_back(reader.get_string());
        else if (reader.tag() == 2)
          node.outputs.push_back(reader.get_string());
        else if (reader.tag() == 4)
          node.op = reader.get_string();
        else
          reader.skip();
      }
      file.nodes.push_back(node);
    } else if (graph.tag() == 5) {
      read_initializer(graph.get_message(), file);
    } else if (graph.tag() == 11) {
      file.inputs.insert(read_port(graph.get_message()));
    } else if (graph.tag() == 12) {
      file.outputs.push_back(read_port(graph.get_message()).first);
    } else {
      graph.skip();
    }
  }
}

}  // namespace detail

inline OnnxFile read_onnx(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(stream), {}};
  OnnxFile file;
  protozero::pbf_reader model(bytes);
  while (model.next()) {
    if (model.tag() == 7) {
      detail::read_graph(model.get_message(), file);
    } else if (model.tag() == 8) {
      auto opset = model.get_message();
      while (opset.next()) {
        if (opset.tag() == 2)
          file.opset = static_cast<int>(opset.get_int64());
        else
          opset.skip();
      }
    } else if (model.tag() == 14) {
      file.metadata.insert(detail::read_entry(model.get_message()));
    } else {
      model.skip();
    }
  }
  return file;
}
