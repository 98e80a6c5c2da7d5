#include <algorithm>
#include <cmath>
#include <limits>

#include "prune/sparse_layer.hpp"

PARE_NAMESPACE_BEGIN

namespace {

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
