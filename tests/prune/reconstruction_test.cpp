// What `Pruner` mends behind the units that went: layers that read along another axis, statistics of batch norms.
#include <torch/torch.h>

#include "pare/capture/capture.hpp"
#include "pare/pass/apply.hpp"
#include "pare/prune/l2.hpp"
#include "pare/prune/pruner.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/support/catch.hpp"

using namespace pare::literals;

namespace {

namespace nn = torch::nn;

// One layer of an MLP-Mixer: its tokens are mixed along an axis that the channels do not lie on.
struct Mixer : nn::Module {
  nn::Linear stem{6, 16}, tokens1{9, 12}, tokens2{12, 9}, channels1{16, 32}, channels2{32, 16}, head{16, 5};
  Mixer() {
    register_module("stem", stem);
    register_module("tokens1", tokens1);
    register_module("tokens2", tokens2);
    register_module("channels1", channels1);
    register_module("channels2", channels2);
    register_module("head", head);
    eval();
  }
  torch::Tensor forward(const torch::Tensor& in) {
    auto x = stem(in);
    x = x + tokens2(torch::gelu(tokens1(x.transpose(1, 2)))).transpose(1, 2);
    x = x + channels2(torch::gelu(channels1(x)));
    return head(x.mean(1));
  }
};

// A batch norm over positions, while units lie along the last axis.
struct NormedPositions : nn::Module {
  nn::Linear first{6, 8}, second{8, 3};
  nn::BatchNorm1d norm{5};
  NormedPositions() {
    register_module("first", first);
    register_module("norm", norm);
    register_module("second", second);
    eval();
  }
  torch::Tensor forward(const torch::Tensor& x) { return second(norm(first(x))); }
};

double error_of(const pare::Model& a, const pare::Model& b, const torch::Tensor& x) {
  const torch::NoGradGuard no_grad;
  const auto expected = a(x), actual = b(x);
  return ((expected - actual).square().sum() / expected.square().sum()).item<double>();
}

}  // namespace

TEST_CASE("layers across the channels that went are refitted", "[pruner]") {
  torch::manual_seed(0);
  Mixer net;
  const auto x = torch::randn({64, 9, 6});
  const auto model = pare::capture(net, torch::randn({2, 9, 6}));
  const pare::ContextOptions options{.calibration = pare::Batches{x, torch::randn({32, 9, 6})}};
  const auto pruned = pare::apply(pare::Pruner{}, model, options).model;
  CHECK(error_of(model, pruned, x) < 0.5);
  const pare::Pruner mended{.importance = pare::L2{}, .ratio = 30_pct};
  auto plain = mended;
  plain.reconstruct = false;
  CHECK(error_of(model, pare::apply(mended, model, options).model, x) <
        0.5 * error_of(model, pare::apply(plain, model, options).model, x));
}

TEST_CASE("a linear layer that reads the rows of an image with fewer channels is refitted", "[pruner]") {
  struct Rows : nn::Module {
    nn::Conv2d conv{nn::Conv2dOptions(3, 12, 3).padding(1)}, last{nn::Conv2dOptions(12, 4, 1)};
    nn::Linear rows{8, 8};
    Rows() {
      register_module("conv", conv);
      register_module("rows", rows);
      register_module("last", last);
      eval();
    }
    torch::Tensor forward(const torch::Tensor& x) { return last(torch::relu(rows(torch::relu(conv(x))))); }
  };
  torch::manual_seed(0);
  Rows net;
  const auto x = torch::randn({16, 3, 8, 8});
  const auto model = pare::capture(net, torch::randn({2, 3, 8, 8}));
  const auto pruned = pare::apply(pare::Pruner{}, model, {.calibration = pare::Batches{x}}).model;
  CHECK(pruned.weight("conv.weight").size(0) < 12);
  CHECK(error_of(model, pruned, x) < 0.1);
}

