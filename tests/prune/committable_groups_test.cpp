// Only a trial on the live module tells which sizes its forward has written in.
#include "pare/prune/committable_groups.hpp"

#include <torch/torch.h>

#include "pare/analysis/channel_groups.hpp"
#include "pare/capture/capture.hpp"
#include "pare/capture/commit.hpp"
#include "pare/fuse/fold_batch_norm.hpp"
#include "pare/pass/apply.hpp"
#include "pare/prune/l2.hpp"
#include "pare/prune/pruner.hpp"
#include "tests/support/raises.hpp"

using namespace pare::literals;

namespace {

// Three convolutions whose channels are viewed: by a member, by a literal, and by what the weight says.
struct Viewed : torch::nn::Module {
  torch::nn::Conv2d member{torch::nn::Conv2dOptions(3, 8, 1)}, literal{torch::nn::Conv2dOptions(8, 12, 1)},
      computed{torch::nn::Conv2dOptions(12, 16, 1)};
  torch::nn::BatchNorm2d norm{16};
  torch::nn::Linear fc{16, 5};
  std::int64_t width = 8;
  bool stop = false;  // throws as soon as channels are gone

  Viewed() {
    register_module("member", member);
    register_module("literal", literal);
    register_module("computed", computed);
    register_module("norm", norm);
    register_module("fc", fc);
  }
  torch::Tensor forward(torch::Tensor x) {
    const auto side = x.size(2);
    x = member(x).view({x.size(0), width, side * side}).relu().view({x.size(0), -1, side, side});
    x = literal(x).view({x.size(0), 12, side * side}).relu().view({x.size(0), -1, side, side});
    x = norm(computed(x)).view({x.size(0), computed->weight.size(0), side * side}).relu();
    if (stop && computed->weight.size(0) != 16) throw std::runtime_error("no such network");
    return fc(x.mean(2));
  }
};

struct ViewedFixture {
  Viewed net;
  pare::Model model;
  std::vector<torch::Tensor> before;

  ViewedFixture() {
    torch::manual_seed(0);
    net = Viewed();
    net.norm->eval();  // one flag unlike the others
    model = pare::capture(net, torch::randn({2, 3, 4, 4}));
    net.forward(torch::randn({2, 3, 4, 4})).sum().backward();
    for (const auto& parameter : net.parameters()) {
      before.push_back(parameter.detach().clone());
      before.push_back(parameter.grad().clone());
    }
    for (const auto& buffer : net.buffers()) before.push_back(buffer.clone());
  }
  void check_untouched() const {
    std::vector<torch::Tensor> now;
    for (const auto& parameter : net.parameters()) {
      now.push_back(parameter.detach());
      now.push_back(parameter.grad());
    }
    for (const auto& buffer : net.buffers()) now.push_back(buffer);
    REQUIRE(now.size() == before.size());
    for (std::size_t i = 0; i < now.size(); ++i) CHECK(torch::equal(now[i], before[i]));
    CHECK(net.is_training());
    CHECK_FALSE(net.norm->is_training());
    CHECK(net.computed->options.out_channels() == 16);
  }
};

const pare::ChannelGroup& of(const std::vector<pare::ChannelGroup>& groups, const std::string& path) {
  for (const auto& group : groups)
    for (const auto& slice : group.slices)
      if (slice.path == path && slice.produces) return group;
  FAIL("no group of " << path);
  return groups.front();
}

}  // namespace

TEST_CASE("sizes written into a forward freeze their group, those it computes do not", "[commit]") {
  ViewedFixture f;
  torch::manual_seed(7);
  const auto expected = torch::rand({3});
  torch::manual_seed(7);
  const auto groups = pare::committable_groups(f.model, f.net);
  CHECK(torch::equal(torch::rand({3}), expected));
  CHECK(groups.size() == pare::ChannelGroups(f.model).groups().size());
  CHECK(of(groups, "member.weight").frozen.find("size = [batch, 8, 16] is written into") != std::string::npos);
  CHECK(of(groups, "member.weight").frozen.find("view") != std::string::npos);
  CHECK(of(groups, "literal.weight").frozen.find("size = [batch, 12, 16] is written into") != std::string::npos);
  CHECK_FALSE(of(groups, "computed.weight").is_frozen());
  f.check_untouched();
}

TEST_CASE("a pruner that is told of the live module leaves what it can commit", "[commit]") {
  ViewedFixture f;
  const auto applied =
      pare::apply(pare::Pruner{.importance = pare::L2{}, .ratio = 50_pct, .commit_to = f.net}, f.model);
  f.check_untouched();
  CHECK(applied.model.weight("member.weight").size(0) == 8);
  CHECK(applied.model.weight("literal.weight").size(0) == 12);
  CHECK(applied.model.weight("computed.weight").size(0) == 8);
  std::size_t declined = 0;
  for (const auto& row : applied.report.rows())
    declined += row.decision == pare::Decision::Declined && row.reason.find("written into") != std::string::npos;
  CHECK(declined == 2);
  pare::commit(applied.model, f.net);
  CHECK(f.net.computed->weight.size(0) == 8);
  CHECK(f.net.computed->options.out_channels() == 8);
}

TEST_CASE("a forward that stops is no obstacle to getting the module back", "[commit]") {
  ViewedFixture f;
  f.net.stop = true;
  const auto groups = pare::committable_groups(f.model, f.net);
  CHECK(of(groups, "computed.weight").frozen.find("no such network") != std::string::npos);
  f.check_untouched();
  CHECK(raises("pare.prune.106", [&] {
    (void)pare::apply(pare::Pruner{.importance = pare::L2{}, .ratio = 50_pct, .commit_to = f.net}, f.model);
  }));
  f.check_untouched();
}

TEST_CASE("what could not be committed anyway is said before anything is pruned", "[commit]") {
  ViewedFixture f;
  const auto folded = pare::apply(pare::FoldBatchNorm{}, f.model).model;
  torch::nn::Linear wrong(3, 3);
  const pare::Model made(f.model.graph(), f.model.weights());
  CHECK(raises("pare.commit.103", [&] { (void)pare::committable_groups(folded, f.net); }));
  CHECK(raises("pare.commit.102", [&] { (void)pare::committable_groups(f.model, wrong); }));
  CHECK(raises("pare.commit.102", [&] { (void)pare::committable_groups(f.model, {}); }));
  CHECK(raises("pare.commit.101", [&] { (void)pare::committable_groups(made, f.net); }));
  f.check_untouched();
}
