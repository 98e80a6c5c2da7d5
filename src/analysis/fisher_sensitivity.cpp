#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <unordered_map>

#include "core/samples_of.hpp"
#include "core/seconds_since.hpp"
#include "pare/analysis/sensitivity.hpp"
#include "pare/core/error.hpp"
#include "pare/graph/interpreter.hpp"

PARE_NAMESPACE_BEGIN

namespace {

/// One change of one layer, and how much of it is in.
struct Probe {
  std::size_t layer, variant;
  const Replacements* values;
  bool whole;        // samples cannot be told apart in what it changes
  at::Tensor share;  // one for each sample, or one for all of them: 0, with a gradient
};

// The axis along which samples lie, as many entries for each: the one whose size is a multiple of the batch's. None for
// a table of positions, or where the sizes are fixed.
std::optional<std::int64_t> sample_axis(const Graph& graph, ValueId value) {
  if (graph.inputs().empty()) return std::nullopt;
  const auto& input = graph.value(graph.inputs().front()).type.sizes;
  if (input.empty() || input.front().terms().size() != 1) return std::nullopt;
  const auto batch = input.front().terms().front().dims.front();
  const auto& sizes = graph.value(value).type.sizes;
  const auto found = std::ranges::find_if(sizes, [&](const SymbolicInt& size) {
    return !size.is_constant() && size.offset() == 0 && size.divisor() == 1 &&
           std::ranges::all_of(size.terms(),
                               [&](const auto& term) { return std::ranges::count(term.dims, batch) > 0; });
  });
  return found == sizes.end() ? std::nullopt : std::optional(found - sizes.begin());
}

// `share` laid along an axis of a result: samples may have several entries each.
at::Tensor along_axis(const at::Tensor& share, const at::Tensor& result, std::int64_t axis) {
  std::vector<std::int64_t> sizes(static_cast<std::size_t>(result.dim()), 1);
  sizes[static_cast<std::size_t>(axis)] = result.size(axis);
  return share.repeat_interleave(result.size(axis) / share.size(0)).reshape(sizes);
}

/// Runs a model with every change mixed into its layer's result at share 0.
class ProbedRun {
 public:
  ProbedRun(const Model& model, const Replacements& around, std::unordered_map<std::size_t, std::vector<Probe*>> probes)
      : model_(model), around_(around), probes_(std::move(probes)) {}

  std::vector<at::Tensor> run(const Batch& batch) {
    const auto& graph = model_.graph();
    const auto dims = Interpreter::bind_dims(graph, batch);
    std::vector<at::Tensor> values(graph.value_count());
    for (std::size_t i = 0; i < batch.size(); ++i) values[index(graph.inputs()[i])] = batch[i];
    const auto find = [&](ValueId value) -> at::Tensor {
      if (const auto other = around_.find(index(value)); other != around_.end()) return other->second;
      const auto& held = values[index(value)];
      return held.defined() || graph.value(value).kind != ValueKind::Weight ? held : model_.weight(value).detach();
    };
    for (const auto id : graph.nodes()) {
      const auto& node = graph.node(id);
      if (node.condition == Condition::Training) continue;
      auto results = Interpreter::call(node, dims, false, find);
      if (const auto found = probes_.find(index(id)); found != probes_.end())
        for (auto* probe : found->second) results[0] = results[0] + mixed_in(*probe, node, dims, results[0], find);
      for (std::size_t i = 0; i < node.outputs.size(); ++i) values[index(node.outputs[i])] = std::move(results[i]);
    }
    std::vector<at::Tensor> outputs;
    for (const auto output : graph.outputs()) outputs.push_back(output == kNoValue ? at::Tensor() : find(output));
    return outputs;
  }

