#include "examples/zoo/qat.hpp"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numbers>

#include "pare/core/error.hpp"
#include "pare/graph/fusion.hpp"
#include "pare/prune/sparse_training.hpp"
#include "pare/quantize/quantization_aware_training.hpp"

namespace zoo {

namespace {

struct BitWidths {
  int weights = 0, activations = 0;
};

BitWidths parse_bits(const std::string& text) {
  BitWidths bits;
  char rest = 0;
  if (std::sscanf(text.c_str(), "%3d,%3d%c", &bits.weights, &bits.activations, &rest) != 2)
    pare::fail("zoo.108", "", "--bits '{}': bits of weights and of activations, 4,8 for instance", text);
  return bits;
}

// What is nearest to the inputs and to the answer, by layer name.
std::vector<std::pair<std::string, pare::Bits>> ends_in_eight_bits(const pare::Graph& graph) {
  std::vector<std::string> layers;
  for (const auto& region : pare::match_regions(graph))
    if (region.weight != pare::kNoValue) layers.push_back(graph.node(region.anchor).name);
  if (layers.empty()) return {};
  return {{layers.front(), {8}}, {layers.back(), {8}}};
}

// Another training than that of a pruned model: `pare::fit` trains Models, and this is none until it is converted.
struct Training {
  std::int64_t batch = 64;
  double rate = 0.003;  // of SGD, after the first tenth, over which it rises; falls along a cosine to zero
  double momentum = 0.9, weight_decay = 1e-4;
};

void train(pare::QuantizationAwareTraining& student, const pare::Model& teacher, const RecipeOptions& options) {
  const torch::AutoGradMode grad(true);
  constexpr Training how;
  const auto& shared = options.finetune;
  const auto& set = options.training;
  torch::manual_seed(shared.seed);
  std::vector<torch::optim::OptimizerParamGroup> groups;
  groups.emplace_back(
      student.model_parameters(),
      std::make_unique<torch::optim::SGDOptions>(torch::optim::SGDOptions(how.rate).weight_decay(how.weight_decay)));
  groups.emplace_back(student.range_parameters(), std::make_unique<torch::optim::SGDOptions>(how.rate));
  for (auto& group : groups)
    static_cast<torch::optim::SGDOptions&>(group.options()).momentum(how.momentum).nesterov(true);
  torch::optim::SGD optimizer(groups, torch::optim::SGDOptions(how.rate));
  const pare::SparseTraining sparse{student.named_parameters(), pare::Masks::of(teacher), optimizer};
  const auto batch = std::min(how.batch, set.size());
  const auto per_epoch = set.size() / batch;
  const auto total = static_cast<double>(std::max<std::int64_t>(per_epoch * shared.epochs, 1));
  for (int epoch = 0; epoch < shared.epochs; ++epoch) {
    student.train();
    if (2 * epoch >= shared.epochs) student.freeze_batch_norm();  // the second half trains what will be run
    const auto order = torch::randperm(set.size());
    for (std::int64_t step = 0; step < per_epoch; ++step) {
      const double time = static_cast<double>(epoch * per_epoch + step) / total;
      for (auto& group : optimizer.param_groups())
        static_cast<torch::optim::SGDOptions&>(group.options())
            .lr(how.rate * std::min(1.0, 10 * time + 0.02) * 0.5 * (1 + std::cos(std::numbers::pi * time)));
      const auto index = order.narrow(0, step * batch, batch);
      std::vector<torch::Tensor> inputs;
      for (const auto& input : set.inputs) inputs.push_back(input.index_select(0, index));
      if (inputs[0].dim() == 4) inputs[0] = augmented(inputs[0]);
      torch::Tensor answer;
      {
        const torch::NoGradGuard no_grad;
        answer = teacher.run(inputs).at(0);
      }
      optimizer.zero_grad();
      distillation_loss(student.run(inputs).at(0), answer, set.labels.index_select(0, index), shared.temperature,
                        shared.teacher_share)
          .backward();
      torch::nn::utils::clip_grad_norm_(student.parameters(), shared.largest_gradient);
      optimizer.step();
    }
  }
  student.eval();
}

}  // namespace

void qat(Recipe& recipe, const RecipeOptions& options) {
  const auto bits = parse_bits(options.bits);
  auto teacher = recipe.model;
  teacher.detach_weights();
  teacher.eval();
  const auto ends = ends_in_eight_bits(teacher.graph());
  pare::QuantizationAwareTraining student{recipe.model,
                                          pare::Quantizer{.weights = {bits.weights},
                                                          .layer_weights = ends,
                                                          .activations = {bits.activations},
                                                          .layer_activations = ends},
                                          options.calibration};
  if (options.training.labels.defined() && options.finetune.epochs > 0) train(student, teacher, options);
  recipe.model = student.convert();
  recipe.report.append(student.report());
}

}  // namespace zoo
