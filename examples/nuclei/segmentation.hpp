#pragma once

#include <torch/torch.h>

#include <functional>
#include <string>
#include <vector>

namespace nuclei {

using Forward = std::function<torch::Tensor(const torch::Tensor&)>;

/// Pictures `[N, 1, 256, 256]`, normalised, and masks `[N, 1, 256, 256]` of 0 and 1.
struct Samples {
  torch::Tensor images, masks;
};

/// The part `train` or `test` of a folder laid out as dsb2018_nuclei; the first `limit` samples.
Samples load(const std::string& folder, const std::string& part, std::int64_t limit = 1000);

/// Mean over the pictures of `2 |A and B| / (|A| + |B|)`, in percent; a pixel is inside where its logit is positive.
double dice(const Forward& forward, const Samples& samples);

/// How long and how fast to train.
struct Training {
  int epochs = 10;
  double rate = 2e-3;  ///< at the start; falls along a cosine
  std::int64_t batch = 8;
  std::int64_t crop = 128;  ///< side of the random pieces that are trained on
  /// Added to the loss: of pictures and the logits for them.
  std::function<torch::Tensor(const torch::Tensor& images, const torch::Tensor& logits)> also = {};
};

/// Cross-entropy and soft Dice on random pieces, flipped and turned. The optimizer's rate is set at each step.
void train(const Forward& forward, torch::optim::Optimizer& optimizer, const Samples& samples,
           const Training& training);

/// Random pieces of the pictures, as calibration wants them.
std::vector<torch::Tensor> pieces(const Samples& samples, std::int64_t count, std::int64_t batch);

/// Writes grey pictures side by side as PNG. @param pictures each `[H, W]`, 0 to 1
void write_strip(const std::string& path, const std::vector<torch::Tensor>& pictures);

}  // namespace nuclei
