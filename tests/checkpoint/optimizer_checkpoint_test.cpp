// Trainings that go to disk in their midst and go on from there.
#include "pare/checkpoint/optimizer_checkpoint.hpp"

#include <torch/torch.h>

#include "pare/checkpoint/safetensors.hpp"
#include "pare/pass/apply.hpp"
#include "pare/pipeline/restore.hpp"
#include "pare/prune/pruner.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"
#include "tests/support/scratch_folder.hpp"

namespace {

namespace nn = torch::nn;
namespace optim = torch::optim;

// What a user's code has: convolutions, a batch norm, dropout, a tied head.
struct PlainImpl : nn::Module {
  explicit PlainImpl(int classes = 5) {
    first = register_module("first", nn::Conv2d(nn::Conv2dOptions(3, 16, 3).padding(1)));
    norm = register_module("norm", nn::BatchNorm2d(16));
    second = register_module("second", nn::Conv2d(nn::Conv2dOptions(16, 24, 3).padding(1).bias(false)));
    drop = register_module("drop", nn::Dropout(0.1));
    head = register_module("head", nn::Linear(24, classes));
  }
  torch::Tensor forward(torch::Tensor x) {
    x = torch::relu(norm(first(x)));
    x = torch::relu(second(x));
    return head(drop(x.mean({2, 3})));
  }
  nn::Conv2d first{nullptr}, second{nullptr};
  nn::BatchNorm2d norm{nullptr};
  nn::Dropout drop{nullptr};
  nn::Linear head{nullptr};
};
TORCH_MODULE(Plain);

using MakeOptimizer = std::function<std::unique_ptr<optim::Optimizer>(std::vector<at::Tensor>)>;

// Two groups of unlike options, as fine-tunings have them.
template <class Type, class Options>
MakeOptimizer two_groups(Options options) {
  return [options](const std::vector<at::Tensor>& parameters) {
    std::vector<optim::OptimizerParamGroup> groups;
    groups.emplace_back(std::vector<at::Tensor>(parameters.begin(), parameters.begin() + 3));
    auto slower = options;
    slower.lr(options.lr() / 3);
    groups.emplace_back(std::vector<at::Tensor>(parameters.begin() + 3, parameters.end()),
                        std::make_unique<Options>(slower));
    return std::make_unique<Type>(groups, options);
  };
}

struct Kind {
  const char* name;
  MakeOptimizer make;
};

std::vector<Kind> kinds() {
  return {{"SGD", two_groups<optim::SGD>(optim::SGDOptions(0.05).momentum(0.9).weight_decay(1e-3).nesterov(true))},
          {"Adam", two_groups<optim::Adam>(optim::AdamOptions(3e-3).amsgrad(true).betas({0.8, 0.99}))},
          {"AdamW", two_groups<optim::AdamW>(optim::AdamWOptions(3e-3).weight_decay(0.05))},
          {"RMSprop", two_groups<optim::RMSprop>(optim::RMSpropOptions(1e-3).momentum(0.5).centered(true))},
          {"Adagrad", two_groups<optim::Adagrad>(optim::AdagradOptions(1e-2).lr_decay(0.01))},
          {"LBFGS", [](const std::vector<at::Tensor>& parameters) {
             return std::make_unique<optim::LBFGS>(parameters, optim::LBFGSOptions(0.1).max_iter(3).history_size(4));
           }}};
}

// Steps on data of their own; the learning rate moves, as a schedule moves it.
template <class Forward>
void train(const Forward& forward, optim::Optimizer& optimizer, int from, int to) {
  for (int step = from; step < to; ++step) {
    torch::manual_seed(100 + step);
    const auto x = torch::randn({6, 3, 8, 8});
    const auto y = torch::randint(5, {6});
    optimizer.step([&] {
      torch::manual_seed(step);  // dropout's
      optimizer.zero_grad();
      auto loss = nn::functional::cross_entropy(forward(x), y);
      loss.backward();
      return loss;
    });
    for (auto& group : optimizer.param_groups()) group.options().set_lr(group.options().get_lr() * 0.9);
  }
}

const at::Tensor kExample = torch::linspace(-1, 1, 2 * 3 * 8 * 8).view({2, 3, 8, 8});

pare::Model pruned(const pare::Model& model) {
  return pare::apply(pare::Pruner{.ratio = pare::Ratio{0.3}}, model).model;
}

void check_same(const std::map<std::string, at::Tensor>& expected, const std::map<std::string, at::Tensor>& actual) {
  REQUIRE(expected.size() == actual.size());
  for (const auto& [path, tensor] : expected) {
    INFO(path);
    CHECK(torch::equal(tensor, actual.at(path)));
  }
}

std::map<std::string, at::Tensor> copies(const nn::Module& module) {
  std::map<std::string, at::Tensor> result;
  for (const auto& [path, tensor] : pare::named_weights(module)) result[path] = tensor.detach().clone();
  return result;
}

// A pruned module in the midst of a training, and its Model.
struct Training {
  explicit Training(const MakeOptimizer& make) {
    torch::manual_seed(1);
    net = Plain();
    optimizer = make(net->parameters());
    train([this](const at::Tensor& x) { return net(x); }, *optimizer, 0, 3);
    model = pruned(pare::capture(net, kExample));
    pare::commit(model, net, *optimizer);
    train([this](const at::Tensor& x) { return net(x); }, *optimizer, 3, 6);
  }
  Plain net{nullptr};
  std::unique_ptr<optim::Optimizer> optimizer;
  pare::Model model;
};

}  // namespace

