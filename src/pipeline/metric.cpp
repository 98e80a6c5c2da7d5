#include "pare/pipeline/metric.hpp"

#include <ATen/ATen.h>

#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

Metric top1(Batches inputs, at::Tensor labels) {
  return [inputs = std::move(inputs), labels = std::move(labels)](const Predictor& predict) {
    const at::NoGradGuard no_grad;
    if (!labels.defined() || labels.dim() != 1)
      fail("pare.pipeline.104", "", "one label for each sample is needed, in one axis");
    std::int64_t seen = 0, right = 0;
    for (const auto& batch : inputs) {
      const auto outputs = predict(batch);
      if (outputs.empty() || !outputs[0].defined() || outputs[0].dim() < 2)
        fail("pare.pipeline.104", "", "classes are judged by a first output of [samples, classes]");
      const auto scores = outputs[0].flatten(1);
      if (seen + scores.size(0) > labels.size(0))
        fail("pare.pipeline.104", "", "the batches hold more samples than the {} labels", labels.size(0));
      right += scores.argmax(1).eq(labels.narrow(0, seen, scores.size(0))).sum().item<std::int64_t>();
      seen += scores.size(0);
    }
    if (seen != labels.size(0) || seen == 0)
      fail("pare.pipeline.104", "", "the batches hold {} samples, the labels {}", seen, labels.size(0));
    return static_cast<double>(right) / static_cast<double>(seen);
  };
}

PARE_NAMESPACE_END
