#include "pare/analysis/layer_latency.hpp"

#include <torch/torch.h>

#include <fstream>
#include <regex>

#include "pare/analysis/cost.hpp"
#include "pare/analysis/latency_table.hpp"
#include "pare/capture/capture.hpp"
#include "pare/execute/compile.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"
#include "tests/support/scratch_folder.hpp"

namespace {

namespace nn = torch::nn;

pare::Model chain(const torch::Tensor& x) {
  torch::manual_seed(2);
  nn::Sequential net(nn::Conv2d(nn::Conv2dOptions(3, 8, 3).padding(1)), nn::ReLU(), nn::Conv2d(8, 8, 1), nn::ReLU(),
                     nn::AdaptiveAvgPool2d(1), nn::Flatten(), nn::Linear(8, 4));
  net->eval();
  return pare::capture(net, x);
}

void overwrite(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

}  // namespace

TEST_CASE("a profile has a time for every step, and they make up the call", "[latency]") {
  const auto x = torch::randn({4, 3, 16, 16});
  const auto model = chain(x);
  const auto compiled = pare::compile(model);
  const auto profile = compiled.profile({x}, 0.02);
  const auto rows = compiled.report().rows;
  REQUIRE(profile.steps.size() >= rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) CHECK(profile.steps[i].row.name == rows[i].name);
  CHECK(profile.runs >= 5);
  CHECK(profile.steps_ms() > 0);
  CHECK(profile.call_ms > 0);
  CHECK(profile.text().find("aten::conv2d") != std::string::npos);
  CHECK(raises("pare.execute.101", [&] { (void)compiled.profile({x}, 0.0); }));
  CHECK(raises("pare.run.101", [&] { (void)compiled.profile({}); }));
  // Quantized: the same steps and what quantizes the input.
  const auto int8 = pare::apply(pare::Quantizer{}, model, {.calibration = std::vector<torch::Tensor>{x}}).model;
  const auto steps = pare::compile(int8).profile({x}, 0.02).steps;
  CHECK(std::ranges::any_of(steps, [](const auto& step) { return step.row.precision == "int8"; }));
}

TEST_CASE("layers' times come from the table the second time", "[latency]") {
  const auto x = torch::randn({4, 3, 16, 16});
  const auto model = chain(x);
  const ScratchFolder folder;
  pare::LatencyTable table(folder.path().string());
  const pare::LayerLatency first(model, {x}, table, {}, 0.02);
  CHECK(first.was_timed());
  CHECK(first.guessed() == 0);
  double sum = 0;
  for (const auto& row : first.rows()) sum += row.ms;
  CHECK(sum == Approx(first.total_ms()));
  CHECK(first.layer_ms("0.weight") + first.layer_ms("2.weight") + first.layer_ms("6.weight") == Approx(sum));
  table.save();
  pare::LatencyTable read(folder.path().string());
  CHECK(read.size() == table.size());
  CHECK(read.notes().empty());
  const pare::LayerLatency second(model, {x}, read, {}, 0.02);
  CHECK_FALSE(second.was_timed());
  REQUIRE(second.rows().size() == first.rows().size());
  for (std::size_t i = 0; i < first.rows().size(); ++i) CHECK(second.rows()[i].ms == first.rows()[i].ms);
  // Other sizes and another precision are other steps.
  const auto larger = torch::randn({4, 3, 20, 20});
  CHECK(pare::LayerLatency(chain(larger), {larger}, read, {}, 0.02).was_timed());
  CHECK(pare::LayerLatency(model, {x}, read, {.dtype = torch::kBFloat16}, 0.02).was_timed());
  // The table is all that a prediction has.
  const pare::LatencyTable empty;
  const auto guess = pare::LayerLatency::predicted(model, {x}, empty);
  CHECK(guess.guessed() == guess.rows().size());
  CHECK(guess.total_ms() == 0);
}

TEST_CASE("the roofline counts what a layer computes and moves", "[latency]") {
  const auto x = torch::randn({4, 3, 16, 16});
  const auto model = chain(x);
  pare::LatencyTable table;
  const pare::LayerLatency latency(model, {x}, table, {}, 0.02);
  const auto& conv = latency.rows().front();
  CHECK(conv.name == "0");
  CHECK(conv.macs == 4 * 8 * 16 * 16 * 27);
  CHECK(conv.bytes == 4 * (4 * 3 * 256 + 4 * 8 * 256 + 8 * 27 + 8));
  CHECK(conv.intensity() == Approx(2.0 * static_cast<double>(conv.macs) / static_cast<double>(conv.bytes)));
  CHECK(conv.gops() == Approx(2e-6 * static_cast<double>(conv.macs) / conv.ms));
  const pare::MachineLimits limits{100, 200, 400, 10};
  CHECK(limits.roof("int8", 1) == 10);
  CHECK(limits.roof("int8", 1000) == 400);
  CHECK(limits.roof("bf16", 1000) == 200);
  const auto text = latency.text(pare::MachineLimits{1, 2, 4, 10});
  CHECK(text.find("% roof") != std::string::npos);
  CHECK(text.find("compute") != std::string::npos);
  const auto own = pare::machine_limits(table);
  CHECK(own.float32_gops > 0);
  CHECK(own.int8_gops > 0);
  CHECK(own.gbytes > 0);
  CHECK(pare::machine_limits(table).gbytes == own.gbytes);  // from the table
}

TEST_CASE("a table that is damaged or another machine's is not believed", "[latency]") {
  const ScratchFolder folder;
  const auto path = [&] {
    pare::LatencyTable table(folder.path().string());
    table.set("step a", 0.5);
    table.set("step ab", 1.5);
    table.save();
    CHECK(table.similar("step a", 6) == 1.0);
    CHECK_FALSE(table.similar("step b", 6).has_value());
    pare::LatencyTable near;
    near.set("work | int8 > int8", 1);
    near.set("work | float32 > int8", 2);
    near.set("work | float32 > bf16", 4);
    CHECK(near.similar("work | float32 > float32", 6) == 3.0);
    CHECK(near.similar("work | int8 > float32", 6) == 1.0);
    return table.path();
  }();
  const auto whole = contents(path);
  const auto read = [&] { return pare::LatencyTable(folder.path().string()); };
  CHECK(read().find("step a") == 0.5);
  // Any byte that changes or is missing.
  for (std::size_t at = 0; at < whole.size(); at += 7) {
    auto text = whole;
    text[at] = text[at] == '1' ? '2' : '1';
    overwrite(path, text);
    CHECK(read().size() == 0);
    CHECK(read().notes().size() == 1);
    overwrite(path, whole.substr(0, at));
    CHECK(read().size() == 0);
  }
  // From another machine, under this one's name.
  overwrite(path, std::regex_replace(whole, std::regex("threads"), "Threads"));
  CHECK(read().size() == 0);
  // The next table that is saved takes its place.
  auto table = read();
  table.set("step c", 2);
  table.save();
  CHECK(read().size() == 1);
  CHECK(read().notes().empty());
  // Other threads are another machine.
  pare::LatencyTable other(folder.path().string(), 7);
  CHECK(other.size() == 0);
  CHECK(other.path() != path);
  CHECK(other.notes().empty());
  CHECK(raises("pare.analysis.111", [&] { table.set("a\tb", 1); }));
  CHECK(raises("pare.analysis.111", [&] { table.set("a", -1); }));
  CHECK(raises("pare.analysis.111", [&] { table.set("a", std::nan("")); }));
  pare::LatencyTable nowhere("/proc/nowhere");
  nowhere.set("a", 1);
  CHECK(raises("pare.analysis.112", [&] { nowhere.save(); }));
}

TEST_CASE("costs: operations, bytes moved, and the most that is alive at once", "[latency]") {
  const auto x = torch::randn({2, 3, 16, 16});
  const pare::Cost cost(chain(x), {2});
  const std::int64_t pixels = 2 * 256;
  const std::int64_t macs = pixels * 8 * 27 + pixels * 8 * 8 + 2 * 8 * 4;
  CHECK(cost.macs() == macs);
  CHECK(cost.flops() == 2 * macs + 2 * pixels * 8 + 2 * 8);  // two activations and a pooling
  REQUIRE(cost.layers().size() == 3);
  const auto& first = cost.layers()[0];
  CHECK(first.parameters == 8 * 27 + 8);
  CHECK(first.bytes == 4 * (pixels * 3 + pixels * 8 + first.parameters));
  CHECK(first.intensity() == Approx(static_cast<double>(2 * first.macs) / static_cast<double>(first.bytes)));
  // While a convolution of 8 to 8 channels runs, or an activation: its operand and its result.
  CHECK(cost.activation_peak() == 4 * pixels * 16);
  CHECK_FALSE(cost.peak_at().empty());
  CHECK(cost.text().find("alive bytes") != std::string::npos);
}
