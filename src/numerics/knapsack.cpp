#include "pare/numerics/knapsack.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>

#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

using Item = Knapsack::Item;
using Solution = Knapsack::Solution;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Sums of the same numbers in another order differ by this much.
constexpr double kSlack = 1e-12;

void check(const Knapsack& problem) {
  for (const auto& items : problem.classes) {
    if (items.empty()) fail("pare.numerics.106", "", "a class of the knapsack has no items");
    for (const auto& item : items) {
      if (item.costs.size() != problem.limits.size())
        fail("pare.numerics.106", "", "an item has {} costs, the knapsack {} limits", item.costs.size(),
             problem.limits.size());
      if (!std::isfinite(item.loss)) fail("pare.numerics.106", "", "the loss of an item is {}", item.loss);
      for (const auto cost : item.costs)
        if (!(cost >= 0) || !std::isfinite(cost)) fail("pare.numerics.106", "", "the cost of an item is {}", cost);
    }
  }
}

/// One way through the first classes.
struct State {
  std::vector<double> costs;
  double loss = 0;
  std::uint32_t parent = 0, item = 0;
};

class Solver {
 public:
  explicit Solver(const Knapsack& problem) : problem_(problem), dims_(problem.limits.size()) {
    // Classes with much at stake first: their bad items are cut off while there are few states.
    order_.resize(problem.classes.size());
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    const auto stake = [&](std::size_t c) {
      const auto [low, high] = std::ranges::minmax(problem_.classes[c], {}, &Item::loss);
      return high.loss - low.loss;
    };
    std::ranges::stable_sort(order_, [&](auto a, auto b) { return stake(a) > stake(b); });
  }

  Solution run() {
    if (!cheapest_fit()) return {};
    find_multipliers();
    prepare_bounds();
    std::vector<std::vector<State>> layers{{State{std::vector<double>(dims_, 0.0)}}};
    for (std::size_t k = 0; k < order_.size(); ++k) layers.push_back(extend(layers.back(), k));
    const auto& last = layers.back();
    const auto best = std::ranges::min_element(last, {}, &State::loss);
    if (best != last.end() && (!best_.feasible || best->loss < best_.loss)) {
      best_.chosen.assign(order_.size(), 0);
      auto at = static_cast<std::uint32_t>(best - last.begin());
      for (auto k = order_.size(); k > 0; --k) {
        best_.chosen[order_[k - 1]] = layers[k][at].item;
        at = layers[k][at].parent;
      }
    }
    best_.proven = proven_;
    if (best_.chosen.size() == order_.size()) score(best_);
    return best_;
  }

 private:
  [[nodiscard]] bool fits(const std::vector<double>& costs) const {
    for (std::size_t d = 0; d < dims_; ++d)
      if (costs[d] > problem_.limits[d] * (1 + kSlack)) return false;
    return true;
  }

  void score(Solution& solution) const {
    solution.loss = 0;
    solution.costs.assign(dims_, 0.0);
    for (std::size_t c = 0; c < problem_.classes.size(); ++c) {
      const auto& item = problem_.classes[c][solution.chosen[c]];
      solution.loss += item.loss;
      for (std::size_t d = 0; d < dims_; ++d) solution.costs[d] += item.costs[d];
    }
    solution.feasible = fits(solution.costs);
  }

  void offer(Solution solution) {
    score(solution);
    if (solution.feasible && (!best_.feasible || solution.loss < best_.loss)) best_ = std::move(solution);
  }

  // The items of least `loss + multipliers * costs`, and that sum less what the limits are worth: the dual function.
  double relax(const std::vector<double>& multipliers, Solution& solution) const {
    double value = 0;
    solution.chosen.assign(problem_.classes.size(), 0);
    for (std::size_t c = 0; c < problem_.classes.size(); ++c) {
      double least = kInfinity;
      for (std::size_t i = 0; i < problem_.classes[c].size(); ++i)
        if (const auto price = priced(problem_.classes[c][i], multipliers); price < least) {
          least = price;
          solution.chosen[c] = i;
        }
      value += least;
    }
    for (std::size_t d = 0; d < dims_; ++d) value -= multipliers[d] * problem_.limits[d];
    return value;
  }

  static double priced(const Item& item, const std::vector<double>& multipliers) {
    double price = item.loss;
    for (std::size_t d = 0; d < multipliers.size(); ++d) price += multipliers[d] * item.costs[d];
    return price;
  }

  // With one limit the cheapest items say whether there is a solution; with several, each limit alone does, and the
  // search itself the rest.
  bool cheapest_fit() const {
    for (std::size_t d = 0; d < dims_; ++d) {
      double least = 0;
      for (const auto& items : problem_.classes) {
        double cheapest = kInfinity;
        for (const auto& item : items) cheapest = std::min(cheapest, item.costs[d]);
        least += cheapest;
      }
      if (least > problem_.limits[d] * (1 + kSlack)) return false;
    }
    return true;
  }

