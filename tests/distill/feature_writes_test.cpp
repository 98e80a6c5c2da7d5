// Features of modules whose results later calls write over.
#include <torch/torch.h>

#include "pare/capture/capture.hpp"
#include "pare/distill/distillation.hpp"
#include "pare/distill/hints.hpp"
#include "tests/support/catch.hpp"

namespace {

namespace nn = torch::nn;
using torch::Tensor;

// Adds to what it is given, in place: the block before gave that tensor.
struct AddingBlockImpl : nn::Module {
  AddingBlockImpl() : f(register_module("f", nn::Linear(16, 32))), g(register_module("g", nn::Linear(32, 16))) {}
  Tensor forward(Tensor x) {
    x += g(torch::relu(f(x)));
    return x;
  }
  nn::Linear f, g;
};
TORCH_MODULE(AddingBlock);

// Keeps copies of what its modules gave.
struct AddingNetImpl : nn::Module {
  AddingNetImpl()
      : s(register_module("s", nn::Linear(8, 16))),
        b0(register_module("b0", AddingBlock())),
        b1(register_module("b1", AddingBlock())),
        o(register_module("o", nn::Linear(16, 4))) {}
  Tensor forward(const Tensor& in) {
    auto x = s(in);
    seen["s"] = x.detach().clone();
    x = b0(x);
    seen["b0"] = x.detach().clone();
    x = b1(x);
    seen["b1"] = x.detach().clone();
    return o(x);
  }
  nn::Linear s;
  AddingBlock b0, b1;
  nn::Linear o;
  std::map<std::string, Tensor> seen;
};
TORCH_MODULE(AddingNet);

// Its parent writes through views of what the first layer gave, and the second layer writes into its own result.
struct WritingLayerImpl : nn::Module {
  WritingLayerImpl() : inner(register_module("inner", nn::Linear(8, 8))) {}
  Tensor forward(const Tensor& x) {
    auto y = inner(x);
    y.narrow(1, 0, 4).mul_(3);
    return y;
  }
  nn::Linear inner;
};
TORCH_MODULE(WritingLayer);

struct ViewWritingNetImpl : nn::Module {
  ViewWritingNetImpl()
      : first(register_module("first", nn::Linear(8, 8))),
        second(register_module("second", WritingLayer())),
        last(register_module("last", nn::Linear(8, 2))) {}
  Tensor forward(const Tensor& in) {
    auto x = first(in);
    seen["first"] = x.detach().clone();
    {
      const torch::NoGradGuard no_grad;
      x.view({-1}).narrow(0, 0, 2).fill_(5);
    }
    x.narrow(1, 2, 3).zero_();
    x = second(x);
    seen["second"] = x.detach().clone();
    return last(x);
  }
  nn::Linear first;
  WritingLayer second;
  nn::Linear last;
  std::map<std::string, Tensor> seen;
};
TORCH_MODULE(ViewWritingNet);

// Hands out what it was given.
struct Keeper {
  std::vector<std::string> paths;
  std::shared_ptr<pare::DistillationBatch> last = std::make_shared<pare::DistillationBatch>();
  void request(pare::FeatureRequest& request) const {
    for (const auto& path : paths) request.wanted.push_back({path, path});
  }
  Tensor operator()(const pare::DistillationBatch& batch) const {
    *last = batch;
    return batch.student.feature(paths.front()).square().sum();
  }
};

}  // namespace

TEST_CASE("features are what a module gave before other modules wrote over it", "[distill]") {
  torch::manual_seed(1);
  AddingNet net;
  net->eval();
  const auto x = torch::randn({5, 8});
  auto student = pare::capture(net, x);
  student.detach_weights();
  const Keeper keeper{{"s", "b0", "b1"}};
  pare::Distillation distillation(student, net, {x}, keeper);
  distillation.step({x});
  for (const auto& path : keeper.paths) {
    INFO(path);
    CHECK(torch::equal(keeper.last->teacher.feature(path), net->seen.at(path)));
    CHECK(torch::allclose(keeper.last->student.feature(path), net->seen.at(path)));
    pare::Distillation hints(student, net, {x}, pare::Hints{{path, path}});
    CHECK(hints.step({x}).item<double>() < 1e-10);
  }
}

TEST_CASE("a feature that is written over through views keeps its numbers and its gradients", "[distill]") {
  torch::manual_seed(2);
  ViewWritingNet net, plain;
  const auto x = torch::randn({5, 8});
  const Keeper keeper{{"first", "second"}};
  pare::Distillation distillation(net, plain, {x}, keeper);
  const auto watch = distillation.watch();
  const auto loss = distillation(x, net->forward(x));
  for (const auto& path : keeper.paths) {
    INFO(path);
    CHECK(torch::equal(keeper.last->student.feature(path), net->seen.at(path)));
  }
  loss.backward();
  const auto expected = torch::autograd::grad({net->first->forward(x).square().sum()}, {net->first->weight});
  CHECK(torch::allclose(net->first->weight.grad(), expected[0]));
}