TEST_CASE("a pruned module's training goes on bit for bit from the plain code", "[checkpoint]") {
  const ScratchFolder folder;
  const auto path = folder.file("run.pare");
  for (const auto& kind : kinds()) {
    DYNAMIC_SECTION(kind.name) {
      Training run(kind.make);
      REQUIRE(run.net->first->weight.size(0) < 16);
      pare::save_checkpoint(run.model, *run.net, *run.optimizer, path, {.metadata = {{"step", "6"}}});
      train([&](const at::Tensor& x) { return run.net(x); }, *run.optimizer, 6, 9);

      torch::manual_seed(77);
      Plain net;
      const auto optimizer = kind.make(net->parameters());
      train([&](const at::Tensor& x) { return net(x); }, *optimizer, 0, 1);  // state that has to go
      pare::restore(net, *optimizer, path, kExample);
      CHECK(net->first->options.out_channels() == net->first->weight.size(0));
      net->train();
      train([&](const at::Tensor& x) { return net(x); }, *optimizer, 6, 9);
      check_same(copies(*run.net), copies(*net));
    }
  }
}

TEST_CASE("LBFGS goes on with a history that is not full, and after its first iteration", "[checkpoint]") {
  const ScratchFolder folder;
  const auto path = folder.file("run.pare");
  for (const int iterations : {1, 20}) {
    INFO(iterations << " iterations a step");
    const auto options = optim::LBFGSOptions(0.1).max_iter(iterations);
    torch::manual_seed(1);
    Plain net;
    optim::LBFGS optimizer(net->parameters(), options);
    train([&](const at::Tensor& x) { return net(x); }, optimizer, 0, 1);
    pare::save_checkpoint(pare::capture(net, kExample), *net, optimizer, path);
    train([&](const at::Tensor& x) { return net(x); }, optimizer, 1, 3);

    Plain again;
    optim::LBFGS fresh(again->parameters(), options);
    pare::restore(again, fresh, path, kExample);
    again->train();
    train([&](const at::Tensor& x) { return again(x); }, fresh, 1, 3);
    check_same(copies(*net), copies(*again));
  }
}

TEST_CASE("a quantized Model's training goes on bit for bit without the module", "[checkpoint]") {
  const ScratchFolder folder;
  const auto path = folder.file("run.pare");
  torch::manual_seed(1);
  Plain net;
  net->train();
  auto model = pruned(pare::capture(net, kExample));
  const std::vector<pare::Batch> batches{{kExample}};
  model = pare::apply(pare::Quantizer{.rounding = pare::Rounding::Nearest, .smooth = false}, model,
                      {.calibration = batches})
              .model;
  model.detach_weights();
  for (const auto& [name, parameter] : model.named_parameters()) at::Tensor(parameter).requires_grad_(true);
  const auto go_on = [](pare::Model& of, optim::Optimizer& with, int from, int to) {
    of.train(of.can_train());
    train([&](const at::Tensor& x) { return of(x); }, with, from, to);
  };
  optim::AdamW optimizer(model.parameters(), optim::AdamWOptions(1e-3));
  go_on(model, optimizer, 0, 3);
  pare::save_checkpoint(model, optimizer, path);
  go_on(model, optimizer, 3, 6);

  auto loaded = pare::load_checkpoint(path);
  optim::AdamW fresh(loaded.parameters(), optim::AdamWOptions(5e-2));
  pare::load_optimizer(path, loaded, fresh);
  go_on(loaded, fresh, 3, 6);
  for (const auto& [name, weight] : model.weights()) {
    INFO(name);
    CHECK(torch::equal(weight.tensor, loaded.weight(name)));
    CHECK(weight.tensor.requires_grad() == loaded.weight(name).requires_grad());
  }
}

