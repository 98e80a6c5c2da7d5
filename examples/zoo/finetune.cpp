#include "examples/zoo/finetune.hpp"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "pare/graph/fusion.hpp"
#include "pare/prune/sparse_training.hpp"

namespace zoo {

torch::Tensor augmented(const torch::Tensor& images) {
  constexpr std::int64_t kSmall = 64;
  auto batch = torch::where(torch::rand({images.size(0), 1, 1, 1}).lt(0.5), images.flip(3), images);
  const auto side = images.size(3);
  if (side > kSmall) return batch;
  const auto reach = side / 8;
  const auto padded = torch::constant_pad_nd(batch, {reach, reach, reach, reach});
  const auto shifts = torch::randint(2 * reach + 1, {images.size(0), 2});
  std::vector<torch::Tensor> moved;
  for (std::int64_t i = 0; i < images.size(0); ++i)
    moved.push_back(padded[i]
                        .narrow(1, shifts[i][0].item<std::int64_t>(), images.size(2))
                        .narrow(2, shifts[i][1].item<std::int64_t>(), side));
  return torch::stack(moved);
}

torch::Tensor distillation_loss(const torch::Tensor& student, const torch::Tensor& teacher, const torch::Tensor& labels,
                                const FinetuneOptions& options) {
  namespace F = torch::nn::functional;
  const double t = options.temperature;
  const auto softened = F::kl_div(torch::log_softmax(student / t, 1), torch::log_softmax(teacher / t, 1),
                                  F::KLDivFuncOptions().reduction(torch::kBatchMean).log_target(true));
  if (options.teacher_share >= 1) return t * t * softened;
  return options.teacher_share * t * t * softened + (1 - options.teacher_share) * F::cross_entropy(student, labels);
}

namespace {

// A residual sum that student and teacher both have.
struct Hidden {
  pare::ValueId value = pare::kNoValue;
  torch::Tensor kept = {};  // the channels of the teacher's that the student kept; undefined: all
};

// All of them, in the order of the graph.
std::vector<Hidden> hidden_of(const pare::Model& student, const pare::Model& teacher) {
  std::vector<Hidden> all;
  const auto& graph = student.graph();
  for (const auto& region : pare::match_regions(graph)) {
    if (region.residual_add == pare::kNoNode || region.weight == pare::kNoValue) continue;
    if (!teacher.graph().contains(region.residual_add)) continue;
    Hidden hidden{graph.node(region.residual_add).output(), {}};
    for (const auto& step : student.weights().narrowings(graph.value(region.weight).name)) {
      if (step.dim != 0) continue;
      const auto kept = torch::tensor(step.kept);
      hidden.kept = hidden.kept.defined() ? hidden.kept.index_select(0, kept) : kept;
    }
    all.push_back(std::move(hidden));
  }
  return all;
}

using Seen = std::vector<torch::Tensor>;

torch::Tensor run(const pare::Model& model, const std::vector<torch::Tensor>& inputs, const std::vector<Hidden>& wanted,
                  Seen& seen) {
  seen.resize(wanted.size());
  return model
      .run(inputs,
           [&](pare::ValueId id, const torch::Tensor& tensor) {
             for (std::size_t i = 0; i < wanted.size(); ++i)
               if (wanted[i].value == id) seen[i] = tensor;
           })
      .at(0);
}

// Mean square differences, each by the variance of the teacher's. What the classifier reads counts as much as all
// that leads there.
torch::Tensor hidden_loss(const std::vector<Hidden>& hidden, const Seen& student, const Seen& teacher) {
  torch::Tensor loss;
  for (std::size_t i = 0; i < hidden.size(); ++i) {
    const auto theirs = hidden[i].kept.defined() ? teacher[i].index_select(1, hidden[i].kept) : teacher[i];
    const bool last = i + 1 == hidden.size();
    const auto weight = last ? 1.0 : 1.0 / static_cast<double>(hidden.size() - 1);
    const auto part = weight * (student[i] - theirs).square().mean() / (theirs.var() + 1e-6);
    loss = loss.defined() ? loss + part : part;
  }
  return loss;
}

}  // namespace

double finetune(pare::Model& student, pare::Model teacher, const data::Set& train, const FinetuneOptions& options) {
  const torch::AutoGradMode grad(true);
  torch::manual_seed(options.seed);
  student.detach_weights();
  teacher.eval();
  for (auto& parameter : student.parameters()) parameter.requires_grad_(true);
  torch::optim::SGD optimizer(student.parameters(), torch::optim::SGDOptions(options.rate)
                                                        .momentum(options.momentum)
                                                        .weight_decay(options.weight_decay)
                                                        .nesterov(true));
  const auto hidden = options.hidden_share > 0 ? hidden_of(student, teacher) : std::vector<Hidden>{};
  const pare::SparseTraining sparse{student, pare::Masks::of(student), optimizer};
  const auto per_epoch = train.size() / options.batch;
  const auto total = static_cast<double>(std::max<std::int64_t>(per_epoch * options.epochs, 1));
  double mean = 0;
  student.train(options.batch_statistics);
  for (int epoch = 0; epoch < options.epochs; ++epoch) {
    const auto order = torch::randperm(train.size());
    mean = 0;
    for (std::int64_t step = 0; step < per_epoch; ++step) {
      const double time = static_cast<double>(epoch * per_epoch + step) / total;
      static_cast<torch::optim::SGDOptions&>(optimizer.param_groups()[0].options())
          .lr(options.rate * std::min(1.0, 10 * time + 0.02) * 0.5 * (1 + std::cos(std::numbers::pi * time)));
      const auto index = order.narrow(0, step * options.batch, options.batch);
      std::vector<torch::Tensor> inputs;
      for (const auto& input : train.inputs) inputs.push_back(input.index_select(0, index));
      if (inputs[0].dim() == 4) inputs[0] = augmented(inputs[0]);
      torch::Tensor answer;
      Seen theirs, own;
      {
        const torch::NoGradGuard no_grad;
        answer = run(teacher, inputs, hidden, theirs);
      }
      optimizer.zero_grad();
      const auto own_answer = run(student, inputs, hidden, own);
      auto loss = distillation_loss(own_answer, answer, train.labels.index_select(0, index), options);
      if (!hidden.empty()) loss = loss + options.hidden_share * hidden_loss(hidden, own, theirs);
      loss.backward();
      torch::nn::utils::clip_grad_norm_(student.parameters(), options.largest_gradient);
      optimizer.step();
      mean += loss.item<double>() / static_cast<double>(per_epoch);
    }
  }
  student.eval();
  return mean;
}

}  // namespace zoo
