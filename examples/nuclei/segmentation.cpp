#include "examples/nuclei/segmentation.hpp"

#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb/stb_image_write.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "examples/data/dataset.hpp"
#include "examples/models/registry.hpp"
#include "pare/core/error.hpp"

namespace nuclei {

namespace {

constexpr std::int64_t kSide = 256;

// The same random piece of a batch of pictures and masks, flipped and turned alike.
std::pair<torch::Tensor, torch::Tensor> random_piece(const torch::Tensor& images, const torch::Tensor& masks,
                                                     std::int64_t side) {
  const auto range = images.size(2) - side + 1;
  const auto top = torch::randint(range, {1}).item<std::int64_t>(),
             left = torch::randint(range, {1}).item<std::int64_t>();
  const auto turns = torch::randint(4, {1}).item<std::int64_t>();
  const bool flip = torch::rand({1}).item<float>() < 0.5F;
  const auto cut = [&](const torch::Tensor& all) {
    auto piece = torch::rot90(all.narrow(2, top, side).narrow(3, left, side), turns, {2, 3});
    return (flip ? piece.flip(3) : piece).contiguous();
  };
  return {cut(images), cut(masks)};
}

torch::Tensor loss_of(const torch::Tensor& logits, const torch::Tensor& masks) {
  const auto inside = torch::sigmoid(logits);
  const auto overlap = (inside * masks).sum({1, 2, 3});
  const auto soft_dice = (2 * overlap + 1) / (inside.sum({1, 2, 3}) + masks.sum({1, 2, 3}) + 1);
  return torch::binary_cross_entropy_with_logits(logits, masks) + 1 - soft_dice.mean();
}

void set_rate(torch::optim::Optimizer& optimizer, double rate) {
  for (auto& group : optimizer.param_groups()) group.options().set_lr(rate);
}

}  // namespace

Samples load(const std::string& folder, const std::string& part, std::int64_t limit) {
  auto format = models::make("unet").input;
  format.size = kSide;
  const auto set = data::load(folder + "/" + part, format, {.limit = limit});
  return {set.inputs.at(0), set.labels.unsqueeze(1).to(torch::kFloat)};
}

double dice(const Forward& forward, const Samples& samples) {
  const torch::NoGradGuard no_grad;
  double sum = 0;
  for (std::int64_t i = 0; i < samples.images.size(0); ++i) {
    const auto inside = forward(samples.images.narrow(0, i, 1)).gt(0);
    const auto truth = samples.masks.narrow(0, i, 1).gt(0.5);
    const auto both = inside.logical_and(truth).sum().item<double>();
    const auto all = inside.sum().item<double>() + truth.sum().item<double>();
    sum += all > 0 ? 2 * both / all : 1;
  }
  return 100 * sum / static_cast<double>(samples.images.size(0));
}

void train(const Forward& forward, torch::optim::Optimizer& optimizer, const Samples& samples,
           const Training& training) {
  const auto count = samples.images.size(0);
  const auto per_epoch = count / training.batch;
  for (int epoch = 0; epoch < training.epochs; ++epoch) {
    const auto order = torch::randperm(count);
    for (std::int64_t step = 0; step < per_epoch; ++step) {
      const double time =
          (static_cast<double>(epoch) + static_cast<double>(step) / static_cast<double>(per_epoch)) / training.epochs;
      set_rate(optimizer, training.rate * 0.5 * (1 + std::cos(std::numbers::pi * time)));
      const auto index = order.narrow(0, step * training.batch, training.batch);
      const auto [images, masks] =
          random_piece(samples.images.index_select(0, index), samples.masks.index_select(0, index), training.crop);
      optimizer.zero_grad();
      const auto logits = forward(images);
      auto loss = loss_of(logits, masks);
      if (training.also) loss = loss + training.also(images, logits);
      loss.backward();
      optimizer.step();
    }
  }
}

std::vector<torch::Tensor> pieces(const Samples& samples, std::int64_t count, std::int64_t batch) {
  constexpr std::int64_t kPiece = 128;
  std::vector<torch::Tensor> batches;
  for (std::int64_t first = 0; first < count; first += batch) {
    const auto index = torch::randint(samples.images.size(0), {batch});
    batches.push_back(
        random_piece(samples.images.index_select(0, index), samples.masks.index_select(0, index), kPiece).first);
  }
  return batches;
}

void write_strip(const std::string& path, const std::vector<torch::Tensor>& pictures) {
  std::vector<torch::Tensor> parts;
  for (const auto& picture : pictures) {
    if (!parts.empty()) parts.push_back(torch::full({picture.size(0), 4}, 255, torch::kByte));
    parts.push_back((picture.clamp(0, 1) * 255).to(torch::kByte));
  }
  const auto strip = torch::cat(parts, 1).contiguous();
  if (stbi_write_png(path.c_str(), static_cast<int>(strip.size(1)), static_cast<int>(strip.size(0)), 1,
                     strip.data_ptr(), static_cast<int>(strip.size(1))) == 0)
    pare::fail("nuclei.101", path, "the picture cannot be written");
}

}  // namespace nuclei
