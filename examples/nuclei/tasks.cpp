#include "examples/nuclei/tasks.hpp"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>

#include "examples/nuclei/segmentation.hpp"
#include "pare/core/error.hpp"

namespace nuclei {

namespace {

constexpr std::int64_t kCell = 4;

// Sorted by name, as the pictures are loaded.
std::map<std::string, std::int64_t> positions_of(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder / "images"))
    if (entry.path().extension() == ".png") names.push_back(entry.path().filename().string());
  std::ranges::sort(names);
  std::map<std::string, std::int64_t> positions;
  for (const auto& name : names) positions.emplace(name, static_cast<std::int64_t>(positions.size()));
  return positions;
}

// A 1 at the middle of each box, and what is left of it a cell and two further on.
torch::Tensor centre_maps(const std::filesystem::path& folder, std::int64_t count, std::int64_t side) {
  const auto positions = positions_of(folder);
  auto maps = torch::zeros({count, 1, side, side});
  auto at = maps.accessor<float, 4>();
  std::ifstream file(folder / "boxes.csv");
  std::string line;
  std::getline(file, line);
  while (std::getline(file, line)) {
    const auto comma = line.find(',');
    const auto found = positions.find(line.substr(0, comma));
    int x0 = 0, y0 = 0, x1 = 0, y1 = 0;
    if (comma == std::string::npos || found == positions.end() ||
        std::sscanf(line.c_str() + comma, ",%d,%d,%d,%d", &x0, &y0, &x1, &y1) != 4)
      pare::fail("nuclei.102", (folder / "boxes.csv").string(), "not a picture of the folder and a box: '{}'", line);
    const auto cell = [&](int low, int high) {
      return std::clamp<std::int64_t>((low + high) / 2 / kCell, 0, side - 1);
    };
    at[found->second][0][cell(y0, y1)][cell(x0, x1)] = 1;
  }
  const auto kernel = torch::tensor({{0.1F, 0.3F, 0.1F}, {0.3F, 1.0F, 0.3F}, {0.1F, 0.3F, 0.1F}}).view({1, 1, 3, 3});
  return torch::conv2d(maps, kernel, {}, 1, 1).clamp_max(1);
}

torch::Tensor distance_maps(const torch::Tensor& insides) {
  constexpr int kSteps = 8;
  auto left = insides;
  auto sum = torch::zeros_like(insides);
  for (int i = 0; i < kSteps; ++i) {
    sum += left;
    left = -torch::max_pool2d(-left, 3, 1, 1);  // a pixel off every edge
  }
  return sum / kSteps;
}

// 1 at peaks that are high enough.
torch::Tensor peaks(const torch::Tensor& heat, double threshold) {
  return heat.eq(torch::max_pool2d(heat, 3, 1, 1)).logical_and(heat.gt(threshold)).to(torch::kFloat);
}

torch::Tensor share(const torch::Tensor& found, const torch::Tensor& around) {
  const auto near = torch::max_pool2d(around, 3, 1, 1);
  const auto count = found.sum({1, 2, 3});
  return torch::where(count > 0, (found * near).sum({1, 2, 3}) / count.clamp_min(1), torch::ones_like(count));
}

torch::Tensor detection(const torch::Tensor& logits, const torch::Tensor& centres) {
  const auto found = peaks(torch::sigmoid(logits), 0.4), truth = centres.ge(1).to(torch::kFloat);
  const auto precision = share(found, truth), recall = share(truth, found);
  return 2 * precision * recall / (precision + recall).clamp_min(1e-6);
}

torch::Tensor overlap(const torch::Tensor& logits, const torch::Tensor& insides) {
  const auto found = logits.gt(0).to(torch::kFloat);
  return (2 * (found * insides).sum({1, 2, 3}) + 1) / (found.sum({1, 2, 3}) + insides.sum({1, 2, 3}) + 1);
}

torch::Tensor closeness(const torch::Tensor& distance, const torch::Tensor& truth) {
  return (1 - (distance - truth).abs().sum({1, 2, 3}) / truth.sum({1, 2, 3}).clamp_min(1)).clamp_min(0);
}

