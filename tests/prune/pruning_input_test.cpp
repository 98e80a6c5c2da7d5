// Batches, criteria and losses of the user that give `Pruner` no numbers to work with.
#include <torch/torch.h>

#include <cmath>
#include <limits>

#include "pare/capture/capture.hpp"
#include "pare/pass/apply.hpp"
#include "pare/prune/activation.hpp"
#include "pare/prune/l1.hpp"
#include "pare/prune/l2.hpp"
#include "pare/prune/pruner.hpp"
#include "pare/prune/taylor.hpp"
#include "tests/support/raises.hpp"

using namespace pare::literals;

namespace {

namespace nn = torch::nn;

struct Fixture {
  pare::Model model;
  torch::Tensor x;
  Fixture() {
    torch::manual_seed(0);
    nn::Sequential net(nn::Linear(8, 16), nn::BatchNorm1d(16), nn::ReLU(), nn::Linear(16, 16), nn::BatchNorm1d(16),
                       nn::ReLU(), nn::Linear(16, 4));
    net->eval();
    x = torch::randn({16, 8});
    model = pare::capture(net, x);
  }
  template <class Importance = pare::LeastSquares>
  bool refuses(std::string_view id, const pare::Pruner<Importance>& pruner, const torch::Tensor& batch) const {
    return raises(id, [&] { (void)pare::apply(pruner, model, {.calibration = pare::Batches{batch, x}}); });
  }
};

struct Normalized {
  std::function<at::Tensor(const at::Tensor&)> of;
  at::Tensor operator()(const pare::SliceView& view) const { return view.weight.abs().sum(1); }
  at::Tensor normalize(const at::Tensor& scores) const { return of(scores); }
};

}  // namespace

TEST_CASE("calibration batches without numbers are refused, whatever reads them", "[pruner]") {
  const Fixture fixture;
  auto nan = fixture.x.clone(), infinite = fixture.x.clone();
  nan[0][0] = std::nan("");
  infinite[0][0] = std::numeric_limits<float>::infinity();
  using Measure = pare::Activation::Measure;
  for (const auto& batch : {nan, infinite}) {
    CHECK(fixture.refuses("pare.prune.103", pare::Pruner{}, batch));
    CHECK(fixture.refuses("pare.prune.103", pare::Pruner{.importance = pare::L1{}}, batch));
    CHECK(fixture.refuses("pare.prune.103", pare::Pruner{.importance = pare::L2{}, .reconstruct = false}, batch));
    CHECK(fixture.refuses("pare.prune.103", pare::Pruner{.importance = pare::L2{}, .recalibrate = false}, batch));
    CHECK(fixture.refuses(
        "pare.prune.103",
        pare::Pruner{
            .importance = pare::Activation{.measure = Measure::NonZero}, .reconstruct = false, .recalibrate = false},
        batch));
  }
  const auto nothing = [&](auto pruner) {
    return raises("pare.prune.103", [&] {
      (void)pare::apply(pruner, fixture.model, {.calibration = pare::Batches{torch::randn({0, 8})}});
    });
  };
  CHECK(nothing(pare::Pruner{}));
  CHECK(nothing(pare::Pruner{.importance = pare::L2{}}));
  CHECK(nothing(pare::Pruner{.importance = pare::L2{}, .reconstruct = false}));
  // The layer is named.
  CHECK(path_raised([&] { (void)pare::apply(pare::Pruner{}, fixture.model, {.calibration = pare::Batches{nan}}); }) ==
        "3.weight");
  // Where nothing reads them, they do no harm.
  CHECK_NOTHROW((void)pare::apply(pare::Pruner{.importance = pare::L2{}, .reconstruct = false, .recalibrate = false},
                                  fixture.model, {.calibration = pare::Batches{nan}}));
}

TEST_CASE("what the user makes of scores is a finite number for each unit", "[pruner]") {
  const Fixture fixture;
  const std::vector<std::function<at::Tensor(const at::Tensor&)>> wrong{
      [](const at::Tensor& scores) { return scores.max(); },
      [](const at::Tensor& scores) {
        return at::cat({scores.flatten(), scores.flatten()});
      },
      [](const at::Tensor& scores) {
        return scores.reshape({-1, 16}).sum(0).narrow(0, 0, 3);
      },
      [](const at::Tensor& scores) {
        return scores.reshape({-1, 16}).sum(0) * std::nan("");
      },
      [](const at::Tensor&) { return at::Tensor(); }};
  for (const auto& wrongly : wrong) {
    CHECK(fixture.refuses("pare.prune.103",
                          pare::Pruner{.importance = pare::L2{}, .ratio = 50_pct, .aggregation = wrongly}, fixture.x));
    CHECK(fixture.refuses("pare.prune.103", pare::Pruner<Normalized>{.importance = {wrongly}, .ratio = 50_pct},
                          fixture.x));
  }
  struct Undecided {
    at::Tensor operator()(const pare::SliceView& view) const {
      const auto scores = view.weight.abs().sum(1);
      return at::where(scores > scores.mean(), scores, at::full_like(scores, std::nan("")));
    }
  };
  CHECK(fixture.refuses("pare.prune.103", pare::Pruner<Undecided>{.ratio = 50_pct}, fixture.x));
}

TEST_CASE("a pruning loss is one number that depends on the weights", "[pruner]") {
  const Fixture fixture;
  using Outputs = std::vector<at::Tensor>;
  const auto refuses = [&](const pare::ImportanceLoss& loss) {
    return fixture.refuses("pare.prune.110", pare::Pruner<pare::Taylor>{.ratio = 50_pct, .loss = loss}, fixture.x);
  };
  CHECK(refuses([](const Outputs&, const pare::Batch&) { return at::Tensor(); }));
  CHECK(refuses([](const Outputs& outputs, const pare::Batch&) { return outputs[0]; }));
  CHECK(refuses([](const Outputs& outputs, const pare::Batch&) { return outputs[0].detach().sum(); }));
  CHECK(refuses([](const Outputs& outputs, const pare::Batch&) { return outputs[0].argmax(); }));
  CHECK(refuses([](const Outputs& outputs, const pare::Batch&) { return (outputs[0] - at::ones({7, 7})).sum(); }));
  struct Mine : std::exception {};
  CHECK_THROWS_AS(
      (void)pare::apply(
          pare::Pruner<pare::Taylor>{.loss = [](const Outputs&, const pare::Batch&) -> at::Tensor { throw Mine(); }},
          fixture.model, {.calibration = pare::Batches{fixture.x}}),
      Mine);
}

TEST_CASE("pulls and dampings are numbers of at least zero", "[pruner]") {
  for (const double wrong : {std::nan(""), -5.0, std::numeric_limits<double>::infinity()}) {
    CHECK(raises("pare.prune.102", [&] { pare::Pruner{.ridge = wrong}.validate(); }));
    CHECK(
        raises("pare.prune.102", [&] { pare::Pruner{.importance = pare::LeastSquares{.damping = wrong}}.validate(); }));
  }
  CHECK_NOTHROW(pare::Pruner{.importance = pare::LeastSquares{.damping = 0}, .ridge = 0}.validate());
}
