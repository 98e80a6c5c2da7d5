// The criteria of `Sparsifier` on numbers small enough that their papers' formulas give the saliencies by hand.
#include <torch/torch.h>

#include "pare/capture/capture.hpp"
#include "pare/pass/apply.hpp"
#include "pare/prune/activation_magnitude.hpp"
#include "pare/prune/magnitude.hpp"
#include "pare/prune/movement.hpp"
#include "pare/prune/snip.hpp"
#include "pare/prune/sparse_gpt.hpp"
#include "pare/prune/sparse_training.hpp"
#include "pare/prune/sparsifier.hpp"
#include "tests/support/catch.hpp"

namespace {

pare::PrunableWeight seen_weight(const torch::Tensor& weight) {
  pare::PrunableWeight layer{.layer = "fc", .path = "fc.weight", .weight = weight, .mask = weight.ne(0)};
  layer.to_rows = [](const torch::Tensor& tensor) { return tensor; };
  return layer;
}

// One linear layer without a bias.
pare::Model layer_alone(const torch::Tensor& weight) {
  torch::manual_seed(0);
  torch::nn::Linear fc(torch::nn::LinearOptions(weight.size(1), weight.size(0)).bias(false));
  {
    const torch::NoGradGuard no_grad;
    fc->weight.copy_(weight);
  }
  torch::nn::Sequential net;
  net->push_back("fc", fc);
  net->eval();
  return pare::capture(net, torch::randn({2, weight.size(1)}));
}

// The weights that are left; those that stay are not touched.
template <class Importance>
torch::Tensor left_by(const Importance& importance, const pare::Model& model, double sparsity,
                      const pare::Batches& calibration) {
  const pare::Sparsifier<Importance> pass{
      .importance = importance,
      .sparsity = pare::Ratio{sparsity},
      .allocation = pare::SparsityAllocation::Uniform,
      .update_weights = false,
      .loss = [](const std::vector<torch::Tensor>& outputs, std::size_t) { return outputs[0].sum(); }};
  return pare::apply(pass, model, {.calibration = calibration}).model.weight("fc.weight").detach();
}

}  // namespace

TEST_CASE("a weight times the norm of its input is not its size", "[criteria]") {
  const auto model = layer_alone(torch::tensor({{1.0F, -2.0F, 3.0F}, {4.0F, -5.0F, 6.0F}}));
  const pare::Batches calibration{torch::tensor({{10.0F, 1.0F, 0.1F}, {-10.0F, 1.0F, -0.1F}})};
  // By size 1, 2, 3 go. Times 10, 1 and 0.1 they are 10, 2, 0.3, 40, 5, 0.6.
  CHECK(torch::equal(left_by(pare::Magnitude{}, model, 0.5, calibration),
                     torch::tensor({{0.0F, 0.0F, 0.0F}, {4.0F, -5.0F, 6.0F}})));
  CHECK(torch::equal(left_by(pare::ActivationMagnitude{}, model, 0.5, calibration),
                     torch::tensor({{1.0F, 0.0F, 0.0F}, {4.0F, -5.0F, 0.0F}})));
}

TEST_CASE("rows in groups are weighed by the inputs of their own group", "[criteria]") {
  auto layer = seen_weight(torch::tensor({{1.0F, 1.0F}, {-2.0F, 1.0F}, {1.0F, 1.0F}, {1.0F, -2.0F}}));
  layer.groups = 2;
  layer.second_moment = torch::tensor({{{4.0, 5.0}, {5.0, 9.0}}, {{1.0, -3.0}, {-3.0, 16.0}}}).to(torch::kDouble);
  const auto expected = torch::tensor({{2.0F, 3.0F}, {4.0F, 3.0F}, {1.0F, 4.0F}, {1.0F, 8.0F}});
  CHECK(torch::allclose(pare::ActivationMagnitude{}(layer), expected));
}