TEST_CASE("channels that lie along the samples' axis go, whatever the batches' size", "[pruner]") {
  struct Folded : nn::Module {
    nn::Linear in{6, 16}, tokens{5, 5}, out{16, 3};
    nn::BatchNorm1d norm{5};
    Folded() {
      register_module("in", in);
      register_module("tokens", tokens);
      register_module("norm", norm);
      register_module("out", out);
      eval();
    }
    torch::Tensor forward(const torch::Tensor& x) {
      const auto rows = torch::relu(in(x)).transpose(1, 2).reshape({x.size(0) * 16, 5});
      return out(torch::relu(norm(tokens(rows))).view({x.size(0), 16, 5}).transpose(1, 2));
    }
  };
  torch::manual_seed(0);
  Folded net;
  const auto model = pare::capture(net, torch::randn({2, 5, 6}));
  for (const int samples : {2, 32}) {
    const auto x = torch::randn({samples, 5, 6});
    const pare::ContextOptions options{.calibration = pare::Batches{x}};
    const pare::Pruner mended{.importance = pare::L2{}, .ratio = 50_pct};
    auto plain = mended;
    plain.reconstruct = plain.recalibrate = false;
    const auto pruned = pare::apply(mended, model, options).model;
    CHECK(pruned.weight("in.weight").size(0) == 8);
    CHECK(error_of(model, pruned, x) < 0.5 * error_of(model, pare::apply(plain, model, options).model, x));
  }
}

TEST_CASE("one sample says nothing of variances", "[pruner]") {
  torch::manual_seed(0);
  nn::Sequential net(nn::Linear(8, 16), nn::ReLU(), nn::Linear(16, 12), nn::BatchNorm1d(12), nn::ReLU(),
                     nn::Linear(12, 4));
  net->eval();
  const auto model = pare::capture(net, torch::randn({2, 8}));
  const auto pruned =
      pare::apply(pare::Pruner{.importance = pare::L2{}, .ratio = 10_pct, .keep = {"3"}, .reconstruct = false}, model,
                  {.calibration = pare::Batches{torch::randn({1, 8})}})
          .model;
  CHECK(pruned.weight("0.weight").size(0) == 14);
  CHECK(pruned.weight("3.running_var").min().item<double>() == 1.0);
}

TEST_CASE("zeros that leave along another axis than the batch norm's change no statistics", "[pruner]") {
  torch::manual_seed(0);
  NormedPositions net;
  {
    const torch::NoGradGuard no_grad;
    net.first->weight.slice(0, 0, 4).zero_();
    net.first->bias.slice(0, 0, 4).zero_();
    net.second->weight.slice(1, 0, 4).zero_();
  }
  const auto x = torch::randn({64, 5, 6});
  const auto model = pare::capture(net, x);
  const auto pruned =
      pare::apply(pare::Pruner{.importance = pare::L2{}, .ratio = 50_pct}, model, {.calibration = pare::Batches{x}})
          .model;
  CHECK(pruned.weight("first.weight").size(0) == 4);
  CHECK(error_of(model, pruned, x) < 1e-10);
}

TEST_CASE("a model that is quantized already is pruned and refitted", "[pruner]") {
  torch::manual_seed(3);
  nn::Sequential net(nn::Linear(8, 32), nn::ReLU(), nn::Linear(32, 32), nn::ReLU(), nn::Linear(32, 4));
  const auto x = torch::randn({256, 8});
  const pare::ContextOptions context{.calibration = x};
  const auto int8 = pare::apply(pare::Quantizer{}, pare::capture(net, x), context).model;
  const auto refitted = pare::apply(pare::Pruner<pare::L2>{.ratio = 25_pct}, int8, context).model;
  const auto cut = pare::apply(pare::Pruner<pare::L2>{.ratio = 25_pct, .reconstruct = false}, int8, context).model;
  CHECK(refitted.weight("2.weight").sizes() == torch::IntArrayRef({24, 24}));
  CHECK(error_of(int8, refitted, x) < 0.8 * error_of(int8, cut, x));
}

TEST_CASE("channels go where no layer can be refitted", "[pruner]") {
  torch::manual_seed(4);
  nn::Sequential net(nn::Conv2d(nn::Conv2dOptions(4, 8, 3).groups(2)), nn::ReLU(),
                     nn::ConvTranspose2d(nn::ConvTranspose2dOptions(8, 3, 2)));
  const auto x = torch::randn({4, 4, 6, 6});
  const auto thin = pare::apply(pare::Pruner{.ratio = 50_pct}, pare::capture(net, x), {.calibration = x}).model;
  CHECK(thin.weight("0.weight").size(0) == 4);
  CHECK(thin(x).sizes() == torch::IntArrayRef({4, 3, 5, 5}));
}
