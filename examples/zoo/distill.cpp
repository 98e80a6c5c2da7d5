#include "examples/zoo/distill.hpp"

#include <fmt/format.h>
#include <torch/torch.h>

#include <algorithm>
#include <charconv>
#include <numeric>

#include "pare/core/error.hpp"
#include "pare/distill/distiller.hpp"
#include "pare/distill/drop_layers.hpp"
#include "pare/distill/hard_targets.hpp"
#include "pare/distill/hints.hpp"
#include "pare/pass/apply.hpp"
#include "pare/prune/pruner.hpp"

namespace zoo {

namespace {

struct Student {
  std::int64_t layers = 0;  // or
  double ratio = 0;
};

Student parse_student(const std::string& text) {
  double number = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool whole = parsed.ec == std::errc() && parsed.ptr == text.data() + text.size();
  if (whole && number > 0 && number < 1) return {0, number};
  if (whole && number >= 1 && number == static_cast<double>(static_cast<std::int64_t>(number)))
    return {static_cast<std::int64_t>(number), 0};
  pare::fail("zoo.107", "", "--student '{}': a number of layers, or a share of multiply-accumulates below 1", text);
}

// Sentences of like length together, cut to the longest of their batch: padding costs time and teaches nothing.
pare::TrainingData by_length(const data::Set& set, std::int64_t batch) {
  const auto lengths = set.inputs.back().sum(1);
  return pare::TrainingData([=](std::int64_t) {
    constexpr std::int64_t kPool = 50;  // batches among which sentences are sorted
    auto order = torch::randperm(set.size());
    std::vector<torch::Tensor> batches;
    for (std::int64_t begin = 0; begin < set.size(); begin += kPool * batch) {
      const auto pool = order.narrow(0, begin, std::min(kPool * batch, set.size() - begin));
      const auto sorted = pool.index_select(0, lengths.index_select(0, pool).argsort());
      for (std::int64_t i = 0; i + batch <= sorted.size(0); i += batch) batches.push_back(sorted.narrow(0, i, batch));
    }
    const auto turns = torch::randperm(static_cast<std::int64_t>(batches.size()));
    const auto count = batches.size();
    return pare::Batches(
        [=](std::size_t position) -> std::optional<pare::Batch> {
          const auto turn = turns[static_cast<std::int64_t>(position)].item<std::int64_t>();
          const auto& index = batches[static_cast<std::size_t>(turn)];
          const auto longest = lengths.index_select(0, index).max().item<std::int64_t>();
          pare::Batch inputs;
          for (const auto& input : set.inputs) inputs.push_back(input.index_select(0, index).narrow(1, 0, longest));
          inputs.push_back(set.labels.index_select(0, index));
          return inputs;
        },
        count);
  });
}

bool has_mask(const data::Set& set) {
  return set.inputs.size() == 2 && !set.inputs[1].is_floating_point() && set.inputs[0].sizes() == set.inputs[1].sizes();
}

pare::TrainingData training_data(const data::Set& set, std::int64_t batch) {
  return has_mask(set) ? by_length(set, batch) : shuffled(set, batch);
}

}  // namespace

void distill(Recipe& recipe, const RecipeOptions& options) {
  const auto student = parse_student(options.student);
  const auto teacher = recipe.model;
  pare::AnyDistillationLoss loss = 0.8 * pare::KnowledgeDistillation{.temperature = 2.0} + 0.2 * pare::HardTargets{};
  if (student.layers > 0) {
    pare::DropLayers drop{.layers = student.layers};
    apply_pass(recipe, options, drop);
    const auto stack = pare::longest_stack(teacher.graph());
    loss = std::move(loss) + pare::Hints{.layers = pare::LayerMap::uniform(stack, stack), .normalize = true};
  } else {
    apply_pass(recipe, options, pare::Pruner<>{.macs = pare::Ratio{student.ratio}});
  }
  if (!options.training.labels.defined() || options.finetune.epochs == 0) return;
  const bool tokens = has_mask(options.training);
  pare::Distiller tutor{.teacher = teacher, .loss = loss, .training = training_data(options.training, 32)};
  tutor.fit.epochs = options.finetune.epochs;
  tutor.fit.rate = tokens ? 1e-4 : 5e-4;
  tutor.fit.warm_up = {0.1};
  tutor.fit.batch_statistics = recipe.model.can_train() && tokens;
  tutor.fit.log = pare::Log::to();
  tutor.fit.progress = pare::Progress::to();
  apply_pass(recipe, options, tutor);
}

}  // namespace zoo