using Score = torch::Tensor (*)(const torch::Tensor& output, const torch::Tensor& truth);

// Each picture by itself.
pare::SampleScores scores_of(const torch::Tensor& images, const torch::Tensor& truth, std::size_t output, Score score) {
  return [=](const pare::Predictor& predict) {
    const torch::NoGradGuard no_grad;
    std::vector<torch::Tensor> all;
    for (std::int64_t i = 0; i < images.size(0); ++i)
      all.push_back(score(predict({images.narrow(0, i, 1)}).at(output), truth.narrow(0, i, 1)));
    return torch::cat(all);
  };
}

}  // namespace

TaskSamples TaskSamples::rows(std::int64_t first, std::int64_t count) const {
  return {images.narrow(0, first, count), centres.narrow(0, first, count), insides.narrow(0, first, count),
          distances.narrow(0, first, count)};
}

TaskSamples load_tasks(const std::string& folder, const std::string& part) {
  const auto samples = load(folder, part);
  const auto& images = samples.images;
  return {images, centre_maps(std::filesystem::path(folder) / part, images.size(0), images.size(2) / kCell),
          samples.masks, distance_maps(samples.masks)};
}

pare::TrainingData pieces_of(const TaskSamples& samples, std::int64_t side, std::int64_t batch, std::uint64_t seed) {
  return pare::TrainingData([=](std::int64_t epoch) {
    auto random = at::make_generator<at::CPUGeneratorImpl>(seed * 1000003 + static_cast<std::uint64_t>(epoch));
    const auto count = samples.images.size(0), steps = count / batch;
    const auto order = torch::randperm(count, random);
    const auto cells = (samples.images.size(2) - side) / kCell + 1;
    const auto draws = torch::randint(0, cells, {steps, 2}, random), turns = torch::randint(0, 8, {steps}, random);
    return pare::Batches(
        [=](std::size_t position) -> std::optional<pare::Batch> {
          const auto step = static_cast<std::int64_t>(position);
          const auto index = order.narrow(0, step * batch, batch);
          const auto top = draws[step][0].item<std::int64_t>(), left = draws[step][1].item<std::int64_t>();
          const auto turn = turns[step].item<std::int64_t>();
          const auto cut = [&](const torch::Tensor& all, std::int64_t cell) {
            auto piece = all.index_select(0, index).narrow(2, top * cell, side * cell / kCell);
            piece = torch::rot90(piece.narrow(3, left * cell, side * cell / kCell), turn % 4, {2, 3});
            return (turn < 4 ? piece : piece.flip(3)).contiguous();
          };
          return pare::Batch{cut(samples.images, kCell), cut(samples.centres, 1), cut(samples.insides, kCell),
                             cut(samples.distances, kCell)};
        },
        static_cast<std::size_t>(steps));
  });
}

torch::Tensor task_loss(const std::vector<torch::Tensor>& outputs, const std::vector<torch::Tensor>& targets) {
  const auto logits = outputs.at(1), belief = torch::sigmoid(logits);
  const auto both = (belief * targets.at(1)).sum({1, 2, 3});
  const auto dice = (2 * both + 1) / (belief.sum({1, 2, 3}) + targets[1].sum({1, 2, 3}) + 1);
  // Few cells are centres.
  const auto centres = torch::binary_cross_entropy_with_logits(outputs[0], targets[0], 1 + 10 * targets[0]);
  return 3 * centres + torch::binary_cross_entropy_with_logits(logits, targets[1]) + 1 - dice.mean() +
         4 * (outputs.at(2) - targets.at(2)).abs().mean();
}

std::vector<pare::Head> task_heads(const TaskSamples& samples) {
  return {{"detection", scores_of(samples.images, samples.centres, 0, detection)},
          {"segmentation", scores_of(samples.images, samples.insides, 1, overlap)},
          {"distance", scores_of(samples.images, samples.distances, 2, closeness)}};
}

}  // namespace nuclei
