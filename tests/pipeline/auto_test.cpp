#include "pare/pipeline/auto.hpp"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "pare/capture/capture.hpp"
#include "pare/numerics/fake_quantize.hpp"
#include "pare/pass/apply.hpp"
#include "pare/pipeline/html_report.hpp"
#include "pare/prune/l2.hpp"
#include "pare/prune/pruner.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

namespace nn = torch::nn;
using namespace pare::literals;

// A classifier of noise; what judges it is its own answers on other noise.
struct AutoFixture {
  explicit AutoFixture(int more = 0) {  // further convolutions
    torch::manual_seed(5);
    net = nn::Sequential(nn::Conv2d(nn::Conv2dOptions(3, 32, 3).padding(1)), nn::BatchNorm2d(32), nn::ReLU(),
                         nn::Conv2d(nn::Conv2dOptions(32, 64, 3).stride(2)), nn::ReLU());
    for (int i = 0; i < more; ++i) {
      net->push_back(nn::Conv2d(nn::Conv2dOptions(64, 64, 3).padding(1)));
      net->push_back(nn::ReLU());
    }
    net->push_back(nn::AdaptiveAvgPool2d(1));
    net->push_back(nn::Flatten());
    net->push_back(nn::Linear(64, 10));
    net->eval();
    for (int i = 0; i < 3; ++i) images.push_back(torch::randn({16, 3, 12, 12}));
    for (int i = 0; i < 8; ++i) unseen.push_back(torch::randn({16, 3, 12, 12}));
    const torch::NoGradGuard no_grad;
    net->ptr<nn::LinearImpl>(net->size() - 1)->bias.sub_(net->forward(torch::cat(images)).mean(0));
    model = pare::capture(net, images[0]);
  }
  [[nodiscard]] pare::AutoOptions options() const {
    pare::AutoOptions result;
    result.calibration = images;
    result.scores = pare::agreement_scores(unseen, model);
    result.seconds = 0.02;
    return result;
  }
  nn::Sequential net{nullptr};
  std::vector<torch::Tensor> images, unseen;
  pare::Model model;
};

}  // namespace

TEST_CASE("auto stops at int8 where the budget is kept, and shows what less would cost", "[auto]") {
  const AutoFixture fixture;
  auto options = fixture.options();
  options.budget.max_drop = 10_pct;
  const auto found = pare::optimize(fixture.model, options);
  CHECK(found.report.within_budget());
  REQUIRE(found.candidates.size() >= 3);
  CHECK(found.candidates[0].name == "float32");
  CHECK(found.candidates[0].drop.drop == 0);
  CHECK(found.candidates[1].name == "int8");
  CHECK(found.candidates[1].kept);
  CHECK(found.candidates[1].drop.low <= found.candidates[1].drop.drop);
  CHECK(found.candidates[1].drop.high >= found.candidates[1].drop.drop);
  CHECK(found.candidates[1].drop.samples == 128);
  for (std::size_t i = 2; i < found.candidates.size(); ++i)
    CHECK(found.candidates[i].stored < found.candidates[1].stored);
  CHECK(found.plan.average_bits() == 8);
  REQUIRE(found.report.drop);
  const auto json = nlohmann::json::parse(found.report.json());
  CHECK(json["drop"]["samples"] == 128);
  CHECK(json["stages"].size() == found.candidates.size());
  CHECK(pare::sqnr_db(found.model(fixture.unseen[0]), found.compiled(fixture.unseen[0])) > 25.0);
  // The same seed and data choose the same.
  const auto again = pare::optimize(fixture.model, options);
  CHECK(again.plan == found.plan);
  CHECK(torch::equal(again.model(fixture.unseen[0]), found.model(fixture.unseen[0])));
}

TEST_CASE("auto mixes bits where int8 is too large to store", "[auto]") {
  const AutoFixture fixture;
  auto options = fixture.options();
  options.explore = 0;
  options.budget.max_drop = 60_pct;
  const auto int8 = pare::optimize(fixture.model, options).candidates[1].stored;
  options.budget.stored = pare::Bytes{int8 * 3 / 4};
  const auto found = pare::optimize(fixture.model, options);
  CHECK(found.report.within_budget());
  CHECK(found.candidates.back().kept);
  CHECK(found.candidates.back().stored <= int8 * 3 / 4);
  CHECK(found.plan.average_bits() < 8);
  CHECK(found.plan.average_bits() > 4);
  CHECK(found.evaluations > 0);
}

