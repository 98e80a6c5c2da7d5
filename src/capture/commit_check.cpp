#include "capture/commit_check.hpp"

#include <ATen/Functions.h>

#include <set>
#include <typeinfo>

#include "capture/module_state.hpp"
#include "capture/samples.hpp"
#include "graph/written_weights.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

using Tensors = std::vector<at::Tensor>;

std::string first_line(const char* text) {
  const std::string all(text);
  return all.substr(0, all.find('\n'));
}

bool agree(const at::Tensor& expected, const at::Tensor& actual, double tolerance) {
  if (expected.defined() != actual.defined()) return false;
  if (!expected.defined()) return true;
  if (expected.scalar_type() != actual.scalar_type() || expected.sizes() != actual.sizes()) return false;
  if (!expected.is_floating_point()) return at::equal(expected, actual);
  if (expected.numel() == 0) return true;
  const auto largest = expected.abs().nan_to_num(0.0, 0.0, 0.0).max().item<double>();
  return at::allclose(expected, actual, 0.0, tolerance * std::max(largest, 1e-30), /*equal_nan=*/true);
}

class Check {
 public:
  Check(const Model& model, torch::nn::Module& module, const Origin& origin, const CommitOptions& options)
      : model_(model),
        module_(module),
        origin_(origin),
        options_(options),
        forward_(options.forward ? options.forward : origin.forward),
        samples_(options.example.empty() ? origin.example : options.example, origin.options),
        state_(module) {
    remember_written();
  }

  void run() {
    constexpr std::int64_t kEvaluated = 3, kTrained = 4;
    compare(false, samples_.fresh(kEvaluated));
    if (model_.can_train()) compare(true, samples_.fresh(kTrained));
  }

 private:
  // Writes to what outlives the forward are barriers of the graph.
  void remember_written() {
    const auto& graph = origin_.graph;
    std::set<std::string> written;
    for (const auto id : graph.nodes())
      for (const auto weight : written_weights(graph, graph.node(id))) written.insert(graph.value(weight).name);
    for (const auto& entry : module_tensors(module_).entries)
      if (written.erase(entry.path) > 0) state_.remember(entry.tensor);
    for (const auto& path : written)  // never registered: the model's own is the live one
      if (const auto found = model_.weights().find(path); found != model_.weights().end())
        state_.remember(found->second.tensor);
  }

  void compare(bool training, const Tensors& inputs) {
    Model reference = model_;
    reference.detach_weights();  // a run in training mode writes running statistics
    reference.train(training);
    state_.set_training(training);
    state_.seed();
    const auto expected = reference.run(inputs);
    state_.seed();
    Tensors actual;
    try {
      actual = forward_(module_, inputs);
    } catch (const std::bad_cast&) {
      fail("pare.commit.102", "", "the module is not of the type that was captured");
    } catch (const std::exception& error) {
      state_.restore();
      const auto text = first_line(error.what());
      fail("pare.commit.111", locate(training, inputs), "the module's own forward stops here with the new shapes: {}",
           text);
    }
    state_.restore();
    bool same = expected.size() == actual.size();
    for (std::size_t i = 0; same && i < expected.size(); ++i) same = agree(expected[i], actual[i], options_.tolerance);
    if (!same)
      fail("pare.commit.111", locate(training, inputs),
           "the module's own forward computes something else than the model, first here; a size or an index is written "
           "into it");
  }

  // Runs the forward once more under the recorder and compares call by call. The calls of the evaluation mode are those
  // of the capture; in training mode only the module at which the forward stops is known.
  std::string locate(bool training, const Tensors& inputs) {
    try {
      return training ? std::string("its forward in training mode") : first_difference(inputs);
    } catch (const std::exception&) {  // whatever goes wrong here must not hide the disagreement
      return "its forward";
    }
  }

  std::string first_difference(const Tensors& inputs) {
    auto recorder = std::make_shared<Recorder>(module_tensors(module_), Computation::Values);
    recorder->keep_snapshots();
    recorder->watch_writes([&](const at::Tensor& tensor) { state_.remember(tensor); });
    for (const auto& input : inputs) recorder->add_input(input);
    state_.set_training(false);
    state_.seed();
    try {
      const Interception interception(recorder);
      (void)forward_(module_, inputs);
    } catch (const std::exception&) {  // the calls up to here are what there is to compare
    }
    state_.restore();
    Tensors replayed(model_.graph().value_count());
    Model reference = model_;
    reference.eval();
    state_.seed();
    (void)reference.run(inputs, [&](ValueId id, const at::Tensor& tensor) {
      replayed[index(id)] = tensor.defined() ? tensor.clone() : tensor;
    });
    state_.restore();
    const auto& calls = recorder->trace().calls;
    std::string last;
    for (std::size_t i = 0; i < origin_.nodes.size(); ++i) {
      const auto id = origin_.nodes[i];
      if (!model_.graph().contains(id)) continue;
      const auto& node = model_.graph().node(id);
      const auto name = fmt::format("{} ({})", node.name, node.op.name());
      if (i >= calls.size() || !(calls[i].op == node.op)) return name;
      if (node.op.base().find("empty") != std::string_view::npos) continue;  // whatever memory holds
      for (std::size_t o = 0; o < std::min(calls[i].outputs.size(), node.outputs.size()); ++o)
        if (!agree(replayed[index(node.outputs[o])], recorder->tensor(calls[i].outputs[o]), options_.tolerance))
          return name;
    }
    return "its output";
  }

  const Model& model_;
  torch::nn::Module& module_;
  const Origin& origin_;
  const CommitOptions& options_;
  const ModuleForward& forward_;
  Samples samples_;
  ModuleState state_;
};

}  // namespace

void check_commit(const Model& model, torch::nn::Module& module, const Origin& origin, const CommitOptions& options) {
  Check(model, module, origin, options).run();
}

PARE_NAMESPACE_END
