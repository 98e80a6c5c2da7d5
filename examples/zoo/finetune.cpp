#include "examples/zoo/finetune.hpp"

#include <torch/torch.h>

#include <algorithm>

#include "pare/distill/fit.hpp"
#include "pare/graph/fusion.hpp"

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

pare::TrainingData shuffled(const data::Set& set, std::int64_t batch, std::uint64_t seed) {
  auto tensors = set.inputs;
  tensors.push_back(set.labels);
  return pare::TrainingData::shuffled(tensors, batch, seed);
}

torch::Tensor distillation_loss(const torch::Tensor& student, const torch::Tensor& teacher, const torch::Tensor& labels,
                                double temperature, double teacher_share) {
  namespace F = torch::nn::functional;
  const double t = temperature;
  const auto softened = F::kl_div(torch::log_softmax(student / t, 1), torch::log_softmax(teacher / t, 1),
                                  F::KLDivFuncOptions().reduction(torch::kBatchMean).log_target(true));
  if (teacher_share >= 1) return t * t * softened;
  return teacher_share * t * t * softened + (1 - teacher_share) * F::cross_entropy(student, labels);
}

namespace {

// Each picture with the next one, by a random share of its own.
torch::Tensor mixed_in_pairs(const torch::Tensor& images) {
  const auto share = torch::rand({images.size(0), 1, 1, 1});
  return images * share + images.roll(1, 0) * (1 - share);
}

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
    const auto& path = graph.value(region.weight).name;
    const auto& steps = student.weights().narrowings(path);
    // A teacher that was pruned before has the first of them behind it, too.
    for (auto i = teacher.weights().narrowings(path).size(); i < steps.size(); ++i) {
      if (steps[i].dim != 0) continue;
      const auto kept = torch::tensor(steps[i].kept);
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
  if (train.size() == 0) return 0;
  student.detach_weights();
  teacher.detach_weights();
  teacher.eval();
  for (auto& parameter : student.parameters()) parameter.requires_grad_(true);
  const auto hidden = options.hidden_share > 0 ? hidden_of(student, teacher) : std::vector<Hidden>{};
  const auto loss = [&](const pare::Batch& batch) {
    pare::Batch inputs(batch.begin(), batch.end() - 1);
    const bool pictures = inputs[0].dim() == 4, mixed = pictures && options.mixed;
    if (pictures) inputs[0] = augmented(inputs[0]);
    if (mixed) inputs[0] = mixed_in_pairs(inputs[0]);
    torch::Tensor answer;
    Seen theirs, own;
    {
      const torch::NoGradGuard no_grad;
      answer = run(teacher, inputs, hidden, theirs);
    }
    const auto own_answer = run(student, inputs, hidden, own);
    const auto outputs =
        distillation_loss(own_answer, answer, batch.back(), options.temperature, mixed ? 1.0 : options.teacher_share);
    return hidden.empty() ? outputs : outputs + options.hidden_share * hidden_loss(hidden, own, theirs);
  };
  return pare::fit(student, shuffled(train, std::min(options.batch, train.size()), options.seed), loss,
                   {.epochs = options.epochs,
                    .rate = options.rate,
                    .weight_decay = 0,
                    .warm_up = {0.1},
                    .clip = options.largest_gradient,
                    .batch_statistics = options.batch_statistics,
                    .keep_zeros = true,
                    .seed = options.seed})
      .last_loss;
}

}  // namespace zoo
