// Weights that stay integers while their inputs are numbers: what is stored, and that they compute the simulation.
#include <torch/torch.h>

#include <algorithm>

#include "pare/capture/capture.hpp"
#include "pare/checkpoint/checkpoint.hpp"
#include "pare/checkpoint/map_checkpoint.hpp"
#include "pare/execute/compile.hpp"
#include "pare/numerics/fake_quantize.hpp"
#include "pare/numerics/weight_observer.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/execute/packed_steps.hpp"
#include "tests/support/scratch_folder.hpp"

namespace {

namespace nn = torch::nn;

constexpr std::int64_t kFeatures = 256, kHidden = 96, kOutputs = 50;

struct Feed : nn::Module {
  Feed() {
    up = register_module("up", nn::Linear(kFeatures, kHidden));
    down = register_module("down", nn::Linear(nn::LinearOptions(kHidden, kOutputs).bias(false)));
    eval();
  }
  torch::Tensor forward(const torch::Tensor& x) { return down(torch::silu(up(x))); }
  nn::Linear up{nullptr}, down{nullptr};
};

// A language model in small: the table is the head, too.
struct Tied : nn::Module {
  Tied() {
    table = register_module("table", nn::Embedding(70, 64));
    mix = register_module("mix", nn::Linear(64, 64));
    eval();
  }
  torch::Tensor forward(const torch::Tensor& ids) {
    const auto x = table(ids);
    return nn::functional::linear(x + torch::relu(mix(x)), table->weight);
  }
  nn::Embedding table{nullptr};
  nn::Linear mix{nullptr};
};

using WeightOnly = pare::Quantizer<pare::WeightMinMax>;

WeightOnly weight_only(int bits, pare::Granularity granularity, bool symmetric) {
  return {.weights = {bits}, .granularity = granularity, .symmetric_weights = symmetric, .weight_only = true};
}

// How many layers run so; the others are no layers.
std::ptrdiff_t layers_by(const pare::CompiledModel& compiled, const std::string& implementation) {
  const auto report = compiled.report();
  return std::ranges::count_if(report.rows, [&](const auto& row) { return row.implementation == implementation; });
}

}  // namespace

TEST_CASE("weights of linear layers stay integers where their inputs are numbers", "[execute]") {
  torch::manual_seed(2);
  const torch::NoGradGuard no_grad;
  Feed net;
  const auto model = pare::capture(net, torch::randn({2, kFeatures}));
  const auto of_sequences = pare::capture(net, torch::randn({2, 2, kFeatures}));
  const auto weights = kFeatures * kHidden + kHidden * kOutputs;
  for (const int bits : {4, 8})
    for (const pare::Granularity granularity :
         {pare::Granularity(pare::PerGroup{32}), pare::Granularity(pare::PerGroup{128}),
          pare::Granularity(pare::PerChannel{})})
      for (const bool symmetric : {true, false}) {
        INFO(bits << " bits, granularity " << granularity.index() << ", symmetric " << symmetric);
        const auto simulated = pare::apply(weight_only(bits, granularity, symmetric), model).model;
        const auto compiled = pare::compile(simulated);
        const auto simulated_sequences = pare::apply(weight_only(bits, granularity, symmetric), of_sequences).model;
        const auto compiled_sequences = pare::compile(simulated_sequences);
        CHECK(layers_by(compiled, bits == 4 ? "int4_rows" : "int8_rows") == 2);
        // Scales and zero points beside the integers: at most two floats for 32 of them.
        const auto least = static_cast<std::size_t>(weights * bits / 8);
        CHECK(compiled.weight_bytes() > least);
        CHECK(compiled.weight_bytes() < least + static_cast<std::size_t>(weights / 4 + 1000));
        CHECK(compiled.resident_bytes() < least + static_cast<std::size_t>(weights / 4 + 20000));
        for (const std::int64_t rows : {1, 3, 8, 9, 40}) {
          const auto x = torch::randn({rows, kFeatures}) + 1.0;
          CHECK(pare::sqnr_db(simulated(x), compiled(x)) > 100.0);  // sums in another order, also unoptimized
          const auto sequences = torch::randn({rows, 2, kFeatures});
          CHECK(pare::sqnr_db(simulated_sequences(sequences), compiled_sequences(sequences)) > 110.0);
        }
        CHECK(layers_by(compiled, bits == 4 ? "int4_tiles" : "int8_tiles") == 2);
      }
}

