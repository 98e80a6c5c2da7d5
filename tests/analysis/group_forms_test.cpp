// Channels through every kind of layer: a unit whose numbers are zero leaves, and the outputs stay what they were.
#include <torch/torch.h>

#include <algorithm>
#include <set>

#include "pare/analysis/channel_groups.hpp"
#include "pare/capture/capture.hpp"
#include "pare/graph/rewriter.hpp"
#include "tests/support/catch.hpp"

namespace {

namespace nn = torch::nn;
namespace F = torch::nn::functional;

// Any forward over any layers.
struct Net : nn::Module {
  std::function<torch::Tensor(torch::Tensor)> body;
  torch::Tensor forward(const torch::Tensor& x) { return body(x); }
  template <class Layer>
  Layer add(const char* name, Layer layer) {
    return register_module(name, layer);
  }
};

void remove(pare::Model& model, const pare::Removal& removal) {
  pare::Rewriter rewriter(model);
  for (const auto& weight : removal.weights) rewriter.narrow(weight.path, weight.dim, weight.kept);
  for (const auto& constant : removal.constants)
    rewriter.set_operand(constant.node, constant.position, constant.operand);
  for (const auto& change : removal.replacements) rewriter.replace(change.node, change.op, change.operands);
}

struct Expected {
  std::size_t units;
  std::vector<std::string> slices;  // path:axis, some of the group's
};

std::set<std::string> slices_of(const pare::ChannelGroup& group) {
  std::set<std::string> names;
  for (const auto& slice : group.slices) names.insert(fmt::format("{}:{}", slice.path, slice.dim));
  return names;
}

void check(Net& net, const torch::Tensor& x, const Expected& expected) {
  const torch::NoGradGuard no_grad;
  net.eval();
  auto model = pare::capture(net, x);
  model.detach_weights();
  const pare::ChannelGroups groups(model);
  const auto found = std::ranges::find_if(groups.groups(), [&](const pare::ChannelGroup& group) {
    const auto names = slices_of(group);
    return std::ranges::all_of(expected.slices, [&](const auto& name) { return names.contains(name); });
  });
  REQUIRE(found != groups.groups().end());
  const auto& group = *found;
  INFO(group.text());
  REQUIRE_FALSE(group.is_frozen());
  REQUIRE(group.size() == expected.units);
  const std::vector<std::int64_t> leaving{group.units[1], group.units.back()};
  for (const std::size_t u : {std::size_t{1}, group.size() - 1})
    for (const auto& slice : group.slices)
      model.weight(slice.path)
          .index_fill_(slice.dim, torch::tensor(at::IntArrayRef(slice.of(u).data(), slice.of(u).size())), 0);
  const auto before = model(x);
  remove(model, groups.removal(leaving));
  const auto after = model(x);
  CHECK((before - after).abs().max().item<double>() < 1e-5 * std::max(1.0, before.abs().max().item<double>()));
}

}  // namespace

TEST_CASE("PReLU has a slope for each channel, which goes along", "[channel_groups]") {
  torch::manual_seed(0);
  Net net;
  auto a = net.add("a", nn::Conv2d(nn::Conv2dOptions(3, 6, 3)));
  auto slope = net.add("slope", nn::PReLU(nn::PReLUOptions().num_parameters(6)));
  auto b = net.add("b", nn::Conv2d(nn::Conv2dOptions(6, 4, 3)));
  net.body = [=](torch::Tensor x) mutable { return b(slope(a(x))); };
  check(net, torch::randn({2, 3, 8, 8}), {6, {"a.weight:0", "slope.weight:0", "b.weight:1", "a.bias:0"}});
}

TEST_CASE("pixel shuffle makes one channel of four", "[channel_groups]") {
  torch::manual_seed(0);
  Net net;
  auto a = net.add("a", nn::Conv2d(nn::Conv2dOptions(3, 24, 3)));
  auto b = net.add("b", nn::Conv2d(nn::Conv2dOptions(6, 4, 1)));
  net.body = [=](torch::Tensor x) mutable { return b(torch::pixel_shuffle(torch::relu(a(x)), 2)); };
  check(net, torch::randn({2, 3, 6, 6}), {6, {"a.weight:0", "b.weight:1", "a.bias:0"}});
}

TEST_CASE("transposed convolutions, whole and in groups", "[channel_groups]") {
  torch::manual_seed(0);
  for (const std::int64_t in_groups : {1, 2, 8}) {
    INFO(in_groups);
    Net net;
    auto a = net.add("a", nn::Conv2d(nn::Conv2dOptions(3, 8, 3)));
    auto up = net.add("up", nn::ConvTranspose2d(nn::ConvTranspose2dOptions(8, 8, 2).stride(2).groups(in_groups)));
    auto b = net.add("b", nn::Conv2d(nn::Conv2dOptions(8, 4, 1)));
    net.body = [=](torch::Tensor x) mutable { return b(torch::relu(up(torch::relu(a(x))))); };
    check(net, torch::randn({2, 3, 6, 6}),
          {static_cast<std::size_t>(in_groups == 2 ? 4 : 8), {"a.weight:0", "up.weight:0", "a.bias:0"}});
  }
}

