#include "pipeline/bitmap.hpp"

#include <ATen/ATen.h>

#include <array>
#include <cstdint>

PARE_NAMESPACE_BEGIN

namespace {

void put_number(std::string& bytes, std::uint32_t value, int count) {
  for (int i = 0; i < count; ++i) bytes += static_cast<char>(value >> (8 * i) & 0xff);
}

// Blue, green, red, nothing.
void put_palette(std::string& bytes) {
  constexpr std::array<double, 3> kOrange{20, 110, 255};
  for (int grey = 0; grey < 16; ++grey)
    for (int heat = 0; heat < 16; ++heat) {
      const double share = 0.8 * heat / 15;
      for (const auto hot : kOrange)
        bytes += static_cast<char>(static_cast<std::uint8_t>((1 - share) * grey * 17 + share * hot));
      bytes += '\0';
    }
}

std::string base64(const std::string& bytes) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t group = 0;
    for (std::size_t k = 0; k < 3; ++k)
      group = group << 8 | (i + k < bytes.size() ? static_cast<std::uint8_t>(bytes[i + k]) : 0U);
    for (std::size_t k = 0; k < 4; ++k) text += i + k > bytes.size() ? '=' : kDigits[group >> (18 - 6 * k) & 63];
  }
  return text;
}

}  // namespace

std::string bitmap_address(const at::Tensor& grey, const at::Tensor& heat) {
  const auto levels = [](const at::Tensor& values) {
    return values.detach().to(at::kFloat).cpu().nan_to_num(0, 1, 0).clamp(0, 1).mul(15).round().to(at::kByte);
  };
  auto index = levels(grey) * 16;
  if (heat.defined()) index = index + levels(heat);
  index = index.contiguous();
  const auto height = index.size(0), width = index.size(1), row = (width + 3) / 4 * 4;
  constexpr std::uint32_t kHeaders = 14 + 40, kPalette = 4 * 256;
  const auto pixels = static_cast<std::uint32_t>(row * height);
  std::string file = "BM";
  put_number(file, kHeaders + kPalette + pixels, 4);
  put_number(file, 0, 4);
  put_number(file, kHeaders + kPalette, 4);
  put_number(file, 40, 4);
  put_number(file, static_cast<std::uint32_t>(width), 4);
  put_number(file, static_cast<std::uint32_t>(height), 4);
  put_number(file, 1, 2);  // planes
  put_number(file, 8, 2);  // bits of a pixel
  put_number(file, 0, 4);  // not compressed
  put_number(file, pixels, 4);
  for (const std::uint32_t value : {2835U, 2835U, 256U, 0U}) put_number(file, value, 4);
  put_palette(file);
  const auto* at = index.const_data_ptr<std::uint8_t>();
  for (auto y = height; y-- > 0;) {  // bottom first
    file.append(reinterpret_cast<const char*>(at + y * width), static_cast<std::size_t>(width));
    file.append(static_cast<std::size_t>(row - width), '\0');
  }
  return "data:image/bmp;base64," + base64(file);
}

PARE_NAMESPACE_END
