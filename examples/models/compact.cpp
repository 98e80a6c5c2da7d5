#include "examples/models/efficientnet_lite.hpp"
#include "examples/models/families.hpp"
#include "examples/models/ghostnet.hpp"
#include "examples/models/mobilenetv2.hpp"
#include "examples/models/mobilenetv3.hpp"
#include "examples/models/shufflenetv2.hpp"
#include "examples/models/swin.hpp"

namespace models {
namespace {

data::InputFormat imagenet_of(int64_t size) {
  return data::InputFormat::image(size, {0.485F, 0.456F, 0.406F}, {0.229F, 0.224F, 0.225F});
}

data::InputFormat lite(int64_t size) { return data::InputFormat::image(size, {127, 127, 127}, {128, 128, 128}, 1); }

}  // namespace

void add_compact(Factories& all) {
  all["mobilenetv2"] = [] { return image_bundle(MobileNetV2(), imagenet_of(224)); };
  all["mobilenetv3"] = [] { return image_bundle(MobileNetV3(), imagenet_of(224)); };
  all["efficientnet_lite0"] = [] { return image_bundle(EfficientNetLite(1.0), lite(224)); };
  all["efficientnet_lite1"] = [] { return image_bundle(EfficientNetLite(1.1), lite(240)); };
  all["shufflenetv2"] = [] { return image_bundle(ShuffleNetV2(), imagenet_of(224)); };
  all["ghostnet"] = [] { return image_bundle(GhostNet(), imagenet_of(128)); };
  all["swin"] = [] { return image_bundle(Swin(), imagenet_of(112)); };
}

}  // namespace models
