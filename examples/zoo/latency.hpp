#pragma once

#include <torch/torch.h>

#include <functional>
#include <vector>

namespace zoo {

using Forward = std::function<std::vector<torch::Tensor>(const std::vector<torch::Tensor>&)>;

/// Times of one contestant.
struct Latency {
  double median_ms = 0;
  double p99_ms = 0;
  std::size_t runs = 0;
};

/// Times several forwards on the same input, in turns so that a noisy machine hits all of them alike. Each turn runs a
/// contestant often enough to be in its own caches; at least `kRounds` turns, for about `seconds` in all.
std::vector<Latency> interleaved(const std::vector<Forward>& contestants, const std::vector<torch::Tensor>& input,
                                 double seconds);

/// The first `count` samples of a set of batches; fewer are repeated.
std::vector<torch::Tensor> first_samples(const std::vector<std::vector<torch::Tensor>>& batches, std::int64_t count);

}  // namespace zoo