TEST_CASE("groups that fill no vector become numbers", "[execute]") {
  torch::manual_seed(3);
  const torch::NoGradGuard no_grad;
  Feed net;
  const auto model = pare::capture(net, torch::randn({2, kFeatures}));
  const auto simulated = pare::apply(weight_only(4, pare::PerGroup{8}, true), model).model;
  const auto compiled = pare::compile(simulated);
  CHECK(compiled.weight_bytes() >= 4 * kFeatures * kHidden);
  const auto x = torch::randn({3, kFeatures});
  CHECK(pare::sqnr_db(simulated(x), compiled(x)) > 100.0);  // sums in another order, also unoptimized
}

TEST_CASE("weights in groups compute on integer inputs, too", "[execute]") {
  torch::manual_seed(4);
  const torch::NoGradGuard no_grad;
  Feed net;
  const auto model = pare::capture(net, torch::randn({2, kFeatures}));
  const auto simulated =
      pare::apply(pare::Quantizer<pare::WeightMinMax>{.weights = {4}, .granularity = pare::PerGroup{32}}, model,
                  {.calibration = pare::Batches{torch::randn({64, kFeatures})}})
          .model;
  const auto compiled = pare::compile(simulated);
  CHECK(layers_by(compiled, "int4_rows") > 0);
  CHECK(check_packed_steps(simulated, compiled, {torch::randn({5, kFeatures})}) > 0);
}

TEST_CASE("a table in groups is looked up and multiplied with, and stored once", "[execute]") {
  torch::manual_seed(5);
  const torch::NoGradGuard no_grad;
  Tied net;
  const auto ids = torch::randint(70, {2, 5}, torch::kLong);
  const auto model = pare::capture(net, ids);
  const auto simulated = pare::apply(weight_only(4, pare::PerGroup{32}, true), model).model;
  const auto compiled = pare::compile(simulated);
  CHECK(pare::sqnr_db(simulated(ids), compiled(ids)) > 110.0);
  CHECK(layers_by(compiled, "int4_lookup") == 1);
  CHECK(compiled.weight_bytes() < static_cast<std::size_t>((70 + 64) * 64 * 5 / 8 + 64 * 4 + 100));
  CHECK_THROWS(compiled(torch::full({2, 5}, 70, torch::kLong)));
  CHECK_THROWS(compiled(torch::full({2, 5}, -1, torch::kLong)));
}

TEST_CASE("a compiled model reads int4 weights from the pages of its file", "[execute]") {
  torch::manual_seed(6);
  const torch::NoGradGuard no_grad;
  const ScratchFolder folder;
  const auto path = folder.file("net.pare");
  Feed net;
  const auto model = pare::capture(net, torch::randn({2, kFeatures}));
  for (const bool symmetric : {true, false}) {
    const auto simulated = pare::apply(weight_only(4, pare::PerGroup{32}, symmetric), model).model;
    pare::save_checkpoint(simulated, path);
    const auto mapped = pare::map_checkpoint(path);
    CHECK(mapped.weight("up.weight").nbytes() == static_cast<std::size_t>(kFeatures * kHidden / 2));
    const auto expected = pare::compile(simulated), actual = pare::compile(mapped);
    CHECK(actual.weight_bytes() == expected.weight_bytes());
    const auto x = torch::randn({4, kFeatures});
    CHECK(torch::equal(simulated(x), mapped(x)));
    CHECK(torch::equal(expected(x), actual(x)));
  }
}
