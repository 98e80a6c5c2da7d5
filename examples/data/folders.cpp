#include <algorithm>
#include <charconv>
#include <sstream>

#include "examples/data/readers.hpp"
#include "pare/core/error.hpp"

namespace data {
namespace {

namespace fs = std::filesystem;

// Lines without their ends; empty lines and comments are left out. `.first` is the line's number.
std::vector<std::pair<int64_t, std::string>> lines_of(const std::string& text) {
  std::vector<std::pair<int64_t, std::string>> lines;
  std::istringstream stream(text);
  std::string line;
  for (int64_t number = 1; std::getline(stream, line); ++number) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (!line.empty() && line.front() != '#') lines.emplace_back(number, line);
  }
  return lines;
}

std::vector<std::string> fields_of(const std::string& line) {
  std::vector<std::string> fields;
  std::istringstream stream(line);
  std::string field;
  while (std::getline(stream, field, ',')) fields.push_back(field);
  return fields;
}

int64_t number_of(const std::string& field, int64_t line, const std::string& path) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), value);
  if (error != std::errc() || end != field.data() + field.size() || value < 0) {
    pare::fail("pare.data.104", path, "line {} has a field that is not a number", line);
  }
  return value;
}

}  // namespace

Set read_digits(const std::string& path, const InputFormat& format, const LoadOptions& options) {
  constexpr int64_t kSide = 8, kBrightest = 16;
  const auto lines = lines_of(read_file(path));
  const auto [first, last] = selection(static_cast<int64_t>(lines.size()), options, path);
  std::vector<int64_t> labels;
  std::vector<float> pixels;
  for (int64_t i = first; i < last; ++i) {
    const auto& [number, line] = lines[i];
    const auto fields = fields_of(line);
    if (fields.size() != 1 + kSide * kSide) {
      pare::fail("pare.data.104", path, "line {} has {} fields, not a label and {} pixels", number, fields.size(),
                 kSide * kSide);
    }
    labels.push_back(number_of(fields[0], number, path));
    for (size_t k = 1; k < fields.size(); ++k) {
      pixels.push_back(255.0F * static_cast<float>(number_of(fields[k], number, path)) / kBrightest);
    }
  }
  return image_set(torch::tensor(pixels).view({-1, 1, kSide, kSide}), torch::tensor(labels), format, path);
}

Set read_class_folder(const std::string& path, const InputFormat& format, const LoadOptions& options) {
  const auto table = (fs::path(path) / "labels.csv").string();
  auto lines = lines_of(read_file(table));
  if (!lines.empty() && lines.front().second.rfind("file,", 0) == 0) lines.erase(lines.begin());
  const auto [first, last] = selection(static_cast<int64_t>(lines.size()), options, table);
  Tensors pixels;
  std::vector<int64_t> labels;
  for (int64_t i = first; i < last; ++i) {
    const auto& [number, line] = lines[i];
    const auto fields = fields_of(line);
    if (fields.size() < 2) pare::fail("pare.data.104", table, "line {} lacks a file and a class", number);
    labels.push_back(number_of(fields[1], number, table));
    const auto file = fs::path(path) / "images" / fields[0];
    const auto image = decode_image(read_file(file), format.channels, file.string());
    pixels.push_back(centre_crop(image, format.size, file.string()));
  }
  return image_set(torch::cat(pixels), torch::tensor(labels), format, path);
}

Set read_mask_folder(const std::string& path, const InputFormat& format, const LoadOptions& options) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(fs::path(path) / "images")) {
    if (entry.path().extension() == ".png") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  const auto [first, last] = selection(static_cast<int64_t>(files.size()), options, path);
  Tensors pixels, masks;
  for (int64_t i = first; i < last; ++i) {
    const auto image = decode_image(read_file(files[i]), format.channels, files[i].string());
    const auto mask_file = fs::path(path) / "masks" / files[i].filename();
    const auto mask = decode_image(read_file(mask_file), 1, mask_file.string());
    if (mask.size(2) != image.size(2) || mask.size(3) != image.size(3)) {
      pare::fail("pare.data.105", mask_file.string(), "the mask has another size than its picture");
    }
    pixels.push_back(centre_crop(image, format.size, files[i].string()));
    masks.push_back(centre_crop(mask, format.size, mask_file.string()).squeeze(1).gt(0));
  }
  return image_set(torch::cat(pixels), torch::cat(masks).to(torch::kLong), format, path);
}

}  // namespace data
