#include "pare/graph/model.hpp"

#include <ATen/Functions.h>

#include <atomic>
#include <mutex>

#include "pare/core/error.hpp"
#include "pare/graph/interpreter.hpp"

PARE_NAMESPACE_BEGIN

Model::Model() = default;
Model::Model(const Model& other) = default;
Model::Model(Model&& other) noexcept = default;
Model& Model::operator=(const Model& other) = default;
Model& Model::operator=(Model&& other) noexcept = default;
Model::~Model() = default;
Model::Model(Graph graph, Weights weights)
    : graph_(std::make_shared<Graph>(std::move(graph))), weights_(std::move(weights)) {}

const Graph& Model::graph() const {
  static const Graph empty;
  return graph_ ? *graph_ : empty;
}

namespace {

template <class Table>
auto find_weight(Table& weights, std::string_view path) {
  auto found = weights.find(path);
  if (found != weights.end()) return found;
  for (auto it = weights.begin(); it != weights.end(); ++it)
    for (const auto& alias : it->second.aliases)
      if (alias == path) return it;
  fail("pare.graph.104", path, "the weight table has no such tensor");
}

}  // namespace

const at::Tensor& Model::weight(std::string_view path) const { return find_weight(weights_, path)->second.tensor; }

const at::Tensor& Model::weight(ValueId value) const { return weight(graph().value(value).name); }

void Model::set_weight(std::string_view path, at::Tensor tensor) {
  auto& entry = find_weight(weights_, path)->second;
  if (entry.is_parameter && entry.tensor.requires_grad() && !tensor.requires_grad() && tensor.is_leaf())
    tensor.requires_grad_(true);
  entry.tensor = std::move(tensor);
}

std::vector<at::Tensor> Model::run(const std::vector<at::Tensor>& inputs, const Tap& tap) const {
  auto interpreter = interpreter_.interpreter.load();
  if (!interpreter) {  // threads that come together prepare one each; any serves
    interpreter = std::make_shared<const Interpreter>(graph());
    interpreter_.interpreter = interpreter;
  }
  return interpreter->run(graph(), weights_, training_, inputs, tap);
}

at::Tensor Model::only(std::vector<at::Tensor> outputs) {
  if (outputs.size() != 1)
    fail("pare.run.107", "", "the model has {} outputs: call run() for all of them", outputs.size());
  return std::move(outputs.front());
}

std::vector<std::pair<std::string, at::Tensor>> Model::named_parameters() const {
  std::vector<std::pair<std::string, at::Tensor>> parameters;
  for (const auto& [path, weight] : weights_)
    if (weight.is_parameter) parameters.emplace_back(path, weight.tensor);
  return parameters;
}

std::vector<at::Tensor> Model::parameters() const {
  std::vector<at::Tensor> parameters;
  for (auto& [path, tensor] : named_parameters()) parameters.push_back(std::move(tensor));
  return parameters;
}

void Model::detach_weights() {
  for (auto& [path, weight] : weights_) {
    const bool trained = weight.tensor.requires_grad();
    weight.tensor = weight.tensor.detach().clone();
    if (trained) weight.tensor.requires_grad_(true);
  }
}

void Model::train(bool on) {
  if (on && !can_train_)
    fail("pare.graph.105", "", "this model was captured in evaluation mode only{}{}", notes_.empty() ? "" : ": ",
         notes_.empty() ? "" : notes_.back());
  training_ = on;
}

PARE_NAMESPACE_END