  // Maximises the dual function limit by limit; solutions met on the way are the first to beat.
  void find_multipliers() {
    multipliers_.assign(dims_, 0.0);
    Solution solution;
    (void)relax(multipliers_, solution);
    offer(solution);
    constexpr int kRounds = 8, kSteps = 80;
    for (int round = 0; round < (dims_ > 1 ? kRounds : 1); ++round)
      for (std::size_t d = 0; d < dims_; ++d) {
        double low = 0, high = 1e-12;
        const auto excess = [&](double multiplier) {
          multipliers_[d] = multiplier;
          (void)relax(multipliers_, solution);
          offer(solution);
          double cost = 0;
          for (std::size_t c = 0; c < problem_.classes.size(); ++c)
            cost += problem_.classes[c][solution.chosen[c]].costs[d];
          return cost > problem_.limits[d];
        };
        if (!excess(0)) continue;
        while (high < 1e30 && excess(high)) high *= 16;
        for (int step = 0; step < kSteps; ++step) {
          const auto middle = 0.5 * (low + high);
          (excess(middle) ? low : high) = middle;
        }
        multipliers_[d] = high;
      }
  }

  // What the classes still to come cost at least, priced and in each dimension.
  void prepare_bounds() {
    const auto classes = order_.size();
    rest_priced_.assign(classes + 1, 0.0);
    rest_loss_.assign(classes + 1, 0.0);
    rest_cost_.assign(classes + 1, std::vector<double>(dims_, 0.0));
    for (auto k = classes; k > 0; --k) {
      const auto& items = problem_.classes[order_[k - 1]];
      double least = kInfinity, loss = kInfinity;
      std::vector<double> costs(dims_, kInfinity);
      for (const auto& item : items) {
        least = std::min(least, priced(item, multipliers_));
        loss = std::min(loss, item.loss);
        for (std::size_t d = 0; d < dims_; ++d) costs[d] = std::min(costs[d], item.costs[d]);
      }
      rest_priced_[k - 1] = rest_priced_[k] + least;
      rest_loss_[k - 1] = rest_loss_[k] + loss;
      for (std::size_t d = 0; d < dims_; ++d) rest_cost_[k - 1][d] = rest_cost_[k][d] + costs[d];
    }
  }

  [[nodiscard]] double bound(const State& state, std::size_t next) const {
    double priced_bound = state.loss + rest_priced_[next];
    for (std::size_t d = 0; d < dims_; ++d) priced_bound += multipliers_[d] * (state.costs[d] - problem_.limits[d]);
    return std::max(priced_bound, state.loss + rest_loss_[next]);
  }

  [[nodiscard]] bool hopeless(const State& state, std::size_t next) const {
    for (std::size_t d = 0; d < dims_; ++d)
      if (state.costs[d] + rest_cost_[next][d] > problem_.limits[d] * (1 + kSlack)) return true;
    return best_.feasible && bound(state, next) >= best_.loss - kSlack * std::abs(best_.loss);
  }

  std::vector<State> extend(const std::vector<State>& states, std::size_t k) {
    std::vector<State> result;
    const auto& items = problem_.classes[order_[k]];
    for (std::uint32_t s = 0; s < states.size(); ++s)
      for (std::uint32_t i = 0; i < items.size(); ++i) {
        State state{states[s].costs, states[s].loss + items[i].loss, s, i};
        for (std::size_t d = 0; d < dims_; ++d) state.costs[d] += items[i].costs[d];
        if (!hopeless(state, k + 1)) result.push_back(std::move(state));
      }
    drop_dominated(result);
    if (result.size() > problem_.max_states) {
      proven_ = false;
      const auto middle = result.begin() + static_cast<std::ptrdiff_t>(problem_.max_states);
      std::ranges::nth_element(result, middle,
                               [&](const State& a, const State& b) { return bound(a, k + 1) < bound(b, k + 1); });
      result.erase(middle, result.end());
    }
    return result;
  }

  // Exact for one limit. For several a state is compared with the few best before it: missing one costs time only.
  void drop_dominated(std::vector<State>& states) const {
    std::ranges::sort(states, [](const State& a, const State& b) {
      return a.costs != b.costs ? a.costs < b.costs : a.loss < b.loss;
    });
    constexpr std::size_t kCompared = 32;
    std::vector<State> kept;
    for (auto& state : states) {
      bool dominated = false;
      const auto first = dims_ <= 1 || kept.size() < kCompared ? std::size_t{0} : kept.size() - kCompared;
      for (auto other = kept.size(); other > first && !dominated; --other) {
        dominated = kept[other - 1].loss <= state.loss;
        for (std::size_t d = 0; d < dims_ && dominated; ++d) dominated = kept[other - 1].costs[d] <= state.costs[d];
        if (dims_ <= 1) break;  // the last one kept has the least loss
      }
      if (!dominated) kept.push_back(std::move(state));
    }
    states = std::move(kept);
  }

  const Knapsack& problem_;
  std::size_t dims_;
  std::vector<std::size_t> order_;
  std::vector<double> multipliers_;
  std::vector<double> rest_priced_, rest_loss_;
  std::vector<std::vector<double>> rest_cost_;
  Solution best_;
  bool proven_ = true;
};

}  // namespace

Knapsack::Solution Knapsack::solve() const {
  check(*this);
  auto solution = Solver(*this).run();
  if (solution.feasible) return solution;
  Solution none;
  none.proven = solution.proven;
  return none;
}

PARE_NAMESPACE_END