TEST_CASE("grouped-query attention: a key head goes with the query heads that read it", "[channel_groups]") {
  torch::manual_seed(0);
  Net net;
  auto q = net.add("q", nn::Linear(16, 32)), k = net.add("k", nn::Linear(16, 16)), v = net.add("v", nn::Linear(16, 16));
  auto out = net.add("out", nn::Linear(32, 5));
  net.body = [=](torch::Tensor x) mutable {
    const auto heads = [&](const torch::Tensor& t, std::int64_t count) {
      return t.view({x.size(0), x.size(1), count, 4}).transpose(1, 2);
    };
    auto y = at::scaled_dot_product_attention(heads(q(x), 8), heads(k(x), 4), heads(v(x), 4), {}, 0.0, false, {}, true);
    return out(y.transpose(1, 2).reshape({x.size(0), x.size(1), 32}));
  };
  check(net, torch::randn({2, 5, 16}), {4, {"k.weight:0", "q.weight:0", "v.weight:0", "out.weight:1"}});
}

TEST_CASE("repeated and expanded channels stay copies of one", "[channel_groups]") {
  torch::manual_seed(0);
  Net net;
  auto a = net.add("a", nn::Linear(4, 6)), b = net.add("b", nn::Linear(18, 5));
  net.body = [=](torch::Tensor x) mutable { return b(torch::tanh(a(x)).repeat({1, 3})); };
  check(net, torch::randn({2, 4}), {6, {"a.weight:0", "b.weight:1"}});
  Net expanded;
  auto c = expanded.add("c", nn::Linear(4, 6)), d = expanded.add("d", nn::Linear(18, 5));
  expanded.body = [=](torch::Tensor x) mutable {
    return d(torch::tanh(c(x)).unsqueeze(2).expand({-1, 6, 3}).reshape({-1, 18}));
  };
  check(expanded, torch::randn({2, 4}), {6, {"c.weight:0", "d.weight:1"}});
}

TEST_CASE("embeddings give their width, and a tied output layer follows", "[channel_groups]") {
  torch::manual_seed(0);
  Net net;
  auto table = net.add("table", nn::Embedding(11, 8));
  auto norm = net.add("hidden", nn::Linear(8, 8));
  net.body = [=](torch::Tensor ids) mutable {
    auto x = table(ids);
    x = x + torch::tanh(norm(x));
    return F::linear(x, table->weight);
  };
  check(net, torch::randint(11, {2, 5}), {8, {"table.weight:1", "hidden.weight:0", "hidden.weight:1"}});
}

TEST_CASE("a hidden unit of a recurrent layer takes its gates along", "[channel_groups]") {
  torch::manual_seed(0);
  Net net;
  auto rnn = net.add("rnn", nn::LSTM(nn::LSTMOptions(5, 6).num_layers(2).batch_first(true)));
  auto out = net.add("out", nn::Linear(6, 3));
  net.body = [=](torch::Tensor x) mutable { return out(std::get<0>(rnn(x))); };
  check(net, torch::randn({2, 4, 5}),
        {6, {"rnn.weight_hh_l0:0", "rnn.weight_ih_l0:0", "rnn.weight_hh_l0:1", "rnn.weight_ih_l1:1", "out.weight:1"}});
  Net gated;
  auto gru = gated.add("gru", nn::GRU(nn::GRUOptions(5, 6).bidirectional(true).batch_first(true)));
  auto head = gated.add("head", nn::Linear(12, 3));
  gated.body = [=](torch::Tensor x) mutable { return head(std::get<0>(gru(x))); };
  check(gated, torch::randn({2, 4, 5}),
        {6, {"gru.weight_hh_l0:0", "gru.weight_hh_l0_reverse:0", "gru.bias_ih_l0:0", "head.weight:1"}});
}

TEST_CASE("what a recurrent layer reads as steps stays", "[channel_groups]") {
  torch::manual_seed(0);
  Net net;
  auto conv = net.add("conv", nn::Conv1d(nn::Conv1dOptions(3, 8, 1)));
  auto rnn = net.add("rnn", nn::RNN(nn::RNNOptions(9, 6).batch_first(true)));
  auto out = net.add("out", nn::Linear(6, 3));
  net.body = [=](torch::Tensor x) mutable { return out(std::get<0>(rnn(conv(x)))); };  // 8 steps of 9 positions
  const auto model = pare::capture(net, torch::randn({2, 3, 9}));
  const pare::ChannelGroups groups(model);
  const auto channels = std::ranges::find(groups.groups(), "conv.weight:0", &pare::ChannelGroup::name);
  REQUIRE(channels != groups.groups().end());
  CHECK(channels->frozen.find("reads them as steps") != std::string::npos);
}

TEST_CASE("a slice that is written to keeps its place", "[channel_groups]") {
  torch::manual_seed(0);
  Net net;
  auto a = net.add("a", nn::Conv2d(nn::Conv2dOptions(3, 6, 1))),
       b = net.add("b", nn::Conv2d(nn::Conv2dOptions(3, 4, 1)));
  auto c = net.add("c", nn::Conv2d(nn::Conv2dOptions(6, 5, 1)));
  net.body = [=](torch::Tensor x) mutable {
    auto y = a(x);
    y.slice(1, 0, 4) += b(x);
    return c(torch::relu(y));
  };
  check(net, torch::randn({2, 3, 4, 4}), {4, {"a.weight:0", "b.weight:0", "c.weight:1"}});
}