 private:
  at::Tensor mixed_in(const Probe& probe, const Node& node, const std::vector<std::int64_t>& dims,
                      const at::Tensor& result, const std::function<at::Tensor(ValueId)>& find) const {
    at::Tensor difference;
    {
      const at::NoGradGuard no_grad;
      const auto changed = Interpreter::call(node, dims, false, [&](ValueId value) {
        const auto other = probe.values->find(index(value));
        if (other != probe.values->end()) return other->second;
        // A switch that the change turns on: the layer reads the float value.
        const auto* producer = model_.graph().producer(value);
        const bool switched = producer && producer->is("aten::where.self") &&
                              probe.values->contains(index(producer->input(0))) &&
                              probe.values->at(index(producer->input(0))).item<bool>();
        return find(switched ? producer->input(1) : value).detach();
      });
      difference = changed[0] - result.detach();
    }
    const auto share = probe.share.to(difference.scalar_type());
    if (probe.whole) return share * difference;
    return along_axis(share, difference, *sample_axis(model_.graph(), node.output())) * difference;
  }

  const Model& model_;
  const Replacements& around_;
  std::unordered_map<std::size_t, std::vector<Probe*>> probes_;
};

// `sum_c s_c sqrt(p_c) log p_c` with random signs s, summed over samples: the square of its derivative is on average
// the Fisher information `sum_c p_c (d log p_c)^2`. Every class counts in every draw; one drawn from the predictions is
// nearly always the class that the model is sure of, and says nothing.
at::Tensor signed_likelihood(const std::vector<at::Tensor>& outputs, const at::Generator& generator) {
  at::Tensor sum;
  for (const auto& output : outputs) {
    if (!output.defined() || !output.is_floating_point() || output.dim() == 0) continue;
    if (output.dim() == 1)
      fail("pare.analysis.106", "", "an output of [{}] has no classes: only the exact sweep can measure it",
           output.size(0));
    const std::int64_t axis = output.dim() >= 4 ? 1 : output.dim() - 1;
    const auto classes = at::log_softmax(output.transpose(axis, -1).flatten(0, -2), -1);
    const auto likely = classes.detach();
    const auto signs = at::randint(0, 2, likely.sizes(), generator, likely.options()).mul_(2).sub_(1);
    const auto part = (classes * (0.5 * likely).exp() * signs).sum();
    sum = sum.defined() ? sum + part : part;
  }
  if (!sum.defined()) fail("pare.analysis.106", "", "the model has no floating output to measure sensitivity at");
  return sum;
}

// The divergence of outputs from answers, summed over samples.
at::Tensor divergence_sum(const std::vector<at::Tensor>& answers, const std::vector<at::Tensor>& outputs) {
  at::Tensor sum;
  for (std::size_t i = 0; i < std::min(answers.size(), outputs.size()); ++i) {
    const auto &x = answers[i], &y = outputs[i];
    if (!y.defined() || !y.is_floating_point() || y.dim() == 0) continue;
    if (!x.defined() || x.sizes() != y.sizes())
      fail("pare.analysis.105", "", "output {} has another shape than the answer to compare it with", i);
    if (y.dim() == 1 || y.numel() == 0) continue;  // `signed_likelihood` refuses what has no classes
    const std::int64_t axis = y.dim() >= 4 ? 1 : y.dim() - 1;
    const auto p = at::log_softmax(x.detach(), axis), q = at::log_softmax(y, axis);
    // As `divergence_from`: the mean over what one sample has of positions.
    const auto part = (p.exp() * (p - q)).sum() / static_cast<double>(y.numel() / y.size(axis) / y.size(0));
    sum = sum.defined() ? sum + part : part;
  }
  return sum;
}

// Derivatives along the shares; undefined where the sum does not depend on one.
std::vector<at::Tensor> derivatives(const at::Tensor& sum, const std::vector<at::Tensor>& shares, bool again) {
  if (!sum.defined() || !sum.requires_grad()) return std::vector<at::Tensor>(shares.size());
  return torch::autograd::grad({sum}, shares, {}, again, false, true);
}

}  // namespace

