#pragma once

#include <torch/torch.h>

#include <array>
#include <cstdint>
#include <vector>

namespace data {

/// What a model wants to see of a file: how pictures or sentences become its input tensors.
struct InputFormat {
  enum class Kind {
    kNone,   ///< no file format feeds this model; it runs on random inputs
    kImage,  ///< one tensor `[N, channels, size, size]`
    kTokens  ///< ids and mask, both `[N, tokens]` int64; 1 in the mask is a token, 0 padding
  };

  Kind kind = Kind::kNone;
  int64_t channels = 3;
  int64_t size = 0;                          ///< side of the centre crop
  std::array<float, 3> mean = {0, 0, 0};     ///< subtracted from pixels of 0..255
  std::array<float, 3> divisor = {1, 1, 1};  ///< then divided by
  int64_t tokens = 0;                        ///< longest sentence, [CLS] and [SEP] included

  /// Mean and deviation of pixels scaled to 0..1, as most of torchvision's models want them.
  static InputFormat image(int64_t size, std::array<float, 3> mean, std::array<float, 3> deviation,
                           float unit = 255.0F) {
    InputFormat format{.kind = Kind::kImage, .size = size};
    for (size_t i = 0; i < mean.size(); ++i) {
      format.mean[i] = mean[i] * unit;
      format.divisor[i] = deviation[i] * unit;
    }
    return format;
  }

  /// `(pixels - mean) / divisor` for each channel; pixels `[N, channels, H, W]` of 0..255.
  [[nodiscard]] torch::Tensor normalise(const torch::Tensor& pixels) const {
    const auto per_channel = [this](const std::array<float, 3>& values) {
      return torch::tensor(std::vector<float>(values.begin(), values.begin() + channels)).view({1, channels, 1, 1});
    };
    return (pixels - per_channel(mean)) / per_channel(divisor);
  }
};

}  // namespace data