TEST_CASE("a transposed convolution in groups may lose inputs alone", "[channel_groups]") {
  torch::manual_seed(0);
  Net net;
  auto a = net.add("a", nn::Conv2d(nn::Conv2dOptions(3, 16, 3)));
  auto up = net.add("up", nn::ConvTranspose2d(nn::ConvTranspose2dOptions(16, 32, 2).stride(2).groups(4)));
  auto b = net.add("b", nn::Conv2d(nn::Conv2dOptions(32, 4, 1)));
  net.body = [=](torch::Tensor x) mutable { return b(torch::relu(up(torch::relu(a(x))))); };
  check(net, torch::randn({2, 3, 6, 6}), {4, {"a.weight:0", "up.weight:0", "a.bias:0"}});
}

TEST_CASE("rows that the input looks up keep their width's channels", "[channel_groups]") {
  torch::manual_seed(0);
  Net net;
  auto a = net.add("a", nn::Linear(4, 6)), b = net.add("b", nn::Linear(6, 5));
  auto table = net.register_parameter("table", torch::randn({4, 6}));
  net.body = [=](torch::Tensor x) mutable { return b(torch::relu(a(x) + table.index({x.argmax(1)}))); };
  check(net, torch::randn({3, 4}), {6, {"a.weight:0", "table:1", "b.weight:1"}});
  Net graph;  // each node sums itself and another
  auto c = graph.add("c", nn::Linear(4, 6)), d = graph.add("d", nn::Linear(6, 5));
  graph.body = [=](torch::Tensor x) mutable {
    const auto h = torch::relu(c(x));
    return d(h + h.index_select(0, x.argmin(0).slice(0, 0, 1)));
  };
  check(graph, torch::randn({3, 4}), {6, {"c.weight:0", "d.weight:1"}});
}

TEST_CASE("a tensor that only gives its type is not read", "[channel_groups]") {
  torch::manual_seed(0);
  Net net;
  auto a = net.add("a", nn::Linear(4, 6)), b = net.add("b", nn::Linear(6, 5));
  net.body = [=](torch::Tensor x) mutable { return b(torch::relu(a(x.to(a->weight))).type_as(b->weight)); };
  check(net, torch::randn({3, 4}), {6, {"a.weight:0", "b.weight:1"}});
}

TEST_CASE("tokens put before a sequence share its channels, and keep their number", "[channel_groups]") {
  torch::manual_seed(0);
  Net net;
  auto embed = net.add("embed", nn::Linear(5, 8)), hidden = net.add("hidden", nn::Linear(8, 12));
  auto head = net.add("head", nn::Linear(12, 3));
  auto registers = net.register_parameter("registers", torch::randn({1, 4, 8}));
  net.body = [=](torch::Tensor x) mutable {
    const auto y = torch::cat({registers.expand({x.size(0), -1, -1}), embed(x)}, 1);
    return head(torch::relu(hidden(torch::relu(y))));
  };
  check(net, torch::randn({2, 6, 5}), {8, {"embed.weight:0", "registers:2", "hidden.weight:1"}});
}

TEST_CASE("what no rule can follow is frozen, and nothing throws", "[channel_groups]") {
  Net net;
  auto a = net.add("a", nn::Linear(4, 6)), b = net.add("b", nn::Linear(6, 5));
  auto row = net.register_parameter("row", torch::randn({6}));
  net.body = [=](torch::Tensor x) mutable {
    const auto y = torch::relu(a(x));
    return b(y) * torch::linear(y, row).unsqueeze(1);  // a vector for a weight
  };
  net.eval();
  const pare::ChannelGroups groups(pare::capture(net, torch::randn({3, 4})));
  CHECK(groups.group("a.weight:0").frozen.find("aten::linear) has no rule") != std::string::npos);
}

TEST_CASE("positions that a grid is read at are no channels that may go", "[channel_groups]") {
  Net net;
  auto a = net.add("a", nn::Conv2d(nn::Conv2dOptions(3, 6, 1))),
       b = net.add("b", nn::Conv2d(nn::Conv2dOptions(6, 4, 1)));
  auto places = net.add("places", nn::Conv2d(nn::Conv2dOptions(3, 2, 1)));
  net.body = [=](torch::Tensor x) mutable {
    const auto grid = torch::tanh(places(x)).permute({0, 2, 3, 1});
    return b(torch::grid_sampler(torch::relu(a(x)), grid, 0, 0, false));
  };
  check(net, torch::randn({2, 3, 6, 6}), {6, {"a.weight:0", "b.weight:1", "a.bias:0"}});
  const pare::ChannelGroups groups(pare::capture(net, torch::randn({2, 3, 6, 6})));
  CHECK(groups.group("places.weight:0").frozen.find("takes them as positions") != std::string::npos);
}
