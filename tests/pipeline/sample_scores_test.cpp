#include "pare/pipeline/sample_scores.hpp"

#include <torch/torch.h>

#include "pare/capture/capture.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

// Answers whatever it is asked: the original.
struct Echo : torch::nn::Module {
  torch::Tensor forward(const torch::Tensor& x) { return x * 1; }
};

pare::Model echo(int64_t classes) {
  Echo net;
  return pare::capture(net, torch::randn({2, classes}));
}

pare::SampleScores scores_for(const torch::Tensor& logits) {
  return pare::expected_scores(pare::Batches(std::vector<pare::Batch>{{logits}}), echo(logits.size(1)));
}

// A network that gives these outputs whatever it gets.
pare::Predictor answering(const torch::Tensor& outputs) {
  return [outputs](const std::vector<torch::Tensor>&) { return std::vector<torch::Tensor>{outputs}; };
}

// What changed answers cost by the original's probabilities, and half for each.
torch::Tensor counted_loss(const torch::Tensor& logits, const torch::Tensor& moved) {
  const auto p = logits.softmax(1);
  const auto before = logits.argmax(1, true), after = moved.argmax(1, true);
  return (p.gather(1, before) - p.gather(1, after)).squeeze(1) + before.ne(after).squeeze(1).to(torch::kDouble) / 2;
}

}  // namespace

TEST_CASE("what a network is expected to lose is what it loses on many samples", "[scores]") {
  torch::manual_seed(1);
  const auto logits = 3 * torch::randn({6000, 10}, torch::kDouble);
  for (const double noise : {0.05, 0.2, 0.4}) {
    const auto moved = logits + noise * torch::randn_like(logits);
    const auto expected = 1 - scores_for(logits.to(torch::kFloat))(answering(moved)).mean().item<double>();
    const auto counted = counted_loss(logits, moved).mean().item<double>();
    INFO("noise " << noise << ": expected " << expected << ", counted " << counted);
    CHECK(expected == Approx(counted).epsilon(0.25));
  }
}

TEST_CASE("few samples tell what is expected more steadily than by counting", "[scores]") {
  torch::manual_seed(2);
  const auto logits = 3 * torch::randn({4096, 10}, torch::kDouble);
  const auto moved = logits + 0.1 * torch::randn_like(logits);
  std::vector<double> expected, counted;
  for (int64_t at = 0; at < logits.size(0); at += 64) {
    const auto some = logits.narrow(0, at, 64), after = moved.narrow(0, at, 64);
    expected.push_back(1 - scores_for(some.to(torch::kFloat))(answering(after)).mean().item<double>());
    counted.push_back(counted_loss(some, after).mean().item<double>());
  }
  const auto spread = [](const std::vector<double>& all) {
    return torch::tensor(all, torch::kDouble).std().item<double>();
  };
  CHECK(spread(expected) < 0.6 * spread(counted));
}

TEST_CASE("expected scores of the same outputs are one, of probabilities those of their logits", "[scores]") {
  torch::manual_seed(3);
  const auto logits = torch::randn({40, 7});
  CHECK(scores_for(logits)(answering(logits)).eq(1).all().item<bool>());
  const auto moved = logits + 0.3 * torch::randn_like(logits);
  const auto by_logits = scores_for(logits)(answering(moved));
  const auto by_probabilities = scores_for(logits.softmax(1))(answering(moved.softmax(1)));
  CHECK(by_logits.lt(1).any().item<bool>());
  CHECK(torch::allclose(by_logits, by_probabilities, 1e-4, 1e-6));
  // Two classes, and a class that nobody expected.
  CHECK(scores_for(logits.narrow(1, 0, 2))(answering(moved.narrow(1, 0, 2))).le(1).all().item<bool>());
  auto broken = logits.clone();
  broken.scatter_(1, logits.argmin(1, true), 100.0);
  CHECK(scores_for(logits)(answering(broken)).lt(0.8).all().item<bool>());
}

TEST_CASE("expected scores refuse what is no class, and do not hide what is no number", "[scores]") {
  const auto logits = torch::randn({4, 3});
  const auto nothing = torch::full({4, 3}, std::numeric_limits<float>::quiet_NaN());
  CHECK(scores_for(logits)(answering(nothing)).isnan().all().item<bool>());
  CHECK(raises("pare.pipeline.104", [&] { scores_for(torch::randn({4, 1})); }));
  CHECK(raises("pare.pipeline.104", [&] {
    static_cast<void>(scores_for(logits)(answering(torch::randn({4, 3, 2}))));
  }));
  CHECK(raises("pare.pipeline.104", [&] { static_cast<void>(pare::expected_scores(pare::Batches{}, echo(3))); }));
}
