#include "onnx/write_model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string_view>
#include <vector>

#include "core/fingerprint.hpp"
#include "core/replace_file.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace onnx {

namespace {

// Every offset on a page, so that the file can be mapped.
ExternalData placed(const Proto& proto, const std::string& file) {
  constexpr std::int64_t kPage = 4096, kSmall = 1024;
  ExternalData external{file, {}};
  std::int64_t end = 0;
  for (const auto& tensor : proto.initializers) {
    const auto bytes = static_cast<std::int64_t>(tensor.data.nbytes());
    const auto offset = (end + kPage - 1) / kPage * kPage;
    external.offsets.push_back(bytes < kSmall ? -1 : offset);
    if (bytes >= kSmall) end = offset + bytes;
  }
  return external;
}

// The file of weights is named after what it holds, so that the old model keeps the old one until it is replaced
// itself.
std::string digest(const Proto& proto) {
  Fingerprint weights;
  for (const auto& tensor : proto.initializers) weights.add(tensor.data.const_data_ptr(), tensor.data.nbytes());
  return weights.text();
}

[[noreturn]] void cannot_write(const std::string& path) { fail("pare.onnx.104", path, "the file cannot be written"); }

void write_external(const std::string& path, const Proto& proto, const ExternalData& external) {
  const bool done = replace_file(path, [&](std::ostream& stream) {
    for (std::size_t i = 0; i < proto.initializers.size(); ++i) {
      if (external.offsets[i] < 0) continue;
      const std::string gap(static_cast<std::size_t>(external.offsets[i] - stream.tellp()), '\0');
      stream << gap;
      const auto& data = proto.initializers[i].data;
      stream.write(static_cast<const char*>(data.const_data_ptr()), static_cast<std::streamsize>(data.nbytes()));
    }
  });
  if (!done) cannot_write(path);
}

constexpr std::string_view kEnding = ".data";

// The files of weights that the model at `target` names and that are named after it.
std::vector<std::filesystem::path> weights_beside(const std::filesystem::path& target) {
  std::vector<std::filesystem::path> named;
  const auto start = target.filename().string() + ".";
  constexpr std::size_t kDigits = 16;
  std::error_code ignored;
  const auto folder = target.has_parent_path() ? target.parent_path() : std::filesystem::path(".");
  for (std::filesystem::directory_iterator entry(folder, ignored), end; !ignored && entry != end;
       entry.increment(ignored)) {
    const auto name = entry->path().filename().string();
    if (name.size() != start.size() + kDigits + kEnding.size() || !name.starts_with(start) || !name.ends_with(kEnding))
      continue;
    const auto digits = std::string_view(name).substr(start.size(), kDigits);
    if (digits.find_first_not_of("0123456789abcdef") == std::string_view::npos) named.push_back(entry->path());
  }
  if (named.empty()) return named;
  std::ifstream stream(target, std::ios::binary);
  const std::string model{std::istreambuf_iterator<char>(stream), {}};
  std::erase_if(named, [&](const auto& file) { return model.find(file.filename().string()) == std::string::npos; });
  return named;
}

}  // namespace

void write_model(const Proto& proto, const std::string& path, std::int64_t external_above) {
  const std::filesystem::path target(path);
  std::int64_t bytes = 0;
  for (const auto& tensor : proto.initializers) bytes += static_cast<std::int64_t>(tensor.data.nbytes());
  ExternalData external;
  if (bytes > external_above)
    external = placed(proto, fmt::format("{}.{}{}", target.filename().string(), digest(proto), kEnding));
  // Small ones alone stay inside.
  if (std::ranges::all_of(external.offsets, [](std::int64_t offset) { return offset < 0; })) external = {};
  const bool apart = !external.file.empty();
  const auto beside = target.parent_path() / external.file;
  const auto former = weights_beside(target);
  // The name says what the file holds: one that is there may be the old model's, too, and stays.
  const bool known = apart && std::filesystem::exists(beside);
  if (apart) write_external(beside.string(), proto, external);
  const auto text = serialize(proto, external);
  std::error_code ignored;
  if (!replace_file(path, [&](std::ostream& stream) { stream << text; })) {
    if (apart && !known) std::filesystem::remove(beside, ignored);
    cannot_write(path);
  }
  for (const auto& file : former)
    if (!apart || file.filename() != beside.filename()) std::filesystem::remove(file, ignored);
}

}  // namespace onnx

PARE_NAMESPACE_END
