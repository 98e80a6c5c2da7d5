#include "pare/analysis/latency_table.hpp"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <torch/csrc/api/include/torch/version.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

#include "core/fingerprint.hpp"
#include "core/replace_file.hpp"
#include "execute/processor.hpp"
#include "pare/core/error.hpp"
#include "pare/execute/compile.hpp"

PARE_NAMESPACE_BEGIN

namespace {

constexpr std::string_view kFirstLine = "pare latency 1";

std::string machine_line() {
  const auto& found = processor();
  auto line = found.name;
  for (const auto& instruction : found.instructions) line += ' ' + instruction;
  return found.instructions.empty() ? line + ' ' + at::get_cpu_capability() : line;
}

struct TableContents {
  std::string machine;
  std::map<std::string, double> entries;
  std::string damage;  // empty: none
};

TableContents table_contents(std::istream& stream) {
  TableContents result;
  Fingerprint fingerprint;
  std::string line;
  if (!std::getline(stream, line) || line != kFirstLine) return {{}, {}, "it is no table of latencies"};
  if (!std::getline(stream, result.machine)) return {{}, {}, "it ends after its first line"};
  fingerprint.add(result.machine);
  for (std::size_t at = 3; std::getline(stream, line); ++at) {
    if (line == "end " + fingerprint.text()) return result;
    fingerprint.add(line);
    double number = 0;
    const auto [rest, error] = std::from_chars(line.data(), line.data() + line.size(), number);
    if (error != std::errc() || rest == line.data() + line.size() || *rest != '\t' || !(number >= 0) ||
        !std::isfinite(number))
      return {result.machine, {}, fmt::format("line {} is damaged", at)};
    result.entries[line.substr(static_cast<std::size_t>(rest + 1 - line.data()))] = number;
  }
  return {result.machine, {}, "its end is missing"};
}

}  // namespace

LatencyTable::LatencyTable(std::string folder, int threads) : threads_(threads > 0 ? threads : at::get_num_threads()) {
  machine_ = fmt::format("{}; {} threads; {}; LibTorch {}; pare {}", machine_line(), threads_, execution_backend(),
                         TORCH_VERSION, PARE_VERSION);
  if (folder.empty()) return;
  Fingerprint fingerprint;
  fingerprint.add(machine_);
  path_ = (std::filesystem::path(folder) / fmt::format("latency-{}.txt", fingerprint.text())).string();
  read(true);
}

void LatencyTable::read(bool fresh) {
  std::ifstream stream(path_);
  if (!stream) return;
  auto found = table_contents(stream);
  if (found.damage.empty() && found.machine != machine_)
    found.damage = "it was measured on another machine: " + found.machine;
  if (found.damage.empty()) return entries_.merge(found.entries);
  if (fresh) notes_.push_back(fmt::format("{} is not used: {}", path_, found.damage));
}

std::optional<double> LatencyTable::find(const std::string& key) const {
  const auto found = entries_.find(key);
  return found == entries_.end() ? std::nullopt : std::optional(found->second);
}

std::optional<double> LatencyTable::similar(const std::string& key, std::size_t common) const {
  const auto words = [common](const std::string& text) {
    std::istringstream stream(text.substr(std::min(common, text.size())));
    return std::vector<std::string>{std::istream_iterator<std::string>(stream), {}};
  };
  const auto start = key.substr(0, common);
  const auto wanted = words(key);
  double sum = 0, count = 0;
  std::size_t best = 0;
  for (auto at = entries_.lower_bound(start); at != entries_.end() && at->first.starts_with(start); ++at) {
    const auto found = words(at->first);
    std::size_t same = 0;
    for (std::size_t i = 0; i < std::min(found.size(), wanted.size()); ++i) same += found[i] == wanted[i] ? 1U : 0U;
    if (same < best) continue;
    if (same > best) sum = count = 0;
    best = same;
    sum += at->second;
    ++count;
  }
  return count > 0 ? std::optional(sum / count) : std::nullopt;
}

void LatencyTable::set(const std::string& key, double number) {
  if (!(number >= 0) || !std::isfinite(number) || key.empty() || key.find_first_of("\t\r\n") != std::string::npos)
    fail("pare.analysis.111", key, "{} cannot be kept under this key", number);
  entries_[key] = number;
}

void LatencyTable::save() {
  if (path_.empty()) return;
  std::error_code ignored;
  std::filesystem::create_directories(std::filesystem::path(path_).parent_path(), ignored);
  read(false);
  const auto written = replace_file(path_, [&](std::ostream& stream) {
    Fingerprint fingerprint;
    const auto line = [&](const std::string& text) {
      fingerprint.add(text);
      stream << text << '\n';
    };
    stream << kFirstLine << '\n';
    line(machine_);
    for (const auto& [key, number] : entries_) line(fmt::format("{}\t{}", number, key));
    stream << "end " << fingerprint.text() << '\n';
  });
  if (!written) fail("pare.analysis.112", path_, "the table of latencies cannot be written");
}

PARE_NAMESPACE_END
