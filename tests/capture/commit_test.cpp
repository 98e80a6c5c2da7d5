// The live module after a commit: what it computes, what it keeps, and what happens when it cannot follow.
#include <torch/torch.h>

#include <filesystem>
#include <sstream>

#include "pare/capture/commit.hpp"
#include "pare/checkpoint/safetensors.hpp"
#include "pare/graph/rewriter.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

namespace nn = torch::nn;
using Kept = std::vector<std::int64_t>;

struct ConvNet : nn::Module {
  ConvNet() {
    first = register_module("first", nn::Conv2d(nn::Conv2dOptions(3, 8, 3).padding(1)));
    norm = register_module("norm", nn::BatchNorm2d(8));
    depthwise = register_module("depthwise", nn::Conv2d(nn::Conv2dOptions(8, 8, 3).groups(8)));
    second = register_module("second", nn::Conv2d(nn::Conv2dOptions(8, 4, 1).bias(false)));
    head = register_module("head", nn::Linear(4, 5));
    eval();
  }
  torch::Tensor forward(const torch::Tensor& x) {
    const auto y = second(torch::relu(depthwise(torch::relu(norm(first(x))))));
    return head(y.mean({2, 3}));
  }
  nn::Conv2d first{nullptr}, depthwise{nullptr}, second{nullptr};
  nn::BatchNorm2d norm{nullptr};
  nn::Linear head{nullptr};
};

// Its forward knows how many channels there are.
struct HardCoded : nn::Module {
  HardCoded() {
    first = register_module("first", nn::Conv2d(nn::Conv2dOptions(3, 8, 3).padding(1)));
    second = register_module("second", nn::Conv2d(nn::Conv2dOptions(8, 4, 1)));
    eval();
  }
  torch::Tensor forward(const torch::Tensor& x) {
    const auto y = torch::relu(first(x));
    return second(
        y.view({x.size(0), 2, 4, x.size(2), x.size(3)}).flip(1).reshape({x.size(0), 8, x.size(2), x.size(3)}));
  }
  nn::Conv2d first{nullptr}, second{nullptr};
};

struct Tagger : nn::Module {
  Tagger() {
    words = register_module("words", nn::Embedding(20, 6));
    lstm = register_module("lstm", nn::LSTM(nn::LSTMOptions(6, 8).batch_first(true)));
    norm = register_module("norm", nn::LayerNorm(nn::LayerNormOptions({8})));
    head = register_module("head", nn::Linear(8, 3));
    eval();
  }
  torch::Tensor forward(const torch::Tensor& ids) { return head(norm(std::get<0>(lstm(words(ids))))); }
  nn::Embedding words{nullptr};
  nn::LSTM lstm{nullptr};
  nn::LayerNorm norm{nullptr};
  nn::Linear head{nullptr};
};

void narrow_channels(pare::Model& model, const Kept& kept) {
  pare::Rewriter rewriter(model);
  const auto count = static_cast<std::int64_t>(kept.size());
  for (const auto* path : {"first.weight", "first.bias", "norm.weight", "norm.bias", "norm.running_mean",
                           "norm.running_var", "depthwise.weight", "depthwise.bias"})
    rewriter.narrow(path, 0, kept);
  rewriter.narrow("second.weight", 1, kept);
  rewriter.set_operand(model.graph().find("depthwise"), "groups", count);
}

// Everything that a failed commit must leave alone.
std::vector<torch::Tensor> state_of(const nn::Module& module) {
  std::vector<torch::Tensor> state;
  for (const auto& tensor : module.parameters()) state.push_back(tensor.detach().clone());
  for (const auto& tensor : module.buffers()) state.push_back(tensor.detach().clone());
  return state;
}

bool same_state(const nn::Module& module, const std::vector<torch::Tensor>& before) {
  const auto now = state_of(module);
  if (now.size() != before.size()) return false;
  for (std::size_t i = 0; i < now.size(); ++i)
    if (now[i].sizes() != before[i].sizes() || !torch::equal(now[i], before[i])) return false;
  return true;
}

}  // namespace

TEST_CASE("commit makes the live module as small as the model", "[commit]") {
  torch::manual_seed(0);
  ConvNet net;
  const auto x = torch::randn({2, 3, 9, 9});
  auto model = pare::capture(net, x);
  narrow_channels(model, {0, 2, 3, 6, 7});
  const auto* impl = net.first->weight.unsafeGetTensorImpl();
  const auto committed = pare::commit(model, net);
  CHECK(committed.tensors().size() == 9);
  CHECK(net.first->weight.unsafeGetTensorImpl() == impl);
  CHECK(net.parameters()[0].is_same(net.first->weight));
  CHECK(net.first->weight.size(0) == 5);
  CHECK(net.first->options.out_channels() == 5);
  CHECK(net.norm->options.num_features() == 5);
  CHECK(net.depthwise->options.groups() == 5);
  CHECK(net.depthwise->options.in_channels() == 5);
  CHECK(net.second->options.in_channels() == 5);
  CHECK(net.second->options.out_channels() == 4);
  CHECK(torch::allclose(net.forward(x), model(x), 0, 1e-6));
  CHECK_FALSE(net.is_training());
  // Training and saving go on.
  net.train();
  net.forward(x).sum().backward();
  CHECK(net.first->weight.grad().sizes() == net.first->weight.sizes());
  net.eval();
  std::stringstream file;
  torch::serialize::OutputArchive out;
  net.save(out);
  out.save_to(file);
  ConvNet fresh;
  torch::serialize::InputArchive in;
  in.load_from(file);
  fresh.load(in);
  const auto again = pare::capture(net, x);
  pare::commit(again, fresh);  // brings the options along; the tensors have the stored shapes already
  CHECK(fresh.first->options.out_channels() == 5);
  CHECK(torch::equal(fresh.forward(x), net.forward(x)));
}