TEST_CASE("auto comes as near to a size as the accuracy allows", "[auto]") {
  const AutoFixture fixture(2);
  auto options = fixture.options();
  options.explore = 7;
  const auto all = pare::optimize(fixture.model, options).candidates;
  REQUIRE(all.size() >= 4);
  const auto& int8 = all[1];
  const auto* smallest = &int8;
  for (const auto& one : all)
    if (one.stored < smallest->stored) smallest = &one;
  const pare::Candidate* between = nullptr;  // loses less than the smallest
  for (const auto& one : all)
    if (one.stored < int8.stored && one.drop.drop < smallest->drop.drop && one.drop.drop >= 0) between = &one;
  REQUIRE(between != nullptr);
  options.budget.max_drop = pare::Ratio{std::max(between->drop.drop, int8.drop.drop)};
  options.budget.stored = pare::Bytes{smallest->stored};
  const auto found = pare::optimize(fixture.model, options);
  CHECK_FALSE(found.report.within_budget());
  CHECK(found.report.shortfall.find("bytes stored") != std::string::npos);
  const auto kept = std::ranges::find_if(found.candidates, &pare::Candidate::kept);
  REQUIRE(kept != found.candidates.end());
  CHECK(kept->drop.drop <= options.budget.max_drop->fraction);
  CHECK(kept->stored > smallest->stored);
  CHECK(kept->stored < int8.stored);
  CHECK(found.plan.average_bits() < 8);
}

TEST_CASE("auto leaves layers float rather than break the budget", "[auto]") {
  const AutoFixture fixture;
  auto options = fixture.options();
  options.budget.max_drop = 0_pct;
  // Only what computes exactly as the original does is right.
  options.scores = [&](const pare::Predictor& predict) {
    const torch::NoGradGuard no_grad;
    const auto expected = fixture.model(fixture.unseen[0]);
    return predict({fixture.unseen[0]})[0].sub(expected).abs().amax(1).lt(1e-5).to(torch::kDouble);
  };
  const auto found = pare::optimize(fixture.model, options);
  CHECK(found.report.within_budget());
  CHECK(found.candidates[0].drop.drop == 0);
  CHECK_FALSE(found.candidates[1].kept);
  for (const auto& candidate : found.candidates)
    if (candidate.kept) CHECK(candidate.drop.drop <= 0);
  CHECK(found.candidates[1].reason.find("the metric falls by") == 0);
}

TEST_CASE("a budget that cannot be reached gives the best reached and names what binds", "[auto]") {
  const AutoFixture fixture;
  auto options = fixture.options();
  options.explore = 0;
  options.budget.max_drop = 5_pct;
  options.budget.bytes = 10_B;
  const auto found = pare::optimize(fixture.model, options);
  CHECK_FALSE(found.report.within_budget());
  CHECK(found.report.shortfall.find("bytes of compiled weights, 10 allowed") != std::string::npos);
  CHECK(*found.report.after.metric >= 0.95);
}

TEST_CASE("the interval of a drop is that of paired samples", "[auto]") {
  const auto before = torch::ones({100}), same = torch::ones({100});
  const auto nothing = pare::estimate_drop(before, same);
  CHECK(nothing.drop == 0);
  CHECK(nothing.high > 0.01);  // no change seen in 100 samples is no proof
  CHECK(nothing.high < 0.05);
  auto worse = torch::ones({100});
  worse.slice(0, 0, 10).zero_();
  const auto ten = pare::estimate_drop(before, worse);
  CHECK(ten.drop == Approx(0.1));
  CHECK(ten.low > 0);
  CHECK(ten.high < 0.2);
  const auto graded = pare::estimate_drop(torch::linspace(0, 1, 50) + 0.25, torch::linspace(0, 1, 50));
  CHECK(graded.drop == Approx(0.25));
  CHECK(graded.high - graded.low < 1e-6);
  CHECK(raises("pare.pipeline.104", [&] { (void)pare::estimate_drop(before, torch::ones({3})); }));
}

TEST_CASE("auto times a model of fixed sizes on a whole batch", "[auto]") {
  AutoFixture fixture;
  fixture.model = pare::capture(fixture.net, fixture.images[0], {.fixed_sizes = true});
  auto options = fixture.options();
  options.explore = 0;
  const auto found = pare::optimize(fixture.model, options);
  CHECK(found.report.within_budget());
  for (const auto& candidate : found.candidates) CHECK(candidate.measured.latency.median_ms > 0);
}

