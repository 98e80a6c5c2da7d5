#pragma once

#include <torch/torch.h>

#include <vector>

namespace models {

/// What the multi-head model sees in a picture.
struct Perception {
  torch::Tensor boxes;         ///< `[N, H/8 * W/8 * anchors, 4]`
  torch::Tensor scores;        ///< `[N, H/8 * W/8 * anchors, objects]`
  torch::Tensor segmentation;  ///< `[N, regions, H, W]`
  torch::Tensor depth;         ///< `[N, 1, H, W]`, positive
};

/// Convolution, batch norm, leaky ReLU, as every part of the network uses it.
class ConvUnitImpl : public torch::nn::Module {
 public:
  ConvUnitImpl(int64_t in, int64_t out, int64_t stride = 1)
      : conv(register_module(
            "conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(in, out, 3).stride(stride).padding(1).bias(false)))),
        bn(register_module("bn", torch::nn::BatchNorm2d(out))) {
    torch::nn::init::kaiming_normal_(conv->weight);
  }

  torch::Tensor forward(torch::Tensor x) {
    x = bn(conv(x));
    return torch::leaky_relu_(x, 0.1);
  }

 private:
  torch::nn::Conv2d conv;
  torch::nn::BatchNorm2d bn;
};
TORCH_MODULE(ConvUnit);

/// One backbone with a feature pyramid (Lin et al. 2017), three heads: detection, segmentation, depth. H and W are
/// multiples of 8.
class MultiHeadImpl : public torch::nn::Module {
 public:
  explicit MultiHeadImpl(int64_t width = 32, int64_t anchors = 3, int64_t objects = 8, int64_t regions = 5)
      : anchors_(anchors), objects_(objects) {
    const auto pointwise = [](int64_t in, int64_t out) { return torch::nn::Conv2d(in, out, 1); };
    stem = register_module("stem", ConvUnit(3, width, 2));
    stage1 =
        register_module("stage1", torch::nn::Sequential(ConvUnit(width, width * 2, 2), ConvUnit(width * 2, width * 2)));
    stage2 = register_module("stage2",
                             torch::nn::Sequential(ConvUnit(width * 2, width * 4, 2), ConvUnit(width * 4, width * 4)));
    lateral0 = register_module("lateral0", pointwise(width, width));
    lateral1 = register_module("lateral1", pointwise(width * 2, width));
    lateral2 = register_module("lateral2", pointwise(width * 4, width));
    detect = register_module("detect", ConvUnit(width, width));
    boxes = register_module("boxes", pointwise(width, anchors * 4));
    scores = register_module("scores", pointwise(width, anchors * objects));
    segment = register_module("segment", torch::nn::Sequential(ConvUnit(width, width), pointwise(width, regions)));
    depth = register_module("depth", torch::nn::Sequential(ConvUnit(width, width), pointwise(width, 1)));
  }

  Perception forward(const torch::Tensor& image) {
    auto x0 = stem(image);
    auto x1 = stage1->forward(x0);
    auto x2 = stage2->forward(x1);
    auto p2 = lateral2(x2);
    auto p1 = lateral1(x1) + upsample(p2, 2);
    auto p0 = lateral0(x0) + upsample(p1, 2);

    Perception seen;
    auto found = detect(p2);
    seen.boxes = per_anchor(boxes(found), 4);
    seen.scores = per_anchor(scores(found), objects_).sigmoid();
    seen.segmentation = upsample(segment->forward(p0), 2);
    seen.depth = torch::softplus(upsample(depth->forward(p0), 2));
    return seen;
  }

 private:
  static torch::Tensor upsample(const torch::Tensor& x, double factor) {
    namespace F = torch::nn::functional;
    return F::interpolate(x, F::InterpolateFuncOptions()
                                 .scale_factor(std::vector<double>{factor, factor})
                                 .mode(torch::kBilinear)
                                 .align_corners(false));
  }
  // [N, anchors * values, h, w] -> [N, h * w * anchors, values]
  torch::Tensor per_anchor(const torch::Tensor& x, int64_t values) const {
    const auto n = x.size(0), h = x.size(2), w = x.size(3);
    return x.view({n, anchors_, values, h, w}).permute({0, 3, 4, 1, 2}).reshape({n, h * w * anchors_, values});
  }

  int64_t anchors_, objects_;
  ConvUnit stem{nullptr}, detect{nullptr};
  torch::nn::Sequential stage1{nullptr}, stage2{nullptr}, segment{nullptr}, depth{nullptr};
  torch::nn::Conv2d lateral0{nullptr}, lateral1{nullptr}, lateral2{nullptr}, boxes{nullptr}, scores{nullptr};
};
TORCH_MODULE(MultiHead);

}  // namespace models
