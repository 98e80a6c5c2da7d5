// Batches, the log and progress: what the host hands in.
#include "pare/core/batches.hpp"

#include <torch/torch.h>

#include <cstdio>
#include <list>
#include <string>
#include <vector>

#include "pare/core/log.hpp"
#include "pare/core/progress.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

std::vector<float> firsts_from(pare::Batches::Iterator it) {
  std::vector<float> values;
  for (; it != std::default_sentinel; ++it) values.push_back(it->at(0).flatten()[0].item<float>());
  return values;
}

std::vector<float> firsts(const pare::Batches& batches) { return firsts_from(batches.begin()); }

torch::Tensor number(double value) { return torch::full({2, 3}, value); }

// A data set of LibTorch, in batches of tensors without labels.
auto numbers(int count) {
  std::vector<torch::Tensor> examples;
  for (int i = 0; i < count; ++i) examples.push_back(number(i));
  return torch::data::datasets::TensorDataset(examples)
      .map(torch::data::transforms::Lambda<torch::data::TensorExample>(
          [](torch::data::TensorExample example) { return example; }))
      .map(torch::data::transforms::Stack<torch::data::TensorExample>());
}

}  // namespace

TEST_CASE("batches come from tensors, batches and generators, and can be read again", "[core]") {
  const std::vector<float> expected{0, 1, 2};
  const auto same_twice = [&](const pare::Batches& batches) {
    return firsts(batches) == expected && firsts(batches) == expected && !batches.empty();
  };
  const std::vector<torch::Tensor> tensors{number(0), number(1), number(2)};
  CHECK(same_twice({number(0), number(1), number(2)}));
  CHECK(same_twice(tensors));
  CHECK(same_twice(std::vector<pare::Batch>{{number(0), number(9)}, {number(1)}, {number(2)}}));
  CHECK(same_twice(std::list<torch::Tensor>(tensors.begin(), tensors.end())));
  CHECK(same_twice([](std::size_t i) { return i < 3 ? std::optional(pare::Batch{number(double(i))}) : std::nullopt; }));
  CHECK(same_twice(pare::Batches([](std::size_t i) { return std::optional(pare::Batch{number(double(i))}); }, 3)));
  CHECK(pare::Batches(tensors).size() == 3);
  CHECK_FALSE(pare::Batches([](std::size_t) { return std::optional<pare::Batch>(); }).size().has_value());
}

TEST_CASE("no batches are empty, first() shortens", "[core]") {
  CHECK(pare::Batches{}.empty());
  CHECK(pare::Batches{}.size() == 0);
  CHECK(pare::Batches(std::vector<torch::Tensor>{}).empty());
  CHECK(pare::Batches([](std::size_t) { return std::optional<pare::Batch>(); }).empty());
  const pare::Batches three{number(0), number(1), number(2)};
  CHECK(firsts(three.first(2)) == std::vector<float>{0, 1});
  CHECK(three.first(2).size() == 2);
  CHECK(firsts(three.first(9)).size() == 3);
  CHECK(three.first(9).size() == 3);
  CHECK(three.first(0).empty());
}

TEST_CASE("a generator that ends early is an error", "[core]") {
  const pare::Batches short_one(
      [](std::size_t i) { return i < 1 ? std::optional(pare::Batch{number(0)}) : std::nullopt; }, 2);
  CHECK(raises("pare.core.101", [&] { firsts(short_one); }));
}

TEST_CASE("a data loader is a range of batches", "[core]") {
  auto loader = torch::data::make_data_loader<torch::data::samplers::SequentialSampler>(numbers(4), 2);
  const auto batches = pare::Batches::over(*loader);
  CHECK(firsts(batches) == std::vector<float>{0, 2});
  CHECK(firsts(batches) == std::vector<float>{0, 2});
}

TEST_CASE("a data loader with workers is begun again wherever reading stopped", "[core]") {
  const auto data = numbers(12);
  const auto loader = torch::data::make_data_loader<torch::data::samplers::SequentialSampler>(
      data, torch::data::DataLoaderOptions(2).workers(2));
  const auto batches = pare::Batches::over(*loader);
  const std::vector<float> all{0, 2, 4, 6, 8, 10};
  CHECK_FALSE(batches.empty());
  CHECK(firsts(batches) == all);
  CHECK(firsts(batches.first(2)) == std::vector<float>{0, 2});
  CHECK(batches.begin()->front()[0][0][0].item<float>() == 0);
  CHECK(firsts(batches) == all);
  for (const auto& batch : batches)
    if (batch.front()[0][0][0].item<float>() == 4) break;
  std::size_t own = 0;
  for (const auto& example : *loader) own += static_cast<std::size_t>(example.data.size(0));  // the user's own loop
  CHECK(own == 12);
  auto once = batches.begin();
  for (; once != batches.end(); ++once) {
  }
  once = batches.begin();  // the reading before is over, and is dropped only now
  CHECK(firsts_from(once) == all);
}

TEST_CASE("the log goes to the host's sink, from its threshold on", "[core]") {
  std::vector<std::string> lines;
  const auto sink = [&](pare::Severity, std::string_view line) { lines.emplace_back(line); };
  const pare::Log info(sink), warnings(sink, pare::Severity::Warning), silent;
  info.info("{} of {}", 1, 2);
  info.debug("not shown");
  warnings.info("not shown");
  warnings.warning("shown");
  silent.warning("nobody listens");
  CHECK(lines == std::vector<std::string>{"1 of 2", "shown"});
}

TEST_CASE("progress outside a terminal is plain lines", "[core]") {
  std::FILE* file = std::tmpfile();
  REQUIRE(file);
  {
    const auto progress = pare::Progress::to(file);
    auto known = progress.start("calibrate", 2);
    known.advance();
    known.advance();
    auto unknown = progress.start("search");
    unknown.advance(5);
  }
  std::rewind(file);
  std::string text(256, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), file));
  std::fclose(file);
  CHECK(text == "calibrate: 2 steps\nsearch: started\nsearch: 5 done\ncalibrate: 2/2 done\n");
}
