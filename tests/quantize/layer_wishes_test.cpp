// Which layers an option means: names, paths of modules, patterns.
#include <torch/torch.h>

#include <map>

#include "pare/capture/capture.hpp"
#include "pare/graph/fusion.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

using namespace pare::literals;
using Wishes = std::vector<std::pair<std::string, pare::Bits>>;

struct WishedBlock : torch::nn::Module {
  WishedBlock() {
    up = register_module("up", torch::nn::Linear(8, 16));
    down = register_module("down", torch::nn::Linear(16, 8));
  }
  torch::Tensor forward(const torch::Tensor& x) { return torch::relu(down(torch::relu(up(x)))); }
  torch::nn::Linear up{nullptr}, down{nullptr};
};

// `enc1` is no module of `enc`.
struct WishedNet : torch::nn::Module {
  WishedNet() {
    enc = register_module("enc", std::make_shared<WishedBlock>());
    enc1 = register_module("enc1", std::make_shared<WishedBlock>());
    fc = register_module("fc", torch::nn::Linear(8, 4));
    eval();
  }
  torch::Tensor forward(const torch::Tensor& x) { return fc(enc1->forward(enc->forward(x))); }
  std::shared_ptr<WishedBlock> enc, enc1;
  torch::nn::Linear fc{nullptr};
};

struct WishFixture {
  WishFixture() {
    torch::manual_seed(0);
    net = std::make_shared<WishedNet>();
    x = torch::randn({64, 8});
    model = pare::capture(net, x);
  }
  [[nodiscard]] pare::Applied made(const pare::Quantizer<>& quantizer) const {
    return pare::apply(quantizer, model, {.calibration = pare::Batches{x}});
  }
  // The bits of each layer's weight; layers left float are not there.
  [[nodiscard]] std::map<std::string, int> bits(const Wishes& wishes,
                                                const std::vector<std::string>& floats = {}) const {
    const auto quantized = made({.keep_float = floats, .layer_weights = wishes}).model;
    const auto& graph = quantized.graph();
    std::map<std::string, int> found;
    for (const auto& region : pare::match_regions(graph))
      for (const auto id : region.weight_nodes)
        if (pare::family_of(graph.node(id).op) == pare::OpFamily::FakeQuantize) {
          const auto largest = *graph.node(id).operand("quant_max").integer();
          int width = 1;
          while ((std::int64_t{1} << (width - 1)) - 1 < largest) ++width;
          found[graph.node(region.anchor).name] = width;
        }
    return found;
  }
  std::shared_ptr<WishedNet> net;
  torch::Tensor x;
  pare::Model model;
};

using BitsOf = std::map<std::string, int>;

}  // namespace

TEST_CASE("a module's path means the layers inside it, and no module that begins alike", "[quantize]") {
  const WishFixture fixture;
  CHECK(fixture.bits({}) == BitsOf{{"enc.up", 8}, {"enc.down", 8}, {"enc1.up", 8}, {"enc1.down", 8}, {"fc", 8}});
  CHECK(fixture.bits({{"enc", 4_bits}}) ==
        BitsOf{{"enc.up", 4}, {"enc.down", 4}, {"enc1.up", 8}, {"enc1.down", 8}, {"fc", 8}});
  CHECK(fixture.bits({}, {"enc"}) == BitsOf{{"enc1.up", 8}, {"enc1.down", 8}, {"fc", 8}});
}

TEST_CASE("a star stands for any characters, a question mark for one", "[quantize]") {
  const WishFixture fixture;
  CHECK(fixture.bits({{"enc*.up", 4_bits}}) ==
        BitsOf{{"enc.up", 4}, {"enc.down", 8}, {"enc1.up", 4}, {"enc1.down", 8}, {"fc", 8}});
  CHECK(fixture.bits({{"enc?", 4_bits}}) ==
        BitsOf{{"enc.up", 8}, {"enc.down", 8}, {"enc1.up", 4}, {"enc1.down", 4}, {"fc", 8}});
  CHECK(fixture.bits({{"f?", 5_bits}, {"*", 3_bits}}, {"*.down"}) == BitsOf{{"enc.up", 3}, {"enc1.up", 3}, {"fc", 5}});
}

TEST_CASE("the first wish that fits a layer counts", "[quantize]") {
  const WishFixture fixture;
  CHECK(fixture.bits({{"enc.up", 3_bits}, {"enc", 4_bits}, {"*.up", 5_bits}, {"enc*", 6_bits}}) ==
        BitsOf{{"enc.up", 3}, {"enc.down", 4}, {"enc1.up", 5}, {"enc1.down", 6}, {"fc", 8}});
  CHECK(fixture.bits({{"enc*", 6_bits}, {"*.up", 5_bits}, {"enc", 4_bits}}) ==
        BitsOf{{"enc.up", 6}, {"enc.down", 6}, {"enc1.up", 6}, {"enc1.down", 6}, {"fc", 8}});
}

TEST_CASE("a wish for a layer that is not there is refused and named, whichever option it is in", "[quantize]") {
  const WishFixture fixture;
  const auto refused = [&](const pare::Quantizer<>& quantizer, const std::string& path) {
    try {
      (void)fixture.made(quantizer);
    } catch (const pare::Error& error) {
      return error.id() == "pare.quantize.105" && error.path() == path;
    }
    return false;
  };
  CHECK(refused({.keep_float = {"fc", "decoder.*"}}, "decoder.*"));
  CHECK(refused({.layer_weights = Wishes{{"enc.u", 4_bits}}}, "enc.u"));
  CHECK(refused({.layer_activations = Wishes{{"enc2", 4_bits}}}, "enc2"));
  CHECK(refused({.keep_float = {""}}, ""));
  CHECK(raises("pare.quantize.103", [&] { (void)fixture.made({.layer_activations = Wishes{{"fc", 1_bits}}}); }));
}