TEST_CASE("commit takes weights alone, and the captured model follows", "[commit]") {
  torch::manual_seed(0);
  ConvNet net;
  const auto x = torch::randn({2, 3, 9, 9});
  auto model = pare::capture(net, x);
  model.set_weight("head.weight", torch::randn({5, 4}));
  const auto expected = model(x);
  CHECK_FALSE(torch::allclose(net.forward(x), expected));
  CHECK(pare::commit(model, net).tensors() == std::vector<std::string>{"head.weight"});
  CHECK(torch::equal(net.forward(x), expected));
}

TEST_CASE("commit follows recurrent layers and norms", "[commit]") {
  torch::manual_seed(0);
  Tagger net;
  const auto ids = torch::randint(20, {2, 5});
  auto model = pare::capture(net, ids);
  const Kept units{0, 1, 4, 5, 7}, inputs{1, 2, 5};
  Kept gates;
  for (std::int64_t gate = 0; gate < 4; ++gate)
    for (const auto unit : units) gates.push_back(gate * 8 + unit);
  pare::Rewriter rewriter(model);
  rewriter.narrow("words.weight", 1, inputs);
  rewriter.narrow("lstm.weight_ih_l0", 1, inputs);
  for (const auto* path : {"lstm.weight_ih_l0", "lstm.weight_hh_l0", "lstm.bias_ih_l0", "lstm.bias_hh_l0"})
    rewriter.narrow(path, 0, gates);
  rewriter.narrow("lstm.weight_hh_l0", 1, units);
  for (const auto* path : {"norm.weight", "norm.bias"}) rewriter.narrow(path, 0, units);
  rewriter.narrow("head.weight", 1, units);
  for (const auto id : model.graph().nodes(pare::op("aten::layer_norm")))
    rewriter.set_operand(id, "normalized_shape", pare::Operand::Ints{5});
  for (const auto id : model.graph().nodes(pare::op("aten::zeros"))) {  // the first hidden state
    auto size = *model.graph().node(id).operand("size").get<pare::Operand::Ints>();
    size.back() = 5;
    rewriter.set_operand(id, "size", size);
  }
  pare::commit(model, net);
  CHECK(net.lstm->options.hidden_size() == 5);
  CHECK(net.lstm->options_base.input_size() == 3);
  CHECK(net.norm->options.normalized_shape() == Kept{5});
  CHECK(net.words->options.embedding_dim() == 3);
  CHECK(torch::allclose(net.forward(ids), model(ids), 0, 1e-6));
}

TEST_CASE("a forward with sizes written into it is refused and left alone", "[commit]") {
  torch::manual_seed(0);
  HardCoded net;
  net.first->weight.mutable_grad() = torch::ones_like(net.first->weight);
  const auto x = torch::randn({2, 3, 6, 6});
  auto model = pare::capture(net, x);
  pare::Rewriter rewriter(model);
  const Kept kept{1, 2, 5, 6};
  rewriter.narrow("first.weight", 0, kept);
  rewriter.narrow("first.bias", 0, kept);
  rewriter.narrow("second.weight", 1, kept);
  for (const auto* op : {"aten::view", "aten::reshape"})
    for (const auto id : model.graph().nodes(pare::op(op))) {
      auto sizes = *model.graph().node(id).operand(1).get<pare::Operand::Ints>();
      sizes[sizes.size() == 5 ? 2 : 1] = sizes.size() == 5 ? 2 : 4;
      rewriter.set_operand(id, 1, sizes);
    }
  CHECK(model(x).size(1) == 4);  // the model itself is sound
  const auto before = state_of(net);
  const auto* storage = net.first->weight.data_ptr();
  try {
    pare::commit(model, net);
    FAIL("was accepted");
  } catch (const pare::Error& error) {
    CHECK(error.id() == "pare.commit.111");
    CHECK(error.path().find("view") != std::string::npos);
  }
  CHECK(same_state(net, before));
  CHECK(net.first->weight.data_ptr() == storage);
  CHECK(net.first->weight.grad().sum().item<float>() == 8 * 27);
  CHECK(net.first->options.out_channels() == 8);
  CHECK(net.forward(x).defined());
}

