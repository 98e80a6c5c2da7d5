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

std::vector<float> firsts(const pare::Batches& batches) {
  std::vector<float> values;
  for (const auto& batch : batches) values.push_back(batch.at(0).flatten()[0].item<float>());
  return values;
}

torch::Tensor number(double value) { return torch::full({2, 3}, value); }

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
  auto data = torch::data::datasets::TensorDataset({number(0), number(1), number(2), number(3)})
                  .map(torch::data::transforms::Lambda<torch::data::TensorExample>(
                      [](torch::data::TensorExample example) { return example; }))
                  .map(torch::data::transforms::Stack<torch::data::TensorExample>());
  auto loader = torch::data::make_data_loader<torch::data::samplers::SequentialSampler>(std::move(data), 2);
  const auto batches = pare::Batches::over(*loader);
  CHECK(firsts(batches) == std::vector<float>{0, 2});
  CHECK(firsts(batches) == std::vector<float>{0, 2});
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
