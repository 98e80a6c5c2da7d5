#include <torch/torch.h>

#include "pare/capture/capture.hpp"
#include "pare/fuse/decompose_attention.hpp"
#include "pare/fuse/fold_batch_norm.hpp"
#include "pare/pass/apply.hpp"
#include "tests/support/catch.hpp"

namespace {

// A batch norm with statistics and weights as training leaves them.
template <class Norm>
Norm trained(Norm norm) {
  const torch::NoGradGuard no_grad;
  norm->running_mean.normal_();
  norm->running_var.uniform_(0.1, 3.0);
  norm->weight.normal_();
  norm->bias.normal_();
  return norm;
}

std::size_t count(const pare::Model& model, std::string_view name) {
  return model.graph().nodes(pare::op(name)).size();
}

void check_folded(torch::nn::Sequential net, const torch::Tensor& example) {
  net->eval();
  const torch::NoGradGuard no_grad;
  const auto model = pare::capture(*net, example);
  REQUIRE(count(model, "aten::batch_norm") == 1);
  const auto folded = pare::apply(pare::FoldBatchNorm{}, model);
  CHECK(count(folded.model, "aten::batch_norm") == 0);
  CHECK(folded.report.count(pare::Decision::Done) == 1);
  const auto fresh = torch::randn_like(example);
  CHECK(torch::allclose(folded.model(fresh), net->forward(fresh), 1e-4, 1e-5));
  CHECK(torch::equal(model(fresh), net->forward(fresh)));  // the original is as it was
}

}  // namespace

TEST_CASE("a folded batch norm is the same function", "[fuse]") {
  namespace nn = torch::nn;
  torch::manual_seed(0);
  check_folded(
      nn::Sequential(nn::Conv2d(nn::Conv2dOptions(6, 8, 3).bias(false)), trained(nn::BatchNorm2d(8)), nn::ReLU()),
      torch::randn({2, 6, 9, 9}));
  check_folded(nn::Sequential(nn::Conv2d(nn::Conv2dOptions(6, 12, 3).groups(3)), trained(nn::BatchNorm2d(12))),
               torch::randn({2, 6, 9, 9}));
  check_folded(nn::Sequential(nn::Conv1d(nn::Conv1dOptions(4, 8, 3)), trained(nn::BatchNorm1d(8))),
               torch::randn({2, 4, 12}));
  check_folded(nn::Sequential(nn::Conv3d(nn::Conv3dOptions(2, 4, 3)), trained(nn::BatchNorm3d(4))),
               torch::randn({2, 2, 5, 6, 7}));
  check_folded(
      nn::Sequential(nn::ConvTranspose2d(nn::ConvTranspose2dOptions(6, 8, 3).stride(2)), trained(nn::BatchNorm2d(8))),
      torch::randn({2, 6, 5, 5}));
  check_folded(nn::Sequential(nn::ConvTranspose2d(nn::ConvTranspose2dOptions(6, 8, 3).groups(2).bias(false)),
                              trained(nn::BatchNorm2d(8))),
               torch::randn({2, 6, 5, 5}));
  check_folded(nn::Sequential(nn::Linear(7, 5), trained(nn::BatchNorm1d(5)), nn::ReLU()), torch::randn({3, 7}));
  check_folded(nn::Sequential(nn::Linear(nn::LinearOptions(7, 5).bias(false)), trained(nn::BatchNorm1d(5))),
               torch::randn({3, 7}));
}

namespace {

// A weight that a second product reads, behind a view of it; and a bias that counts half.
struct Shared : torch::nn::Module {
  explicit Shared(bool halved) : halves(halved) {
    weight = register_parameter("weight", torch::randn({5, 7}));
    bias = register_parameter("bias", torch::randn({5}));
    norm = register_module("norm", trained(torch::nn::BatchNorm1d(5)));
  }
  torch::Tensor forward(const torch::Tensor& x) {
    const auto turned = weight.t();
    if (halves) return norm(torch::addmm(bias, x, turned, 0.5, 2.0));
    return norm(torch::matmul(x, turned)) + torch::matmul(x * 2, turned);
  }
  bool halves;
  torch::Tensor weight, bias;
  torch::nn::BatchNorm1d norm{nullptr};
};

}  // namespace

TEST_CASE("a weight that is shared behind a view, or a sum with factors, is no plain layer", "[fuse]") {
  torch::manual_seed(1);
  const torch::NoGradGuard no_grad;
  for (const bool halved : {false, true}) {
    INFO(halved);
    Shared net(halved);
    net.eval();
    const auto x = torch::randn({4, 7});
    const auto folded = pare::apply(pare::FoldBatchNorm{}, pare::capture(net, x));
    CHECK(count(folded.model, "aten::batch_norm") == 1);
    REQUIRE(folded.report.rows().size() == 1);
    CHECK(folded.report.rows()[0].decision == pare::Decision::Declined);
    CHECK(torch::allclose(folded.model(x), net.forward(x), 1e-4, 1e-5));
  }
}

