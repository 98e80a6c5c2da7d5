#include "pare/pipeline/sample_scores.hpp"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <cmath>

#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

at::Tensor outputs_of(const Batches& inputs, const Predictor& predict) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> all;
  for (const auto& batch : inputs) {
    const auto outputs = predict(batch);
    if (outputs.empty() || !outputs[0].defined())
      fail("pare.pipeline.104", "", "classes are judged by outputs of [samples, classes], and the network has none");
    const auto& scores = outputs[0];
    if (scores.dim() < 2 || scores.numel() != scores.size(0) * scores.size(1))
      fail("pare.pipeline.104", "",
           "classes are judged by outputs of [samples, classes], the network's first is [{}]: give scores of your own",
           fmt::join(scores.sizes().begin(), scores.sizes().end(), ", "));
    all.push_back(scores.flatten(1));
  }
  if (all.empty()) fail("pare.pipeline.104", "", "there are no samples to judge by");
  return at::cat(all);
}

// In evaluation mode: in training a run would move the statistics of batch norms, the live module's.
Predictor predictor_of(Model model) {
  model.eval();
  return [model = std::move(model)](const std::vector<at::Tensor>& batch) { return model.run(batch); };
}

at::Tensor classes(const Batches& inputs, const Predictor& predict) { return outputs_of(inputs, predict).argmax(1); }

/// What a network is expected to lose against the original, by the movements of its outputs.
class ExpectedLoss {
 public:
  explicit ExpectedLoss(const at::Tensor& outputs) {
    constexpr std::int64_t kLikeliest = 5;
    if (outputs.size(1) < 2) fail("pare.pipeline.104", "", "there is one class, which nothing can be mistaken for");
    const auto sums = outputs.to(at::kDouble).sum(1);
    probabilities_ = outputs.ge(0).all().item<bool>() && sums.sub(1).abs().le(1e-3).all().item<bool>();
    logits_ = as_logits(outputs);
    likeliest_ = std::get<1>(logits_.topk(std::min(kLikeliest, logits_.size(1)), 1));
    const auto probability = logits_.softmax(1);
    certainty_ = probability.gather(1, likeliest_.narrow(1, 0, 1)) - probability;
  }

  /// `[samples]`
  [[nodiscard]] at::Tensor of(const at::Tensor& outputs) const {
    constexpr double kDisbelief = 0.5;
    const auto logits = as_logits(outputs);
    if (!logits.isfinite().all().item<bool>()) return at::full({logits.size(0)}, std::nan(""), at::kDouble);
    const auto distance = distances(logits_);
    const auto movement = std::get<0>((distances(logits) - distance).abs().flatten().sort());
    const auto smaller = at::searchsorted(movement, spread(distance.select(1, 0)), false, true);
    const auto overtaken = 0.5 * (1 - smaller.to(at::kDouble) / static_cast<double>(movement.numel()));
    const auto certainty = certainty_.gather(1, likeliest_.narrow(1, 1, 1)).squeeze(1);
    const auto found = logits.argmax(1, true);
    return at::where(likeliest_.eq(found).any(1), overtaken * (certainty + kDisbelief),
                     certainty_.gather(1, found).squeeze(1) + kDisbelief);
  }

 private:
  // From the original's class to the other likely ones.
  [[nodiscard]] at::Tensor distances(const at::Tensor& logits) const {
    const auto likely = logits.gather(1, likeliest_);
    return likely.narrow(1, 0, 1) - likely.slice(1, 1);
  }

  // How many samples of a few lie within the little that outputs move is chance: the nearest third is spread evenly up
  // to the next one.
  static at::Tensor spread(const at::Tensor& distance) {
    const auto count = distance.size(0) / 3;
    if (count == 0) return distance.contiguous();
    const auto [sorted, order] = distance.sort();
    const auto even = (at::arange(count, at::kDouble) + 0.5) / static_cast<double>(count) * sorted[count];
    return distance.scatter(0, order.narrow(0, 0, count), even).contiguous();
  }

  [[nodiscard]] at::Tensor as_logits(const at::Tensor& outputs) const {
    const auto numbers = outputs.to(at::kDouble);
    return probabilities_ ? numbers.clamp_min(1e-30).log() : numbers;
  }

  bool probabilities_ = false;
  at::Tensor logits_, likeliest_;
  at::Tensor certainty_;  // by how much the original's class is more probable than each
};

}  // namespace

SampleScores top1_scores(Batches inputs, at::Tensor labels) {
  return [inputs = std::move(inputs), labels = std::move(labels)](const Predictor& predict) {
    const auto found = classes(inputs, predict);
    if (found.sizes() != labels.sizes())
      fail("pare.pipeline.104", "", "the batches hold {} samples, the labels are of [{}]", found.numel(),
           fmt::join(labels.sizes(), ", "));
    return found.eq(labels).to(at::kDouble);
  };
}

SampleScores agreement_scores(Batches inputs, const Model& original) {
  auto answers = classes(inputs, predictor_of(original));
  return [inputs = std::move(inputs), answers = std::move(answers)](const Predictor& predict) {
    return classes(inputs, predict).eq(answers).to(at::kDouble);
  };
}

SampleScores expected_scores(Batches inputs, const Model& original) {
  const ExpectedLoss loss(outputs_of(inputs, predictor_of(original)));
  return
      [inputs = std::move(inputs), loss](const Predictor& predict) { return 1 - loss.of(outputs_of(inputs, predict)); };
}

PARE_NAMESPACE_END
