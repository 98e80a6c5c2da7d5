#include "pare/quantize/compare.hpp"

#include <ATen/ATen.h>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <unordered_map>

#include "pare/graph/op_family.hpp"

PARE_NAMESPACE_BEGIN

namespace {

/// Sums that SQNR and cosine are made of.
struct Sums {
  double aa = 0.0, bb = 0.0, ab = 0.0, noise = 0.0;
  void add(const at::Tensor& a, const at::Tensor& b) {
    const auto x = a.detach().to(at::kDouble), y = b.detach().to(at::kDouble);
    aa += x.square().sum().item<double>();
    bb += y.square().sum().item<double>();
    ab += (x * y).sum().item<double>();
    noise += (x - y).square().sum().item<double>();
  }
  [[nodiscard]] LayerDifference difference(std::string name) const {
    const double sqnr = noise == 0.0 ? std::numeric_limits<double>::infinity() : 10.0 * std::log10(aa / noise);
    const double lengths = std::sqrt(aa) * std::sqrt(bb);
    return {std::move(name), sqnr, lengths == 0.0 ? (aa == bb ? 1.0 : 0.0) : ab / lengths};
  }
};

// The layer whose result a value stands for: a fake-quantize stands for the layer in front of it, and takes its place.
std::unordered_map<std::size_t, std::string> layer_names(const Graph& graph) {
  std::unordered_map<std::size_t, std::string> names;
  for (const auto id : graph.nodes()) {
    const auto& node = graph.node(id);
    if (node.outputs.empty()) continue;
    if (family_of(node.op) == OpFamily::FakeQuantize) {
      const auto* producer = graph.producer(node.input(0));
      if (producer) names[index(node.output())] = producer->name;
    } else {
      names.emplace(index(node.output()), node.name);
    }
  }
  return names;
}

// A batch norm that the other model has not is part of the layer in front of it there: its result has that layer's
// name.
void merge_norms(const Graph& graph, std::unordered_map<std::size_t, std::string>& names,
                 const std::unordered_map<std::size_t, std::string>& others) {
  const auto known = [&](const std::string& name) {
    return std::ranges::any_of(others, [&](const auto& entry) { return entry.second == name; });
  };
  for (const auto id : graph.nodes(op("aten::batch_norm"))) {
    const auto& node = graph.node(id);
    const auto layer = names.find(index(node.input(0)));
    if (known(node.name) || layer == names.end() || !known(layer->second)) continue;
    names[index(node.output())] = layer->second;
    names.erase(index(node.input(0)));
  }
}

std::map<std::string, at::Tensor> results(const std::unordered_map<std::size_t, std::string>& names, const Runner& run,
                                          const Batch& batch, std::vector<at::Tensor>& outputs) {
  std::map<std::string, at::Tensor> tensors;
  outputs = run(batch, [&](ValueId value, const at::Tensor& tensor) {
    const auto name = names.find(index(value));
    if (name != names.end() && tensor.defined() && tensor.is_floating_point()) tensors[name->second] = tensor;
  });
  return tensors;
}

}  // namespace

std::vector<LayerDifference> compare(const Model& reference, const Model& values, const Runner& run,
                                     const Batches& batches) {
  const at::NoGradGuard no_grad;
  auto names = layer_names(reference.graph()), other_names = layer_names(values.graph());
  merge_norms(reference.graph(), names, other_names);
  merge_norms(values.graph(), other_names, names);
  const Runner run_reference = [&](const std::vector<at::Tensor>& inputs, const Tap& tap) {
    return reference.run(inputs, tap);
  };
  std::map<std::string, Sums> sums;
  std::vector<Sums> outputs;
  for (const auto& batch : batches) {
    std::vector<at::Tensor> expected, actual;
    const auto a = results(names, run_reference, batch, expected);
    const auto b = results(other_names, run, batch, actual);
    for (const auto& [name, tensor] : a)
      if (const auto other = b.find(name); other != b.end() && other->second.sizes() == tensor.sizes())
        sums[name].add(tensor, other->second);
    outputs.resize(std::max(outputs.size(), expected.size()));
    for (std::size_t i = 0; i < std::min(expected.size(), actual.size()); ++i)
      if (expected[i].defined() && expected[i].is_floating_point() && expected[i].sizes() == actual[i].sizes())
        outputs[i].add(expected[i], actual[i]);
  }
  std::vector<LayerDifference> result;
  for (const auto id : reference.graph().nodes())
    if (const auto found = sums.find(reference.graph().node(id).name); found != sums.end())
      result.push_back(found->second.difference(found->first));
  for (std::size_t i = 0; i < outputs.size(); ++i) result.push_back(outputs[i].difference(fmt::format("output {}", i)));
  return result;
}

std::vector<LayerDifference> compare(const Model& reference, const Model& other, const Batches& batches) {
  return compare(
      reference, other, [&](const std::vector<at::Tensor>& inputs, const Tap& tap) { return other.run(inputs, tap); },
      batches);
}

PARE_NAMESPACE_END
