#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "examples/data/dataset.hpp"

// The readers behind `load`, one for each format.
namespace data {

/// Whole file. Throws pare.data.102.
std::string read_file(const std::filesystem::path& path);

/// The samples `[first, last)` that the options select of `count`. Throws pare.data.106 when none is left.
std::pair<int64_t, int64_t> selection(int64_t count, const LoadOptions& options, const std::string& path);

/// Decodes JPEG or PNG to `[1, channels, H, W]` float of 0..255. Throws pare.data.105 with `what` as the path.
torch::Tensor decode_image(std::string_view bytes, int64_t channels, const std::string& what);

/// The middle `size` x `size` of `[N, C, H, W]`. Throws pare.data.105 where the picture is smaller.
torch::Tensor centre_crop(const torch::Tensor& images, int64_t size, const std::string& what);

/// Pixels `[N, C, H, W]` of 0..255 and labels, checked against the format, cropped and normalised.
Set image_set(const torch::Tensor& pixels, torch::Tensor labels, const InputFormat& format, const std::string& path);

Set read_cifar_records(const std::string& path, const InputFormat& format, const LoadOptions& options);
Set read_cifar_pack(const std::string& path, const InputFormat& format, const LoadOptions& options);
Set read_digits(const std::string& path, const InputFormat& format, const LoadOptions& options);
Set read_idx(const std::string& path, const InputFormat& format, const LoadOptions& options);
Set read_class_folder(const std::string& path, const InputFormat& format, const LoadOptions& options);
Set read_mask_folder(const std::string& path, const InputFormat& format, const LoadOptions& options);
Set read_sentences(const std::string& path, const InputFormat& format, const LoadOptions& options);

}  // namespace data
