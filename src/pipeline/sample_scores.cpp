#include "pare/pipeline/sample_scores.hpp"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

at::Tensor classes(const Batches& inputs, const Predictor& predict) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> all;
  for (const auto& batch : inputs) {
    const auto scores = predict(batch).at(0);
    if (scores.dim() < 2 || scores.numel() != scores.size(0) * scores.size(1))
      fail("pare.pipeline.104", "",
           "classes are judged by outputs of [samples, classes], the network's first is [{}]: give scores of your own",
           fmt::join(scores.sizes().begin(), scores.sizes().end(), ", "));
    all.push_back(scores.flatten(1).argmax(1));
  }
  if (all.empty()) fail("pare.pipeline.104", "", "there are no samples to judge by");
  return at::cat(all);
}

}  // namespace

SampleScores top1_scores(Batches inputs, at::Tensor labels) {
  return [inputs = std::move(inputs), labels = std::move(labels)](const Predictor& predict) {
    const auto found = classes(inputs, predict);
    if (found.numel() != labels.numel())
      fail("pare.pipeline.104", "", "the batches hold {} samples, the labels {}", found.numel(), labels.numel());
    return found.eq(labels).to(at::kDouble);
  };
}

SampleScores agreement_scores(Batches inputs, const Model& original) {
  auto answers = classes(inputs, [&](const std::vector<at::Tensor>& batch) { return original.run(batch); });
  return [inputs = std::move(inputs), answers = std::move(answers)](const Predictor& predict) {
    return classes(inputs, predict).eq(answers).to(at::kDouble);
  };
}

PARE_NAMESPACE_END
