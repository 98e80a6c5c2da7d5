#include "examples/models/cifar_resnet.hpp"
#include "examples/models/families.hpp"
#include "examples/models/lenet.hpp"
#include "examples/models/mlp.hpp"
#include "examples/models/mobilenetv2.hpp"
#include "examples/models/resnet.hpp"

namespace models {
namespace {

data::InputFormat imagenet() {
  return data::InputFormat::image(224, {0.485F, 0.456F, 0.406F}, {0.229F, 0.224F, 0.225F});
}
data::InputFormat cifar() { return data::InputFormat::image(32, {0.485F, 0.456F, 0.406F}, {0.229F, 0.224F, 0.225F}); }

data::InputFormat grey(int64_t size) {
  auto format = data::InputFormat::image(size, {0.1307F}, {0.3081F, 1, 1});
  format.channels = 1;
  return format;
}

template <int64_t depth>
Bundle cifar_resnet() {
  return image_bundle(CifarResNet(depth), cifar());
}

}  // namespace

void add_convolutional(Factories& all) {
  all["mlp"] = [] { return image_bundle(Mlp(std::vector<int64_t>{784, 256, 128, 10}), grey(28)); };
  all["lenet"] = [] { return image_bundle(LeNet(), grey(28)); };
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
  all["mobilenetv2"] = [] { return image_bundle(MobileNetV2(), imagenet()); };
}

}  // namespace models
