#pragma once

#include <torch/torch.h>

#include "pare/capture/capture.hpp"
#include "pare/pipeline/auto.hpp"

/// A chequerboard of four by four fields, and a small network that has learned it: what a few of its hidden units
/// cannot draw without being taught.
struct Board {
  Board() {
    namespace nn = torch::nn;
    torch::manual_seed(4);
    nn::Sequential net(nn::Linear(2, 32), nn::ReLU(), nn::Linear(32, 32), nn::ReLU(), nn::Linear(32, 2));
    points = torch::rand({2048, 2}) * 4;
    torch::optim::Adam optimizer(net->parameters(), torch::optim::AdamOptions(1e-2));
    for (int step = 0; step < 600; ++step) {
      optimizer.zero_grad();
      torch::cross_entropy_loss(net->forward(points), field(points)).backward();
      optimizer.step();
    }
    net->eval();
    unseen = torch::rand({1000, 2}) * 4;
    model = pare::capture(net, points.slice(0, 0, 2));
  }

  static torch::Tensor field(const torch::Tensor& at) { return at.floor().sum(1).remainder(2).to(torch::kLong); }

  /// Without training.
  [[nodiscard]] pare::AutoOptions options(pare::Bytes bytes) const {
    pare::AutoOptions options;
    options.calibration = pare::Batches(points.slice(0, 0, 256));
    options.scores = pare::top1_scores(unseen, field(unseen));
    options.budget = {.max_drop = pare::Ratio{0.01}, .bytes = bytes};
    options.seconds = 0.01;
    options.explore = 0;
    return options;
  }

  torch::Tensor points, unseen;
  pare::Model model;
};
