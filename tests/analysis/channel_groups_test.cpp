#include "pare/analysis/channel_groups.hpp"

#include <torch/torch.h>

#include <algorithm>

#include "pare/analysis/cost.hpp"
#include "pare/capture/capture.hpp"
#include "pare/graph/text.hpp"
#include "tests/support/raises.hpp"

namespace {

struct Residual : torch::nn::Module {
  torch::nn::Conv2d stem{torch::nn::Conv2dOptions(3, 8, 3).padding(1)};
  torch::nn::Conv2d first{torch::nn::Conv2dOptions(8, 12, 3).padding(1)};
  torch::nn::BatchNorm2d norm{12};
  torch::nn::Conv2d second{torch::nn::Conv2dOptions(12, 8, 3).padding(1)};
  torch::nn::Linear fc{8 * 16, 5};
  Residual() {
    register_module("stem", stem);
    register_module("first", first);
    register_module("norm", norm);
    register_module("second", second);
    register_module("fc", fc);
    eval();
  }
  torch::Tensor forward(const torch::Tensor& x) {
    auto y = torch::relu(stem(x));
    y = torch::relu(y + second(torch::relu(norm(first(y)))));
    return fc(y.flatten(1));
  }
};

// A projection of queries, keys and values in one, with a hard-coded view.
struct Attention : torch::nn::Module {
  torch::nn::Linear qkv{16, 48}, out{16, 16};
  Attention() {
    register_module("qkv", qkv);
    register_module("out", out);
    eval();
  }
  torch::Tensor forward(const torch::Tensor& x) {
    auto parts = qkv(x).view({x.size(0), 6, 3, 4, 4}).permute({2, 0, 3, 1, 4});
    auto y = torch::softmax(torch::matmul(parts[0], parts[1].transpose(-1, -2)) * 0.5, -1);
    return torch::matmul(y, parts[2]).transpose(1, 2).reshape({x.size(0), 6, 16}).matmul(out->weight.t()).tanh();
  }
};

std::vector<std::string> slices(const pare::ChannelGroup& group) {
  std::vector<std::string> all;
  for (const auto& slice : group.slices) all.push_back(fmt::format("{}:{}", slice.path, slice.dim));
  std::ranges::sort(all);
  return all;
}

}  // namespace

TEST_CASE("a residual web and its inner channels are two groups", "[channel_groups]") {
  Residual net;
  const auto model = pare::capture(net, torch::randn({2, 3, 4, 4}));
  const pare::ChannelGroups groups(model);

  const auto& web = groups.group("stem.weight:0");
  CHECK_FALSE(web.is_frozen());
  CHECK(web.size() == 8);
  CHECK(slices(web) == std::vector<std::string>{"fc.weight:1", "first.weight:1", "second.bias:0", "second.weight:0",
                                                "stem.bias:0", "stem.weight:0"});
  const auto& inner = groups.group("first.weight:0");
  CHECK(inner.size() == 12);
  CHECK(slices(inner) == std::vector<std::string>{"first.bias:0", "first.weight:0", "norm.bias:0",
                                                  "norm.running_mean:0", "norm.running_var:0", "norm.weight:0",
                                                  "second.weight:1"});
  // Flatten: a channel is sixteen inputs of the linear layer.
  const auto fc = std::ranges::find(web.slices, "fc.weight", &pare::ChannelGroup::Slice::path);
  REQUIRE(fc != web.slices.end());
  CHECK(fc->entries == 16);
  CHECK(fc->of(1).front() == 16);
  CHECK(fc->consumes);

  CHECK(groups.group("fc.weight:0").frozen == "they are the model's output");
  CHECK(groups.group("stem.weight:1").is_frozen());
  CHECK(web.text().find("fc.weight") != std::string::npos);
  CHECK(raises("pare.analysis.101", [&] { static_cast<void>(groups.group("nothing")); }));
}

TEST_CASE("heads of a fused projection go whole, and the view follows", "[channel_groups]") {
  Attention net;
  const auto model = pare::capture(net, torch::randn({2, 6, 16}));
  const pare::ChannelGroups groups(model);
  const auto& heads = groups.group("qkv.weight:0");
  REQUIRE_FALSE(heads.is_frozen());
  CHECK(heads.size() == 4);
  CHECK(std::ranges::equal(heads.slices.front().of(1),
                           std::vector<std::int64_t>{4, 5, 6, 7, 20, 21, 22, 23, 36, 37, 38, 39}));
  CHECK_FALSE(heads.constants.empty());

  const auto removal = groups.removal(std::vector<std::int64_t>{heads.units[1]});
  CHECK(std::ranges::any_of(removal.constants, [&](const auto& constant) {
    const auto* sizes = constant.operand.template get<pare::Operand::Ints>();
    return sizes && sizes->size() == 5 && (*sizes)[3].constant() == 3;
  }));
  CHECK(raises("pare.analysis.102", [&] { static_cast<void>(groups.removal(std::vector<std::int64_t>{-1})); }));
}

TEST_CASE("a group that an unknown op reads is frozen, and the op is named", "[channel_groups]") {
  struct Sorted : torch::nn::Module {
    torch::nn::Linear a{4, 6}, b{6, 2};
    Sorted() {
      register_module("a", a);
      register_module("b", b);
    }
    torch::Tensor forward(const torch::Tensor& x) { return b(std::get<0>(torch::sort(a(x), -1))); }
  } net;
  net.eval();
  const pare::ChannelGroups groups(pare::capture(net, torch::randn({2, 4})));
  CHECK(groups.group("a.weight:0").frozen.find("aten::sort") != std::string::npos);
}

TEST_CASE("cost is counted from shapes", "[cost]") {
  Residual net;
  const auto model = pare::capture(net, torch::randn({2, 3, 4, 4}));
  const pare::Cost cost(model);
  CHECK(cost.macs() == 16 * (8 * 27 + 12 * 72 + 8 * 108) + 5 * 128);
  std::int64_t parameters = 0;
  for (const auto& parameter : net.parameters()) parameters += parameter.numel();
  CHECK(cost.parameters() == parameters);
  CHECK(cost.layers().size() == 4);
  CHECK(cost.text().find("second") != std::string::npos);
  CHECK(raises("pare.analysis.104", [&] { static_cast<void>(pare::Cost(model, {1, 2, 3})); }));
}