TEST_CASE("torch::save of a pruned module loads again after restore", "[checkpoint]") {
  const ScratchFolder folder;
  const auto recipe = folder.file("net.pare"), weights = folder.file("net.pt");
  const auto run = Training(kinds()[0].make);
  pare::save_checkpoint(run.model, recipe);
  auto trained = run.net;
  torch::save(trained, weights);

  torch::manual_seed(9);
  Plain net;
  pare::restore(net, recipe, kExample);
  torch::load(net, weights);
  check_same(copies(*trained), copies(*net));
  CHECK(net->second->options.in_channels() == net->second->weight.size(1));
  trained->eval();
  net->eval();
  CHECK(torch::equal(trained(kExample), net(kExample)));
}

TEST_CASE("an optimizer that does not fit is an error, and nothing has changed", "[checkpoint]") {
  const ScratchFolder folder;
  const auto path = folder.file("run.pare"), bare = folder.file("bare.pare");
  const auto all = kinds();
  Training run(all[1].make);
  pare::save_checkpoint(run.model, *run.net, *run.optimizer, path);
  pare::save_checkpoint(run.model, bare);

  Plain net;
  const auto before = copies(*net);
  const auto refused = [&](const std::string& id, Plain& target, optim::Optimizer& optimizer, const std::string& file) {
    const auto states = optimizer.state().size();
    const auto rate = optimizer.param_groups()[0].options().get_lr();
    CHECK(raises(id, [&] { pare::restore(target, optimizer, file, kExample); }));
    CHECK(optimizer.state().size() == states);
    CHECK(optimizer.param_groups()[0].options().get_lr() == rate);
  };
  const auto same_kind = all[1].make(net->parameters()), other_kind = all[2].make(net->parameters());
  refused("pare.checkpoint.137", net, *other_kind, path);
  refused("pare.checkpoint.137", net, *same_kind, bare);
  optim::Adam one_group(net->parameters());
  refused("pare.checkpoint.138", net, one_group, path);
  auto turned = net->parameters();
  std::swap(turned[0], turned[1]);
  refused("pare.checkpoint.138", net, *all[1].make(turned), path);
  Plain stranger(7);
  refused("pare.checkpoint.138", net, *all[1].make(stranger->parameters()), path);
  refused("pare.checkpoint.134", stranger, *all[1].make(stranger->parameters()), path);
  check_same(before, copies(*net));
  CHECK(net->first->options.out_channels() == 16);

  // The optimizer alone, beside a module that was not pruned.
  CHECK(raises("pare.checkpoint.138", [&] { pare::load_optimizer(path, *net, *same_kind); }));
  CHECK(same_kind->state().empty());

  struct OwnOptimizer : optim::SGD {
    using optim::SGD::SGD;
  } own(net->parameters(), optim::SGDOptions(0.1));
  CHECK(raises("pare.checkpoint.136", [&] { pare::save_checkpoint(pare::capture(net, kExample), *net, own, bare); }));
  CHECK(raises("pare.checkpoint.137", [&] { pare::load_optimizer(path, *net, own); }));
  CHECK(raises("pare.checkpoint.138",
               [&] { pare::save_checkpoint(pare::capture(stranger, kExample), *stranger, *same_kind, bare); }));
  CHECK(raises("pare.checkpoint.134", [&] { pare::save_checkpoint(run.model, *net, *same_kind, bare); }));
  CHECK_NOTHROW(pare::load_checkpoint(bare));  // as it was
}

TEST_CASE("checkpoints with an optimizer say so to readers of before", "[checkpoint]") {
  const ScratchFolder folder;
  const auto path = folder.file("run.pare");
  Training run(kinds()[0].make);
  pare::save_checkpoint(run.model, path);
  CHECK(pare::SafeTensors(path).metadata().at("pare.version") == "1");
  pare::save_checkpoint(run.model, *run.net, *run.optimizer, path);
  const pare::SafeTensors file(path);
  CHECK(file.metadata().at("pare.version") == "2");
  CHECK_NOTHROW(pare::load_checkpoint(path));
  auto metadata = file.metadata();
  metadata["pare.version"] = "3";
  pare::save_safetensors(path, file.tensors(), metadata);
  CHECK(raises("pare.checkpoint.131", [&] { pare::load_optimizer(path, *run.net, *run.optimizer); }));
}
