#include "examples/data/dataset.hpp"

#include <algorithm>
#include <fstream>
#include <iterator>

#include "examples/data/readers.hpp"
#include "pare/core/error.hpp"

namespace data {
namespace {

bool ends_with(const std::string& text, std::string_view end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

}  // namespace

std::vector<Tensors> Set::batches(int64_t batch) const {
  std::vector<Tensors> result;
  for (int64_t first = 0; first < size(); first += batch) {
    Tensors part;
    for (const auto& input : inputs) part.push_back(input.slice(0, first, std::min(first + batch, size())));
    result.push_back(std::move(part));
  }
  return result;
}

Set load(const std::string& path, const InputFormat& format, const LoadOptions& options) {
  namespace fs = std::filesystem;
  if (format.kind == InputFormat::Kind::kNone) {
    pare::fail("pare.data.103", path, "this model reads no data files; leave them out to run on random inputs");
  }
  if (!fs::exists(path)) pare::fail("pare.data.102", path, "no such file or folder");
  const bool sentences = ends_with(path, ".tsv");
  if (sentences != (format.kind == InputFormat::Kind::kTokens)) {
    pare::fail("pare.data.103", path, "the model takes {}",
               sentences ? "pictures, not sentences" : "sentences (.tsv), not pictures");
  }
  if (sentences) return read_sentences(path, format, options);
  if (fs::is_directory(path)) {
    if (fs::exists(fs::path(path) / "labels.csv")) return read_class_folder(path, format, options);
    if (fs::is_directory(fs::path(path) / "masks")) return read_mask_folder(path, format, options);
    pare::fail("pare.data.103", path, "the folder has neither labels.csv nor masks/");
  }
  if (ends_with(path, ".bin")) return read_cifar_records(path, format, options);
  if (ends_with(path, ".pack")) return read_cifar_pack(path, format, options);
  if (ends_with(path, ".csv")) return read_digits(path, format, options);
  if (path.find("idx3-ubyte") != std::string::npos) return read_idx(path, format, options);
  pare::fail("pare.data.103", path, "unknown format; known are .bin, .pack, .csv, .tsv, idx3-ubyte[.gz] and folders");
}

torch::Tensor outputs(const std::function<Tensors(const Tensors&)>& forward, const Set& set, int64_t batch) {
  torch::NoGradGuard no_grad;
  Tensors parts;
  for (const auto& inputs : set.batches(batch)) parts.push_back(forward(inputs).at(0));
  return torch::cat(parts, 0);
}

double top1_percent(const torch::Tensor& logits, const torch::Tensor& labels) {
  return 100.0 * logits.argmax(1).eq(labels).to(torch::kDouble).mean().item<double>();
}

std::string read_file(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream || std::filesystem::is_directory(path)) {
    pare::fail("pare.data.102", path.string(), "the file cannot be opened");
  }
  return {std::istreambuf_iterator<char>(stream), {}};
}

std::pair<int64_t, int64_t> selection(int64_t count, const LoadOptions& options, const std::string& path) {
  const int64_t first = std::max<int64_t>(options.offset, 0);
  const int64_t wanted = std::max<int64_t>(options.limit, 0);
  if (first >= count || wanted == 0) {
    pare::fail("pare.data.106", path, "no sample is left: {} in the file, {} wanted after the first {}", count,
               wanted < std::numeric_limits<int64_t>::max() ? std::to_string(wanted) : "all", first);
  }
  return {first, first + std::min(wanted, count - first)};
}

}  // namespace data
