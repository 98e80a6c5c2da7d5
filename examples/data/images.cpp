#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>

#include "examples/data/readers.hpp"
#include "pare/core/error.hpp"

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_MAX_DIMENSIONS 8192
#include <stb/stb_image.h>

namespace data {
namespace {

constexpr int64_t kCifarSide = 32;
constexpr int64_t kCifarRecord = 1 + 3 * kCifarSide * kCifarSide;

torch::Tensor bytes_to_float(const char* bytes, at::IntArrayRef shape) {
  auto pixels = torch::empty(shape, torch::kByte);
  std::memcpy(pixels.mutable_data_ptr(), bytes, pixels.nbytes());
  return pixels.to(torch::kFloat);
}

uint32_t little_endian(const char* bytes) {
  uint32_t value = 0;
  for (int i = 3; i >= 0; --i) value = value << 8U | static_cast<unsigned char>(bytes[i]);
  return value;
}

uint32_t big_endian(const char* bytes) {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i) value = value << 8U | static_cast<unsigned char>(bytes[i]);
  return value;
}

// The content of a gzip file (RFC 1952) with one member, or the bytes themselves where they are not gzip.
std::string inflated(std::string bytes, const std::string& path) {
  if (bytes.size() < 2 || bytes.compare(0, 2, "\x1f\x8b") != 0) return bytes;
  constexpr size_t kHeader = 10, kTrailer = 8;
  const auto broken = [&]() { pare::fail("pare.data.104", path, "the gzip stream is broken"); };
  if (bytes.size() < kHeader + kTrailer) broken();
  const auto flags = static_cast<unsigned char>(bytes[3]);
  size_t at = kHeader;
  if ((flags & 4U) != 0)
    at += 2 + static_cast<unsigned char>(bytes[at]) + 256U * static_cast<unsigned char>(bytes[at + 1]);
  for (const unsigned text : {8U, 16U}) {  // file name, comment
    if ((flags & text) != 0) at = bytes.find('\0', std::min(at, bytes.size())) + 1;
    if (at == 0) broken();
  }
  if ((flags & 2U) != 0) at += 2;
  if (at + kTrailer > bytes.size() || bytes.size() > std::numeric_limits<int>::max()) broken();
  // The trailer goes along: the decoder wants bytes to look ahead at behind the last symbol.
  int size = 0;
  const std::unique_ptr<char, decltype(&std::free)> content(
      stbi_zlib_decode_noheader_malloc(bytes.data() + at, static_cast<int>(bytes.size() - at), &size), &std::free);
  if (!content || static_cast<uint32_t>(size) != little_endian(bytes.data() + bytes.size() - 4)) broken();
  return {content.get(), static_cast<size_t>(size)};
}

// An idx file of unsigned bytes with that many axes: its sizes, then its bytes.
std::pair<std::vector<int64_t>, std::string> read_idx_file(const std::string& path, size_t axes) {
  auto bytes = inflated(read_file(path), path);
  const size_t header = 4 + 4 * axes;
  if (bytes.size() < header || big_endian(bytes.data()) != 0x800 + axes) {
    pare::fail("pare.data.104", path, "not an idx file of bytes with {} axes", axes);
  }
  std::vector<int64_t> sizes;
  uint64_t total = 1;
  for (size_t i = 0; i < axes; ++i) {
    sizes.push_back(big_endian(bytes.data() + 4 + 4 * i));
    if (__builtin_mul_overflow(total, static_cast<uint64_t>(sizes.back()), &total)) total = 0;
  }
  if (total == 0 || total != bytes.size() - header) {
    pare::fail("pare.data.104", path, "the sizes in the header do not fit the file's length");
  }
  return {sizes, bytes.substr(header)};
}

}  // namespace

torch::Tensor decode_image(std::string_view bytes, int64_t channels, const std::string& what) {
  int width = 0, height = 0, stored = 0;
  if (bytes.size() > std::numeric_limits<int>::max()) pare::fail("pare.data.105", what, "the picture is too large");
  const std::unique_ptr<stbi_uc, decltype(&std::free)> pixels(
      stbi_load_from_memory(reinterpret_cast<const stbi_uc*>(bytes.data()), static_cast<int>(bytes.size()), &width,
                            &height, &stored, static_cast<int>(channels)),
      &std::free);
  if (!pixels) pare::fail("pare.data.105", what, "the picture cannot be decoded ({})", stbi_failure_reason());
  return bytes_to_float(reinterpret_cast<const char*>(pixels.get()), {1, height, width, channels})
      .permute({0, 3, 1, 2})
      .contiguous();
}

