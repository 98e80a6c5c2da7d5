#pragma once

#include <cstddef>
#include <vector>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// The multiple-choice knapsack problem: one item of each class, the least total loss, every total cost within its
/// limit (Kellerer, Pferschy, Pisinger, "Knapsack Problems", 2004, chapter 11).
///
/// Solved exactly: a state for each class that no other state dominates, cut off where the Lagrangian bound says that
/// it cannot beat the best solution known. Sixty classes of three items take milliseconds.
struct Knapsack {
  struct Item {
    double loss = 0;
    std::vector<double> costs;  ///< one for each limit, at least 0
  };
  struct Solution {
    bool feasible = false;            ///< false: no choice keeps the limits, or none was found (`proven`)
    bool proven = true;               ///< false: cut off at `max_states`; better ones may exist
    std::vector<std::size_t> chosen;  ///< an item of each class
    double loss = 0;
    std::vector<double> costs;  ///< totals
  };

  std::vector<std::vector<Item>> classes;
  std::vector<double> limits;
  std::size_t max_states = 1'000'000;  ///< kept after a class

  /// @throws Error `pare.numerics.106` for a class without items, costs that are not as many as the limits, or numbers
  ///         that are negative (costs) or not finite
  [[nodiscard]] Solution solve() const;
};

PARE_NAMESPACE_END