TEST_CASE("a batch norm without a layer in front stays and says why", "[fuse]") {
  namespace nn = torch::nn;
  torch::manual_seed(0);
  nn::Sequential net(nn::ReLU(), trained(nn::BatchNorm2d(3)), nn::Conv2d(nn::Conv2dOptions(3, 4, 3)));
  net->eval();
  const auto model = pare::capture(*net, torch::randn({2, 3, 6, 6}));
  const auto result = pare::apply(pare::FoldBatchNorm{}, model);
  CHECK(count(result.model, "aten::batch_norm") == 1);
  REQUIRE(result.report.rows().size() == 1);
  CHECK(result.report.rows()[0].decision == pare::Decision::Declined);
  CHECK_FALSE(result.report.rows()[0].reason.empty());
}

namespace {

struct Attention : torch::nn::Module {
  torch::Tensor forward(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                        const torch::Tensor& mask) {
    return torch::scaled_dot_product_attention(q, k, v, mask);
  }
};

}  // namespace

TEST_CASE("attention written out is the same function", "[fuse]") {
  torch::manual_seed(0);
  const torch::NoGradGuard no_grad;
  Attention net;
  const auto q = torch::randn({2, 3, 5, 8}), k = torch::randn({2, 3, 7, 8}), v = torch::randn({2, 3, 7, 6});
  for (const bool boolean : {false, true}) {
    auto mask = torch::randn({2, 1, 5, 7});
    if (boolean) mask = mask > -1.0;
    const auto model = pare::capture(net, std::tuple(q, k, v, mask));
    const auto written = pare::apply(pare::DecomposeAttention{}, model);
    CHECK(count(written.model, "aten::scaled_dot_product_attention") == 0);
    CHECK(count(written.model, "aten::matmul") == 2);
    CHECK(torch::allclose(written.model(q, k, v, mask), net.forward(q, k, v, mask), 1e-4, 1e-5));
  }
}

TEST_CASE("queries that see no key get zeros, written out or not", "[fuse]") {
  torch::manual_seed(0);
  const torch::NoGradGuard no_grad;
  Attention net;
  const auto q = torch::randn({2, 3, 5, 8}), k = torch::randn({2, 3, 7, 8}), v = torch::randn({2, 3, 7, 6});
  auto seen = torch::rand({2, 1, 5, 7}).gt(0.3);
  seen.select(2, 3).fill_(false);
  seen.select(2, 4).select(0, 1).fill_(false);
  const auto added = torch::zeros({2, 1, 5, 7}).masked_fill(seen.logical_not(), -INFINITY);
  for (const auto& mask : {seen, added}) {
    const auto written = pare::apply(pare::DecomposeAttention{}, pare::capture(net, std::tuple(q, k, v, mask)));
    CHECK(count(written.model, "aten::scaled_dot_product_attention") == 0);
    const auto expected = net.forward(q, k, v, mask), got = written.model(q, k, v, mask);
    CHECK(torch::allclose(got, expected, 1e-4, 1e-5));
    CHECK(got.select(2, 3).eq(0).all().item<bool>());
  }
}

TEST_CASE("attention of one query for all is left as it is", "[fuse]") {
  const torch::NoGradGuard no_grad;
  Attention net;
  const auto q = torch::randn({1, 3, 5, 8}), k = torch::randn({4, 3, 7, 8}), v = torch::randn({4, 3, 7, 6});
  const auto model = pare::capture(net, std::tuple(q, k, v, torch::ones({5, 7}, torch::kBool)), {.fixed_sizes = true});
  const auto written = pare::apply(pare::DecomposeAttention{}, model);
  REQUIRE(written.report.rows().size() == 1);
  CHECK(written.report.rows()[0].decision == pare::Decision::Declined);
}

TEST_CASE("batch norms behind each other fold one after the other, and folding again changes nothing", "[fuse]") {
  torch::manual_seed(9);
  const torch::NoGradGuard no_grad;
  for (const bool bias : {true, false}) {
    torch::nn::Sequential net(torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 8, 3).bias(bias)),
                              trained(torch::nn::BatchNorm2d(8)), trained(torch::nn::BatchNorm2d(8)),
                              torch::nn::ReLU());
    net->eval();
    const auto x = torch::randn({4, 3, 9, 9});
    const auto folded = pare::apply(pare::FoldBatchNorm{}, pare::capture(*net, x));
    CHECK(count(folded.model, "aten::batch_norm") == 0);
    CHECK(folded.report.count(pare::Decision::Done) == 2);
    CHECK(torch::allclose(folded.model(x), net->forward(x), 1e-4, 1e-4));
    const auto again = pare::apply(pare::FoldBatchNorm{}, folded.model);
    CHECK(again.report.count(pare::Decision::Done) == 0);
  }
}