TEST_CASE("a weight that another can make up for goes before a smaller one", "[criteria]") {
  auto layer = seen_weight(torch::tensor({{2.0F, -3.0F}}));
  layer.inverse_diagonal = torch::tensor({{4.0F, 1.0F}});
  CHECK(torch::allclose(pare::SparseGPT{}(layer), torch::tensor({{1.0F, 9.0F}})));

  // The second input is nearly the first. Of H damped by a hundredth [H^-1] has 34, 33, 1: saliencies 0.12, 0.03, 0.25.
  const auto p = torch::tensor({1.0F, 1.0F, 1.0F, 1.0F, -1.0F, -1.0F, -1.0F, -1.0F});
  const auto q = torch::tensor({1.0F, 1.0F, -1.0F, -1.0F, 1.0F, 1.0F, -1.0F, -1.0F});
  const auto r = torch::tensor({1.0F, -1.0F, 1.0F, -1.0F, 1.0F, -1.0F, 1.0F, -1.0F});
  const pare::Batches calibration{torch::stack({p, p + 0.1 * r, q}, 1)};
  const auto model = layer_alone(torch::tensor({{2.0F, 1.0F, 0.5F}}));
  CHECK(torch::equal(left_by(pare::SparseGPT{}, model, 1.0 / 3, calibration), torch::tensor({{2.0F, 0.0F, 0.5F}})));
  for (const auto& left : {left_by(pare::Magnitude{}, model, 1.0 / 3, calibration),
                           left_by(pare::ActivationMagnitude{}, model, 1.0 / 3, calibration)})
    CHECK(torch::equal(left, torch::tensor({{2.0F, 1.0F, 0.0F}})));
}

TEST_CASE("SNIP multiplies a weight by the mean of its gradients", "[criteria]") {
  auto layer = seen_weight(torch::tensor({{2.0F, -3.0F}, {1.0F, 4.0F}}));
  layer.gradient = torch::tensor({{-1.0F, 2.0F}, {0.0F, 0.5F}});
  CHECK(torch::equal(pare::Snip{}(layer), torch::tensor({{2.0F, 6.0F}, {0.0F, 2.0F}})));
  // With the sum of the outputs as the loss gradients are the inputs: 1 and -1 cancel out, and the largest weight goes.
  const pare::Batches calibration{torch::tensor({{1.0F, 1.0F, 1.0F}}), torch::tensor({{-1.0F, 1.0F, 1.0F}})};
  const auto model = layer_alone(torch::tensor({{3.0F, 2.0F, 1.0F}}));
  CHECK(torch::equal(left_by(pare::Snip{}, model, 1.0 / 3, calibration), torch::tensor({{0.0F, 2.0F, 1.0F}})));
}

TEST_CASE("movement ranks by where training took the weights, whatever their size", "[criteria]") {
  // Gradients of 3 and -4 pull a weight of 1 towards zero and push one of 2 away from it: -w g is -3 and 8.
  torch::nn::Linear fc(torch::nn::LinearOptions(2, 1).bias(false));
  {
    const torch::NoGradGuard no_grad;
    fc->weight.copy_(torch::tensor({{1.0F, 2.0F}}));
  }
  torch::optim::SGD optimizer(fc->parameters(), 0.1);
  pare::Masks masks;
  masks.set("weight", torch::ones({1, 2}, torch::kBool));
  const pare::SparseTraining training(*fc, masks, optimizer);
  fc->forward(torch::tensor({{3.0F, -4.0F}})).sum().backward();
  CHECK(torch::equal(training.movement().at("weight"), torch::tensor({{-3.0F, 8.0F}})));

  auto layer = seen_weight(torch::tensor({{9.0F, 1.0F}, {0.0F, -2.0F}}));  // one is pruned already
  const pare::Movement moved{{{"fc.weight", torch::tensor({{-5.0F, 2.0F}, {7.0F, 1.0F}})}}};
  const auto saliencies = moved(layer);
  CHECK(saliencies.ge(0).all().item<bool>());
  CHECK(saliencies[1][0].item<float>() == 0);
  CHECK(saliencies[0][0].item<float>() < saliencies[1][1].item<float>());
  CHECK(saliencies[1][1].item<float>() < saliencies[0][1].item<float>());

  const pare::Movement one{{{"fc.weight", torch::tensor({{-1.0F, 5.0F, 2.0F}})}}};
  const auto model = layer_alone(torch::tensor({{3.0F, 2.0F, 1.0F}}));
  CHECK(torch::equal(left_by(one, model, 1.0 / 3, {}), torch::tensor({{0.0F, 2.0F, 1.0F}})));
}
