// Removals that a constant of the graph cannot follow.
#include <torch/torch.h>

#include <string>
#include <vector>

#include "pare/analysis/channel_groups.hpp"
#include "pare/capture/capture.hpp"
#include "pare/graph/text.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

// Two layers that read one half each of what another one gives.
struct RemovalErrorNet : torch::nn::Module {
  RemovalErrorNet() {
    both = register_module("both", torch::nn::Linear(4, 8));
    left = register_module("left", torch::nn::Linear(4, 2));
    right = register_module("right", torch::nn::Linear(4, 2));
    eval();
  }
  torch::Tensor forward(const torch::Tensor& x) {
    const auto halves = torch::relu(both(x)).chunk(2, 1);
    return left(halves[0]) + right(halves[1]);
  }
  torch::nn::Linear both{nullptr}, left{nullptr}, right{nullptr};
};

}  // namespace

TEST_CASE("a removal that would leave a piece empty is refused, and the node is named", "[groups]") {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(1);
  RemovalErrorNet net;
  const auto x = torch::randn({3, 4});
  const auto model = pare::capture(net, x);
  const auto text = pare::print(model);
  const pare::ChannelGroups groups(model);
  for (const auto* name : {"both.weight:0", "both.weight:0#1"}) {
    const auto& group = groups.group(name);
    REQUIRE_FALSE(group.is_frozen());
    REQUIRE(group.size() == 4);
    const auto all = [&] { static_cast<void>(groups.removal(group.units)); };
    CHECK(raises("pare.analysis.103", all));
    try {
      all();
    } catch (const pare::Error& error) {
      CHECK(std::string(error.what()).find("chunk (aten::chunk)") != std::string::npos);
    }
    // One that stays is enough.
    const std::vector<std::int64_t> but_one(group.units.begin() + 1, group.units.end());
    CHECK(groups.removal(but_one).weights.size() == group.slices.size());
  }
  CHECK(pare::print(model) == text);
  CHECK(torch::equal(model(x), net.forward(x)));
}
