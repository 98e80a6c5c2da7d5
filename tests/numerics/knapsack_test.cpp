#include "pare/numerics/knapsack.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

// Every combination: what the solver has to find.
double best_by_enumeration(const pare::Knapsack& problem) {
  double best = std::numeric_limits<double>::infinity();
  std::vector<std::size_t> chosen(problem.classes.size(), 0);
  for (;;) {
    double loss = 0;
    std::vector<double> costs(problem.limits.size(), 0.0);
    for (std::size_t c = 0; c < chosen.size(); ++c) {
      const auto& item = problem.classes[c][chosen[c]];
      loss += item.loss;
      for (std::size_t d = 0; d < costs.size(); ++d) costs[d] += item.costs[d];
    }
    bool fits = true;
    for (std::size_t d = 0; d < costs.size(); ++d) fits = fits && costs[d] <= problem.limits[d];
    if (fits) best = std::min(best, loss);
    std::size_t c = 0;
    while (c < chosen.size() && ++chosen[c] == problem.classes[c].size()) chosen[c++] = 0;
    if (c == chosen.size()) return best;
  }
}

pare::Knapsack random_problem(std::mt19937& random, std::size_t classes, std::size_t items, std::size_t limits) {
  std::uniform_int_distribution<int> cost(0, 50);
  std::uniform_real_distribution<double> loss(-1.0, 10.0);
  pare::Knapsack problem;
  for (std::size_t c = 0; c < classes; ++c) {
    problem.classes.emplace_back();
    for (std::size_t i = 0; i < items; ++i) {
      pare::Knapsack::Item item{loss(random), {}};
      for (std::size_t d = 0; d < limits; ++d) item.costs.push_back(cost(random));
      problem.classes.back().push_back(item);
    }
  }
  for (std::size_t d = 0; d < limits; ++d)
    problem.limits.push_back(static_cast<double>(classes) * (5 + static_cast<double>(cost(random)) * 0.5));
  return problem;
}

}  // namespace

TEST_CASE("the knapsack finds what enumeration finds", "[knapsack]") {
  std::mt19937 random(1);
  int feasible = 0;
  for (int round = 0; round < 120; ++round) {
    const auto problem = random_problem(random, 5, 4, 1 + static_cast<std::size_t>(round % 3));
    const auto expected = best_by_enumeration(problem);
    const auto solution = problem.solve();
    CHECK(solution.feasible == std::isfinite(expected));
    if (!solution.feasible) continue;
    ++feasible;
    CHECK(solution.proven);
    CHECK(std::abs(solution.loss - expected) < 1e-9);
    double loss = 0;
    for (std::size_t c = 0; c < problem.classes.size(); ++c) loss += problem.classes[c][solution.chosen[c]].loss;
    CHECK(std::abs(loss - solution.loss) < 1e-9);
    for (std::size_t d = 0; d < problem.limits.size(); ++d) CHECK(solution.costs[d] <= problem.limits[d]);
  }
  CHECK(feasible > 60);
}

TEST_CASE("the knapsack proves its answer at the size of a real network", "[knapsack]") {
  std::mt19937 random(2);
  const auto problem = random_problem(random, 80, 4, 1);
  const auto solution = problem.solve();
  REQUIRE(solution.feasible);
  CHECK(solution.proven);
}

TEST_CASE("a knapsack without limits takes the best items", "[knapsack]") {
  const pare::Knapsack problem{.classes = {{{3, {}}, {1, {}}}, {{2, {}}}}, .limits = {}};
  const auto solution = problem.solve();
  CHECK(solution.feasible);
  CHECK(solution.chosen == std::vector<std::size_t>{1, 0});
}

TEST_CASE("a search that was cut off proves nothing, least of all that there is no answer", "[knapsack]") {
  std::mt19937 random(3);
  int unknown = 0;
  for (int trial = 0; trial < 200; ++trial) {
    auto problem = random_problem(random, 12, 4, 3);
    const auto whole = problem.solve();
    problem.max_states = 1;
    const auto cut = problem.solve();
    if (cut.feasible == whole.feasible) continue;
    CHECK_FALSE(cut.feasible);
    CHECK_FALSE(cut.proven);
    ++unknown;
  }
  CHECK(unknown > 0);
}

TEST_CASE("knapsacks that make no sense are refused", "[knapsack]") {
  using Classes = std::vector<std::vector<pare::Knapsack::Item>>;
  const auto solve = [](Classes classes) {
    (void)pare::Knapsack{.classes = std::move(classes), .limits = {1}}.solve();
  };
  CHECK(raises("pare.numerics.106", [&] { solve({{}}); }));
  CHECK(raises("pare.numerics.106", [&] { solve({{{1, {1, 2}}}}); }));
  CHECK(raises("pare.numerics.106", [&] { solve({{{1, {-1}}}}); }));
  CHECK(raises("pare.numerics.106", [&] { solve({{{std::nan(""), {1}}}}); }));
  CHECK_FALSE(pare::Knapsack{.classes = {{{1, {2}}}}, .limits = {1}}.solve().feasible);
}