torch::Tensor centre_crop(const torch::Tensor& images, int64_t size, const std::string& what) {
  const int64_t h = images.size(2), w = images.size(3);
  if (h < size || w < size) {
    pare::fail("pare.data.105", what, "the picture has {}x{} pixels, the model takes {}x{}", w, h, size, size);
  }
  return images.narrow(2, (h - size) / 2, size).narrow(3, (w - size) / 2, size);
}

Set image_set(const torch::Tensor& pixels, torch::Tensor labels, const InputFormat& format, const std::string& path) {
  if (pixels.size(1) != format.channels) {
    pare::fail("pare.data.103", path, "the pictures have {} channels, the model takes {}", pixels.size(1),
               format.channels);
  }
  return {.inputs = {format.normalise(centre_crop(pixels, format.size, path)).contiguous()},
          .labels = std::move(labels)};
}

Set read_cifar_records(const std::string& path, const InputFormat& format, const LoadOptions& options) {
  const auto bytes = read_file(path);
  const auto size = static_cast<int64_t>(bytes.size());
  if (size == 0 || size % kCifarRecord != 0) {
    pare::fail("pare.data.104", path, "{} bytes are no whole number of CIFAR-10 records", size);
  }
  const auto [first, last] = selection(size / kCifarRecord, options, path);
  auto records = torch::empty({last - first, kCifarRecord}, torch::kByte);
  std::memcpy(records.mutable_data_ptr(), bytes.data() + first * kCifarRecord, records.nbytes());
  auto pixels = records.slice(1, 1).reshape({-1, 3, kCifarSide, kCifarSide}).to(torch::kFloat);
  return image_set(pixels, records.select(1, 0).to(torch::kLong), format, path);
}

Set read_cifar_pack(const std::string& path, const InputFormat& format, const LoadOptions& options) {
  const auto bytes = read_file(path);
  const auto need = [&](size_t at, size_t count) {
    if (count > bytes.size() || at > bytes.size() - count) pare::fail("pare.data.104", path, "the file is truncated");
  };
  need(0, 4);
  const auto [first, last] = selection(little_endian(bytes.data()), options, path);
  Tensors pixels;
  std::vector<int64_t> labels;
  size_t at = 4;
  for (int64_t i = 0; i < last; ++i) {
    need(at, 5);
    const auto label = static_cast<unsigned char>(bytes[at]);
    const size_t size = little_endian(bytes.data() + at + 1);
    at += 5;
    need(at, size);
    if (i >= first) {
      pixels.push_back(decode_image(std::string_view(bytes).substr(at, size), 3, fmt::format("{} record {}", path, i)));
      if (pixels.back().sizes() != pixels.front().sizes()) {
        pare::fail("pare.data.105", path, "record {} has another size than the first", i);
      }
      labels.push_back(label);
    }
    at += size;
  }
  return image_set(torch::cat(pixels), torch::tensor(labels), format, path);
}

Set read_idx(const std::string& path, const InputFormat& format, const LoadOptions& options) {
  std::string label_path = path;
  const auto at = label_path.find("images-idx3");
  if (at == std::string::npos) pare::fail("pare.data.103", path, "the file's name lacks images-idx3");
  label_path.replace(at, 11, "labels-idx1");
  const auto [sizes, image_bytes] = read_idx_file(path, 3);
  const auto [label_sizes, label_bytes] = read_idx_file(label_path, 1);
  if (sizes[0] != label_sizes[0]) {
    pare::fail("pare.data.104", path, "{} pictures but {} labels", sizes[0], label_sizes[0]);
  }
  const auto [first, last] = selection(sizes[0], options, path);
  const int64_t area = sizes[1] * sizes[2];
  auto pixels = bytes_to_float(image_bytes.data() + first * area, {last - first, 1, sizes[1], sizes[2]});
  auto labels = bytes_to_float(label_bytes.data() + first, {last - first}).to(torch::kLong);
  return image_set(pixels, labels, format, path);
}

}  // namespace data