TEST_CASE("bad input to auto is one clear error", "[auto]") {
  const AutoFixture fixture;
  auto options = fixture.options();
  const auto run = [&] { (void)pare::optimize(fixture.model, options); };
  SECTION("a drop that nothing judges") {
    options.scores = {};
    options.budget.max_drop = 1_pct;
    CHECK(raises("pare.pipeline.101", run));
  }
  SECTION("no calibration") {
    options.calibration = {};
    CHECK(raises("pare.pipeline.102", run));
  }
  SECTION("an example that does not fit, before anything is judged") {
    options.example = {torch::randn({3, 12, 12})};
    options.scores = [](const pare::Predictor&) -> torch::Tensor { throw std::runtime_error("judged"); };
    CHECK(raises("pare.run.103", run));
  }
  SECTION("scores that are not numbers") {
    options.scores = [](const pare::Predictor&) { return torch::full({4}, std::nan("")); };
    CHECK(raises("pare.pipeline.103", run));
  }
  SECTION("scores that turn bad half-way") {
    options.scores = [count = 0](const pare::Predictor&) mutable {
      if (++count > 2) throw std::runtime_error("the data went away");
      return torch::ones({4});
    };
    CHECK_THROWS_WITH(run(), "the data went away");
  }
  SECTION("other labels than samples") {
    options.scores = pare::top1_scores(fixture.unseen, torch::zeros({3}, torch::kLong));
    CHECK(raises("pare.pipeline.104", run));
  }
  SECTION("outputs that are no classes") {
    options.scores = [](const pare::Predictor&) {
      return pare::top1_scores({torch::zeros({2, 3})}, torch::zeros({2}, torch::kLong))([](const auto& batch) {
        return std::vector<torch::Tensor>{batch[0].unsqueeze(2).expand({2, 3, 4})};
      });
    };
    CHECK(raises("pare.pipeline.104", run));
  }
  SECTION("cancelled") {
    options.cancelled = [] { return true; };
    CHECK(raises("pare.pipeline.105", run));
  }
  const torch::NoGradGuard no_grad;
  auto net = fixture.net;
  CHECK(torch::equal(fixture.model(fixture.images[0]), net->forward(fixture.images[0])));
}

TEST_CASE("the report is one page that needs nothing else", "[auto]") {
  const AutoFixture fixture;
  auto options = fixture.options();
  options.budget.max_drop = 10_pct;
  auto found = pare::optimize(fixture.model, options);
  found.candidates[1].reason = "<script>\"a & b\"</script>";
  const auto page = pare::html_report(found, {.title = "a <b> & c",
                                              .watts = 30,
                                              .grams_per_kwh = 400,
                                              .price_per_kwh = 0.3,
                                              .currency = "EUR",
                                              .samples = {fixture.unseen[0]}});
  const auto has = [&](std::string_view text) { return page.find(text) != std::string::npos; };
  CHECK(page.starts_with("<!doctype html>"));
  CHECK(has("</html>"));
  for (const auto* outside : {"http:", "https:", "<script", "@import", "url("}) CHECK_FALSE(has(outside));
  // Pictures are in the page itself.
  std::size_t pictures = 0;
  for (auto at = page.find("src="); at != std::string::npos; at = page.find("src=", at + 1), ++pictures)
    CHECK(page.substr(at, 27) == "src=\"data:image/bmp;base64,");
  CHECK(pictures == 3 * (1 + 2 * 2));  // three samples, each beside both convolutions before and after
  CHECK(has("<title>a &lt;b&gt; &amp; c</title>"));
  CHECK(has("prefers-color-scheme:dark"));
  CHECK(has("width=device-width"));
  CHECK(has("&lt;script&gt;&quot;a &amp; b&quot;&lt;/script&gt;"));
  for (const auto* part : {"float32", "A million inferences", "CO2", "What each layer bears", "Layers", "Time",
                           "<circle", "0, before", "3, after", "class=\"outline\""})
    CHECK(has(part));
  for (const auto* number : {">nan", ">inf", "\"nan", "\"inf"}) CHECK_FALSE(has(number));

  const auto folder = std::filesystem::temp_directory_path() / "pare_html_report_test";
  std::filesystem::create_directories(folder);
  const auto path = (folder / "report.html").string();
  pare::write_html_report(path, found);
  CHECK(std::filesystem::file_size(path) > 2000);
  for (const auto& file : std::filesystem::directory_iterator(folder)) CHECK(file.path() == path);  // no draft
  CHECK(raises("pare.pipeline.106", [&] { pare::write_html_report((folder / "none" / "r.html").string(), found); }));
  std::filesystem::remove_all(folder);
}

TEST_CASE("the report of a model that was pruned before counts from there", "[auto]") {
  const AutoFixture fixture;
  const pare::Pruner half{.importance = pare::L2{}, .ratio = 50_pct};
  const auto once = pare::apply(half, fixture.model).model;
  auto options = fixture.options();
  options.explore = 0;
  auto found = pare::optimize(once, options);
  found.model = pare::apply(half, once).model;
  const auto page = pare::html_report(found);
  CHECK(page.find("8 of 16") != std::string::npos);
  CHECK(page.find("16 of 32") != std::string::npos);
}

TEST_CASE("the report draws metrics that differ by rounding alone", "[auto]") {
  const AutoFixture fixture;
  auto options = fixture.options();
  options.explore = 0;
  auto found = pare::optimize(fixture.model, options);
  found.candidates.resize(2);
  found.candidates[0].measured.metric = 0.9;
  found.candidates[1].measured.metric = std::nextafter(0.9, 1.0);
  CHECK(pare::html_report(found).find("<circle") != std::string::npos);
}
