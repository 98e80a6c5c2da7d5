#include "examples/models/cifar_resnet.hpp"
#include "examples/models/densenet.hpp"
#include "examples/models/families.hpp"
#include "examples/models/inception.hpp"
#include "examples/models/lenet.hpp"
#include "examples/models/mlp.hpp"
#include "examples/models/multi_head.hpp"
#include "examples/models/resnet.hpp"
#include "examples/models/resnet8.hpp"
#include "examples/models/squeezenet.hpp"
#include "examples/models/unet.hpp"

namespace models {
namespace {

data::InputFormat imagenet(int64_t size = 224) {
  return data::InputFormat::image(size, {0.485F, 0.456F, 0.406F}, {0.229F, 0.224F, 0.225F});
}

data::InputFormat grey(int64_t size, float mean, float deviation) {
  auto format = data::InputFormat::image(size, {mean, 0, 0}, {deviation, 1, 1});
  format.channels = 1;
  return format;
}

template <int64_t depth>
Bundle cifar_resnet() {
  return image_bundle(CifarResNet(depth), imagenet(32));
}

Bundle multi_head() {
  MultiHead net;
  return {.name = {},
          .task = "perception",
          .module = net.ptr(),
          .forward = [net](const Tensors& x) mutable -> Tensors {
            auto seen = net->forward(x.at(0));
            return {seen.boxes, seen.scores, seen.segmentation, seen.depth};
          },
          .example = [](int64_t batch) -> Tensors {
            return {torch::randn({batch, 3, 96, 96})};
          },
          .input = {}};
}

}  // namespace

void add_convolutional(Factories& all) {
  all["mlp"] = [] { return image_bundle(Mlp(std::vector<int64_t>{784, 256, 128, 10}), grey(28, 0.1307F, 0.3081F)); };
  all["digits_mlp"] = [] { return image_bundle(Mlp(std::vector<int64_t>{64, 16, 10}), grey(8, 0, 1)); };
  all["lenet"] = [] { return image_bundle(LeNet(), grey(28, 0.1307F, 0.3081F)); };
  all["resnet20"] = cifar_resnet<20>;
  all["resnet32"] = cifar_resnet<32>;
  all["resnet44"] = cifar_resnet<44>;
  all["resnet56"] = cifar_resnet<56>;
  all["resnet18"] = [] { return image_bundle(ResNet(), imagenet()); };
  all["resnet50"] = [] {
    return image_bundle(ResNet(ResNetOptions{.blocks = {3, 4, 6, 3}, .bottleneck = true}), imagenet());
  };
  all["resnext50"] = [] {
    return image_bundle(
        ResNet(ResNetOptions{.blocks = {3, 4, 6, 3}, .bottleneck = true, .groups = 32, .group_width = 4}), imagenet());
  };
  all["resnet8"] = [] { return image_bundle(ResNet8(), data::InputFormat::image(32, {0, 0, 0}, {1, 1, 1}, 1)); };
  all["squeezenet"] = [] {
    return image_bundle(SqueezeNet(), data::InputFormat::image(227, {123, 117, 104}, {1, 1, 1}, 1));
  };
  all["densenet"] = [] { return image_bundle(DenseNet(), imagenet()); };
  all["inception"] = [] { return image_bundle(Inception(), imagenet(96)); };
  all["unet"] = [] { return image_bundle(UNet(), grey(128, 0.2F, 0.2F), "segmentation"); };
  all["multi_head"] = multi_head;
}

}  // namespace models