TEST_CASE("commit refuses what the module cannot express", "[commit]") {
  torch::manual_seed(0);
  ConvNet net;
  const auto x = torch::randn({2, 3, 9, 9});
  const auto before = state_of(net);
  const auto captured = pare::capture(net, x);
  SECTION("an operator put in") {
    auto model = captured;
    pare::Rewriter rewriter(model);
    const auto anchor = model.graph().find("second");
    const auto value = model.graph().node(anchor).output();
    const auto node = rewriter.insert_after(anchor, "aten::relu", {value}, {}, "second.clipped");
    rewriter.replace_uses(value, model.graph().node(node).output(), {node});
    try {
      pare::commit(model, net);
      FAIL("was accepted");
    } catch (const pare::Error& error) {
      CHECK(error.id() == "pare.commit.103");
      CHECK(error.path() == "second.clipped");
    }
  }
  SECTION("another module") {
    Tagger other;
    CHECK(raises("pare.commit.102", [&] { pare::commit(captured, other); }));
  }
  SECTION("a model that was made from the module as it was before") {
    auto one = captured, two = captured;
    narrow_channels(one, {0, 1, 2, 3});
    narrow_channels(two, {0, 1, 2, 3, 4, 5});
    auto committed = pare::commit(one, net);
    CHECK(raises("pare.commit.102", [&] { pare::commit(two, net); }));
    committed.roll_back();
  }
  SECTION("a model from a text") {
    const pare::Model parsed(captured.graph(), captured.weights());
    CHECK(raises("pare.commit.101", [&] { pare::commit(parsed, net); }));
  }
  CHECK(same_state(net, before));
}

TEST_CASE("a commit can be taken back after training went on", "[commit]") {
  torch::manual_seed(0);
  ConvNet net;
  const auto x = torch::randn({4, 3, 9, 9});
  torch::optim::Adam optimizer(net.parameters(), torch::optim::AdamOptions(1e-2));
  const auto train = [&] {
    net.train();
    optimizer.zero_grad();
    auto loss = net.forward(x).square().mean();
    loss.backward();
    optimizer.step();
    net.eval();
    return loss;
  };
  const auto alive = train();  // its graph still holds on to the parameters as they were
  const auto before = state_of(net);
  std::vector<torch::Tensor> gradients;
  for (const auto& parameter : net.parameters()) gradients.push_back(parameter.grad().clone());
  const auto moment = [&]() -> torch::Tensor& {
    auto& state = *optimizer.state().at(net.first->weight.unsafeGetTensorImpl());
    return dynamic_cast<torch::optim::AdamParamState&>(state).exp_avg();
  };
  const auto former = moment().clone();
  auto model = pare::capture(net, x);
  narrow_channels(model, {1, 2, 3, 4, 6});
  auto committed = pare::commit(model, net, optimizer);
  CHECK(moment().size(0) == 5);
  CHECK(torch::equal(moment()[0], former[1]));
  for (int i = 0; i < 3; ++i) train();
  committed.roll_back();
  CHECK(same_state(net, before));
  for (std::size_t i = 0; i < gradients.size(); ++i) CHECK(torch::equal(net.parameters()[i].grad(), gradients[i]));
  CHECK(torch::equal(moment(), former));
  CHECK(net.depthwise->options.groups() == 8);
  train();
  CHECK_FALSE(same_state(net, before));
}

TEST_CASE("what a forward writes to in training mode is as it was after a commit", "[commit]") {
  struct Estimator : nn::Module {
    nn::Linear fc{4, 4};
    torch::Tensor estimate;
    Estimator() {
      register_module("fc", fc);
      estimate = register_parameter("estimate", torch::rand({4}), /*requires_grad=*/false);
    }
    torch::Tensor forward(const torch::Tensor& x) {
      const torch::NoGradGuard no_grad;
      if (is_training()) estimate.copy_(torch::matmul(fc->weight, estimate));
      return fc(x) * estimate;
    }
  };
  torch::manual_seed(0);
  Estimator net;
  const auto estimate = net.estimate.detach().clone();
  auto model = pare::capture(net, torch::randn({3, 4}));
  REQUIRE(model.can_train());
  model.set_weight("fc.weight", torch::randn({4, 4}));
  pare::commit(model, net);
  CHECK(torch::equal(net.estimate, estimate));
}

TEST_CASE("a pruned checkpoint does not go into an unpruned module", "[commit]") {
  torch::manual_seed(0);
  ConvNet net, fresh;
  auto model = pare::capture(net, torch::randn({2, 3, 9, 9}));
  narrow_channels(model, {0, 2, 4});
  pare::commit(model, net);
  const auto path = (std::filesystem::temp_directory_path() / "pare_pruned_checkpoint.safetensors").string();
  pare::save_safetensors(path, pare::named_weights(net));
  const auto before = state_of(fresh);
  CHECK(raises("pare.checkpoint.112", [&] { pare::load_weights(fresh, pare::SafeTensors(path)); }));
  CHECK(same_state(fresh, before));
  pare::load_weights(net, pare::SafeTensors(path));  // into the pruned one it does
  std::filesystem::remove(path);
}
