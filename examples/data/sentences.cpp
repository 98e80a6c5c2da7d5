#include <algorithm>
#include <sstream>

#include "examples/data/readers.hpp"
#include "examples/data/word_piece.hpp"
#include "pare/core/error.hpp"

namespace data {
namespace {

namespace fs = std::filesystem;

// vocab.txt beside the sentences or in a folder next to theirs.
std::string find_vocabulary(const std::string& path) {
  const fs::path folder = fs::absolute(path).parent_path();
  if (fs::is_regular_file(folder / "vocab.txt")) return (folder / "vocab.txt").string();
  std::vector<fs::path> found;
  std::error_code unreadable;
  for (const auto& entry : fs::directory_iterator(folder.parent_path(), unreadable)) {
    if (fs::is_regular_file(entry.path() / "vocab.txt")) found.push_back(entry.path() / "vocab.txt");
  }
  if (found.empty()) {
    pare::fail("pare.data.107", path, "no vocab.txt beside the sentences or in a folder next to theirs; name one");
  }
  return std::min_element(found.begin(), found.end())->string();
}

}  // namespace

Set read_sentences(const std::string& path, const InputFormat& format, const LoadOptions& options) {
  std::vector<std::string> lines;
  std::istringstream stream(read_file(path));
  for (std::string line; std::getline(stream, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    lines.push_back(std::move(line));
  }
  const auto [first, last] = selection(static_cast<int64_t>(lines.size()), options, path);
  const WordPiece tokenizer(options.vocabulary.empty() ? find_vocabulary(path) : options.vocabulary);

  const int64_t longest = options.tokens > 0 ? std::min(options.tokens, format.tokens) : format.tokens;
  std::vector<std::vector<int64_t>> sentences;
  std::vector<int64_t> labels;
  int64_t width = options.tokens;
  for (int64_t i = first; i < last; ++i) {
    const auto& line = lines[i];
    const auto tab = line.rfind('\t');
    if (tab == std::string::npos || tab + 2 != line.size() || line[tab + 1] < '0' || line[tab + 1] > '9') {
      pare::fail("pare.data.104", path, "line {} is not a sentence, a tab and a label of one digit", i + 1);
    }
    sentences.push_back(tokenizer.encode(std::string_view(line).substr(0, tab), longest));
    labels.push_back(line[tab + 1] - '0');
    width = std::max(width, static_cast<int64_t>(sentences.back().size()));
  }
  const auto count = static_cast<int64_t>(sentences.size());
  auto ids = torch::full({count, width}, tokenizer.padding(), torch::kLong);
  auto mask = torch::zeros({count, width}, torch::kLong);
  for (int64_t i = 0; i < count; ++i) {
    const auto length = static_cast<int64_t>(sentences[i].size());
    ids[i].slice(0, 0, length).copy_(torch::tensor(sentences[i]));
    mask[i].slice(0, 0, length).fill_(1);
  }
  return {.inputs = {ids, mask}, .labels = torch::tensor(labels)};
}

}  // namespace data
