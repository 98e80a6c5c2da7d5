#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "graph/frontier.hpp"
#include "pare/core/error.hpp"
#include "prune/check_outputs.hpp"
#include "prune/solve_layer.hpp"

PARE_NAMESPACE_BEGIN

namespace {

using BatchOutputs = std::vector<std::vector<at::Tensor>>;

// What the model's answers lose: the divergence of classes, or the squared error over the squared outputs.
double damage_between(const BatchOutputs& before, const BatchOutputs& after) {
  double error = 0, scale = 0;
  for (std::size_t b = 0; b < before.size(); ++b)
    for (std::size_t i = 0; i < before[b].size(); ++i) {
      const auto& reference = before[b][i];
      if (!reference.defined() || !reference.is_floating_point()) continue;
      const auto& actual = after[b][i];
      if (reference.dim() == 2 && reference.size(1) > 1) {
        const auto p = reference.to(at::kDouble).log_softmax(1), q = actual.to(at::kDouble).log_softmax(1);
        error += (p.exp() * (p - q)).sum().item<double>();
        scale += static_cast<double>(reference.size(0));
      } else {
        error += (reference - actual).to(at::kDouble).square().sum().item<double>();
        scale += reference.to(at::kDouble).square().sum().item<double>();
      }
    }
  const double damage = error / std::max(scale, 1e-30);
  return std::isfinite(damage) ? std::max(damage, 0.0) : std::numeric_limits<double>::max();
}

std::vector<Batch> first_samples(const std::vector<Batch>& batches, std::int64_t samples) {
  std::vector<Batch> first;
  std::int64_t taken = 0;
  for (const auto& batch : batches) {
    if (taken >= samples) break;
    first.push_back(batch);
    for (const auto& tensor : batch)
      if (tensor.defined() && tensor.dim() > 0) {
        taken += tensor.size(0);
        break;
      }
  }
  return first;
}

// The index of the cheapest step of a layer at a price for each weight kept; -1 keeps it dense.
struct Choice {
  std::size_t step;
  std::int64_t kept;
};

Choice cheapest(const SparseLayer& layer, double price) {
  constexpr double kNoise = 1e-6;  // differences below what a few hundred samples can show
  Choice best{0, layer.steps.front().kept};
  double least = std::numeric_limits<double>::max();
  for (std::size_t i = 0; i < layer.steps.size(); ++i) {
    const auto& step = layer.steps[i];
    const double cost = std::max(step.damage, kNoise) + price * static_cast<double>(step.kept);
    if (cost < least) {
      least = cost;
      best = {i, step.kept};
    }
  }
  return best;
}

}  // namespace

void measure_damage(const Model& model, Context& context, const SparsitySettings& settings,
                    const CalibrationBatches& calibration, std::vector<SparseLayer>& layers) {
  const auto batches = first_samples(calibration.batches, settings.probe_samples);
  Frontier dense(model, batches);
  const auto reference = Frontier(dense).finish(model);
  check_outputs("pare.prune.203", reference);
  auto task = context.progress().start("measure layers", layers.size());
  for (auto& layer : layers) {
    dense.advance(model, layer.region.anchor);
    const auto original = model.weight(layer.path).detach();
    const auto rows = layer.to_rows(original);
    const auto moment = layer.moments.empty() ? at::Tensor() : layer.moments.second_moment(false);
    for (auto& step : layer.steps) {
      Model pruned = model;
      const auto weight = settings.update_weights && moment.defined()
                              ? solve_layer(layer.form, rows, step.mask, moment).weight
                              : rows * step.mask;
      pruned.set_weight(layer.path, layer.from_rows(weight, original.sizes()));
      step.damage = damage_between(reference, Frontier(dense).finish(pruned));
    }
    // A sparser layer is no better, whatever the noise says.
    for (std::size_t i = 1; i < layer.steps.size(); ++i)
      layer.steps[i].damage = std::max(layer.steps[i].damage, layer.steps[i - 1].damage);
    task.advance();
  }
}

void allocate(std::vector<SparseLayer>& layers, std::int64_t budget) {
  // A price for a weight, found by bisection, and the best step of each layer at that price: the convex hull of the
  // multiple-choice knapsack.
  double low = 0, high = 1;
  for (int i = 0; i < 100; ++i) {
    const double price = i == 0 ? high : std::sqrt(std::max(low, 1e-16) * high);
    std::int64_t kept = 0;
    for (const auto& layer : layers) kept += cheapest(layer, price).kept;
    (kept <= budget ? high : low) = price;
  }
  std::int64_t left = budget;
  for (auto& layer : layers) {
    layer.chosen = cheapest(layer, high).step;
    left -= layer.steps[layer.chosen].kept;
  }
  // What the hull leaves unused goes where it helps most.
  for (;;) {
    SparseLayer* best = nullptr;
    double gain = -1;
    for (auto& layer : layers) {
      if (layer.chosen == 0) continue;
      const auto& now = layer.steps[layer.chosen];
      const auto& denser = layer.steps[layer.chosen - 1];
      const auto more = denser.kept - now.kept;
      if (more > left) continue;
      const double relative = (now.damage - denser.damage) / static_cast<double>(std::max<std::int64_t>(more, 1));
      if (relative > gain) {
        gain = relative;
        best = &layer;
      }
    }
    if (!best) return;
    left -= best->steps[best->chosen - 1].kept - best->steps[best->chosen].kept;
    --best->chosen;
  }
}

PARE_NAMESPACE_END
