#pragma once

#include <torch/torch.h>

#include <tuple>

#include "examples/models/unet.hpp"

namespace nuclei {

/// One network, three tasks: a small U-Net whose coarsest level says where nuclei are and whose finest says which
/// pixels are inside and how far from the edge.
/// `[N, 1, H, W]`, H and W multiples of 4 -> centres `[N, 1, H/4, W/4]` and insides `[N, 1, H, W]`, both logits, and
/// distances `[N, 1, H, W]`, 0 to 1.
class TaskNetImpl : public torch::nn::Module {
 public:
  explicit TaskNetImpl(int64_t width = 12)
      : down0(register_module("down0", models::DoubleConv(1, width))),
        down1(register_module("down1", models::DoubleConv(width, 2 * width))),
        bottom(register_module("bottom", models::DoubleConv(2 * width, 4 * width))),
        merge1(register_module("merge1", models::DoubleConv(4 * width, 2 * width))),
        merge0(register_module("merge0", models::DoubleConv(2 * width, width))),
        up1(register_module("up1", upwards(4 * width))),
        up0(register_module("up0", upwards(2 * width))),
        centre(register_module("centre", head(4 * width, 2 * width))),
        inside(register_module("inside", head(width, width))),
        distance(register_module("distance", head(width, width))) {}

  std::tuple<torch::Tensor, torch::Tensor, torch::Tensor> forward(const torch::Tensor& image) {
    const auto fine = down0(image);
    const auto middle = down1(torch::max_pool2d(fine, 2));
    const auto coarse = bottom(torch::max_pool2d(middle, 2));
    auto x = merge1(torch::cat({middle, up1(coarse)}, 1));
    x = merge0(torch::cat({fine, up0(x)}, 1));
    return {centre->forward(coarse), inside->forward(x), torch::sigmoid(distance->forward(x))};
  }

 private:
  static torch::nn::ConvTranspose2d upwards(int64_t in) {
    return torch::nn::ConvTranspose2d(torch::nn::ConvTranspose2dOptions(in, in / 2, 2).stride(2));
  }
  static torch::nn::Sequential head(int64_t in, int64_t hidden) {
    return torch::nn::Sequential(torch::nn::Conv2d(torch::nn::Conv2dOptions(in, hidden, 3).padding(1)),
                                 torch::nn::ReLU(), torch::nn::Conv2d(hidden, 1, 1));
  }

  models::DoubleConv down0, down1, bottom, merge1, merge0;
  torch::nn::ConvTranspose2d up1, up0;
  torch::nn::Sequential centre, inside, distance;
};
TORCH_MODULE(TaskNet);

}  // namespace nuclei
