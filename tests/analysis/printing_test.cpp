// What groups of channels and costs look like in print.
#include <torch/torch.h>

#include <algorithm>
#include <sstream>

#include "pare/analysis/channel_groups.hpp"
#include "pare/analysis/cost.hpp"
#include "pare/capture/capture.hpp"
#include "tests/support/catch.hpp"

namespace {

struct Printed : torch::nn::Module {
  Printed() {
    stem = register_module("stem", torch::nn::Linear(6, 10));
    norm = register_module("norm", torch::nn::BatchNorm1d(10));
    body =
        register_module("body", torch::nn::Sequential(torch::nn::Linear(10, 8), torch::nn::ReLU(),
                                                      torch::nn::Linear(torch::nn::LinearOptions(8, 3).bias(false))));
    eval();
  }
  // The number of channels of the stem is written in.
  torch::Tensor forward(const torch::Tensor& x) { return body->forward(norm(stem(x)).view({x.size(0), 10})); }
  torch::nn::Linear stem{nullptr};
  torch::nn::BatchNorm1d norm{nullptr};
  torch::nn::Sequential body{nullptr};
};

std::vector<std::string> printed_lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

std::vector<std::string> words_of(const std::string& line) {
  std::istringstream stream(line);
  return {std::istream_iterator<std::string>(stream), {}};
}

template <class T>
std::string streamed(const T& value) {
  std::ostringstream stream;
  stream << value;
  return stream.str();
}

// The row of a table that begins with this word; how far it is indented tells the depth.
struct PrintedRow {
  std::size_t depth = 0;
  std::vector<std::string> words;
  [[nodiscard]] bool has(std::int64_t number) const {
    return std::ranges::find(words, std::to_string(number)) != words.end();
  }
};

PrintedRow row_of(const std::string& text, const std::string& name) {
  for (const auto& line : printed_lines(text))
    if (const auto words = words_of(line); !words.empty() && words[0] == name)
      return {line.find_first_not_of(' '), words};
  INFO(text);
  FAIL("no row is named " << name);
  return {};
}

}  // namespace

TEST_CASE("a channel group prints its name, its size and a line for all that goes with a unit", "[channel_groups]") {
  Printed net;
  const pare::ChannelGroups groups(pare::capture(net, torch::randn({2, 6})));
  const auto& group = groups.group("stem.weight:0");
  REQUIRE_FALSE(group.is_frozen());
  REQUIRE_FALSE(group.constants.empty());
  const auto text = group.text();
  INFO(text);
  const auto lines = printed_lines(text);
  REQUIRE(lines.size() == 1 + group.slices.size() + group.constants.size());
  CHECK(text.ends_with('\n'));
  CHECK(lines[0] == "stem.weight:0, 10 units");
  for (std::size_t i = 0; i < group.slices.size(); ++i) {
    const auto& slice = group.slices[i];
    CHECK(words_of(lines[1 + i])[0] == slice.path);
    CHECK(lines[1 + i].find(fmt::format(" axis {}, 1 of 10 a unit", slice.dim)) != std::string::npos);
  }
  for (std::size_t i = 0; i < group.constants.size(); ++i)
    CHECK(lines[1 + group.slices.size() + i].find(group.constants[i]) != std::string::npos);
  // The size that is written into the view is named with its layer.
  CHECK(group.constants[0].find("view") != std::string::npos);
  CHECK(group.constants[0].find("10") != std::string::npos);
  CHECK(fmt::format("{}", group) == text);
  CHECK(streamed(group) == text);
}

TEST_CASE("units that take up several entries, and why a group must stay, are printed", "[channel_groups]") {
  pare::ChannelGroup group;
  group.name = "heads.weight:0";
  group.units = {4, 9};
  group.slices.resize(2);
  group.slices[0].path = "heads.weight";
  group.slices[0].count = 24;
  group.slices[0].entries = 12;
  group.slices[1].path = "out.weight";
  group.slices[1].dim = 1;
  group.slices[1].count = 8;
  group.slices[1].entries = 4;
  CHECK(group.size() == 2);
  auto lines = printed_lines(fmt::format("{}", group));
  REQUIRE(lines.size() == 3);
  CHECK(lines[0] == "heads.weight:0, 2 units");
  CHECK(lines[1].find("axis 0, 12 of 24 a unit") != std::string::npos);
  CHECK(lines[2].find("axis 1, 4 of 8 a unit") != std::string::npos);
  CHECK(lines[1].find("axis") == lines[2].find("axis"));  // paths of other lengths, one column
  group.frozen = "they are the model's output";
  lines = printed_lines(group.text());
  CHECK(lines[0].find("they are the model's output") != std::string::npos);
  CHECK(lines[0].starts_with("heads.weight:0, 2 units"));
}

TEST_CASE("a cost prints as a tree of modules, each with what its children cost", "[cost]") {
  Printed net;
  const pare::Cost cost(pare::capture(net, torch::randn({2, 6})));
  REQUIRE(cost.macs() == 60 + 80 + 24);
  REQUIRE(cost.parameters() == 70 + 20 + 88 + 24);
  const auto text = cost.text();
  const auto whole = row_of(text, "(model)"), stem = row_of(text, "stem"), body = row_of(text, "body");
  const auto first = row_of(text, "0"), last = row_of(text, "2");
  CHECK(whole.has(cost.macs()));
  CHECK(whole.has(cost.parameters()));
  CHECK(whole.has(cost.flops()));
  CHECK(whole.has(cost.activation_peak()));
  CHECK(stem.has(60));
  CHECK(stem.has(70));
  CHECK(body.has(80 + 24));
  CHECK(body.has(88 + 24));
  CHECK(first.has(80));
  CHECK(first.has(88));
  CHECK(last.has(24));
  CHECK(row_of(text, "norm").has(20));
  CHECK(whole.depth < stem.depth);
  CHECK(stem.depth == body.depth);
  CHECK(body.depth < first.depth);
  CHECK(first.depth == last.depth);
  CHECK(fmt::format("{}", cost) == text);
  CHECK(streamed(cost) == text);
}

TEST_CASE("a cost prints what it was counted at", "[cost]") {
  Printed net;
  const auto model = pare::capture(net, torch::randn({2, 6}));
  CHECK(row_of(pare::Cost(model, {5}).text(), "stem").has(5 * 60));
  CHECK(row_of(pare::Cost(model, {5}).text(), "stem").has(70));
}