void Sensitivity::fisher(const Model& reference, const LayerExchange& exchange, const Changes& changes,
                         const SensitivityOptions& options) {
  if (exchange.layers().empty()) return;
  std::vector<Probe> probes;
  std::unordered_map<std::size_t, std::vector<Probe*>> by_node;
  for (std::size_t v = 0; v < changes.size(); ++v)
    for (std::size_t i = 0; i < changes[v].size(); ++i) probes.push_back({i, v, &changes[v][i], false, {}});
  for (auto& probe : probes)
    for (const auto reader : exchange.layers()[probe.layer].readers) {
      by_node[index(reader)].push_back(&probe);
      probe.whole = probe.whole || !sample_axis(reference.graph(), reference.graph().node(reader).output());
    }
  ProbedRun run(reference, options.around, std::move(by_node));
  auto generator = at::detail::createCPUGenerator(options.seed);
  double once = 0, samples = 0;
  std::vector<double> slopes(probes.size(), 0.0);
  const auto count = std::ssize(probes);
  auto products = at::zeros({count, count}, at::kDouble);  // of the derivatives along two changes
  auto whole = at::zeros({count}, at::kDouble);
  for (std::size_t i = 0; i < probes.size(); ++i)
    if (probes[i].whole) whole[static_cast<std::int64_t>(i)] = 1;
  const auto both_whole = whole.outer(whole);
  std::size_t next = 0;
  auto task = options.progress.start("Fisher sensitivity");
  const auto start = Clock::now();
  for (const auto& batch : options.batches) {
    if (options.cancelled && options.cancelled()) fail("pare.analysis.108", "", "the sweep was cancelled");
    const auto number = next++;
    const auto rows = samples_of(batch);
    if (rows == 0) continue;
    const auto plain = Clock::now();
    (void)reference.run(batch);
    once += seconds_since(plain);
    const at::AutoGradMode grad(true);
    samples += static_cast<double>(rows);
    std::vector<at::Tensor> shares;
    for (auto& probe : probes) {
      probe.share = at::zeros({probe.whole ? 1 : rows}).requires_grad_(true);
      shares.push_back(probe.share);
    }
    const auto outputs = run.run(batch);
    if (number < options.answers.size()) {
      const auto gradients = derivatives(divergence_sum(options.answers[number], outputs), shares, true);
      for (std::size_t i = 0; i < probes.size(); ++i)
        if (gradients[i].defined()) slopes[i] += gradients[i].to(at::kDouble).sum().item<double>();
    }
    for (int draw = 0; draw < options.draws; ++draw) {
      const auto gradients = derivatives(signed_likelihood(outputs, generator), shares, draw + 1 < options.draws);
      auto along = at::zeros({count, rows}, at::kDouble);
      for (std::size_t i = 0; i < probes.size(); ++i)
        if (gradients[i].defined()) along[static_cast<std::int64_t>(i)].copy_(gradients[i]);
      // The signs of different samples are independent: a derivative along all samples at once, times the sum of those
      // along each, is on average the sum of products. Times another such it counts once, not once a sample.
      products += along.mm(along.t()) * (1 - both_whole * (1 - 1.0 / static_cast<double>(rows)));
    }
    task.advance();
  }
  if (samples == 0) fail("pare.analysis.106", "", "sensitivity is measured on batches, and they hold no samples");
  products /= samples * options.draws;
  const auto held = products.accessor<double, 2>();
  interactions_.assign(products.data_ptr<double>(), products.data_ptr<double>() + products.numel());
  for (std::size_t i = 0; i < probes.size(); ++i) {
    auto& layer = layers_[probes[i].layer];
    layer.damage[probes[i].variant] =
        slopes[i] / samples + 0.5 * held[static_cast<std::int64_t>(i)][static_cast<std::int64_t>(i)];
    if (!std::isfinite(layer.damage[probes[i].variant]))
      fail("pare.analysis.107", layer.name, "the gradient is not finite with this layer from the variant {}",
           variants_[probes[i].variant]);
  }
  // A run for the time of one, the probed run, each variant's layers once more, and the draws' passes back.
  work_ = 2.0 + static_cast<double>(variants_.size()) + 2.0 * (options.draws + (options.answers.empty() ? 0 : 1));
  evaluations_ = seconds_since(start) / std::max(once, 1e-9);
}

PARE_NAMESPACE_END
