#include "pare/plan/plan.hpp"

#include <algorithm>
#include <iomanip>
#include <map>
#include <ostream>
#include <sstream>

#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

constexpr int kFloatBits = 32, kHalfBits = 16;

template <class T>
T number(const std::string& text, std::size_t line, std::string_view what) {
  std::istringstream stream(text);
  T value{};
  if (!(stream >> value) || !stream.eof()) fail("pare.plan.101", "", "line {}: '{}' is no {}", line, text, what);
  return value;
}

// Names with spaces or comment signs stand in quotes.
std::string name_cell(const std::string& name) {
  if (!name.empty() && name.find_first_of(" \t#\"") == std::string::npos) return name;
  std::ostringstream cell;
  cell << std::quoted(name);
  return cell.str();
}

// A line up to its comment, without the space at its end.
std::string without_comment(std::string line) {
  bool quoted = false;
  for (std::size_t i = 0; i < line.size(); ++i) {
    if (quoted && line[i] == '\\') {
      ++i;
    } else if (line[i] == '"') {
      quoted = !quoted;
    } else if (line[i] == '#' && !quoted) {
      line.erase(i);
    }
  }
  return line.erase(line.find_last_not_of(" \t\r") + 1);
}

// Which columns a table has: one of layers, or one of groups.
std::vector<std::string> header(const std::string& line, std::size_t number) {
  std::istringstream stream(line);
  std::vector<std::string> columns;
  for (std::string name; stream >> name;) {
    static const std::vector<std::string> known{"layer",  "bits",  "weights", "damage", "ms",
                                                "reason", "group", "ratio",   "units"};
    if (std::ranges::find(known, name) == known.end())
      fail("pare.plan.101", "", "line {}: a plan has no column '{}'", number, name);
    columns.push_back(name);
  }
  const auto has = [&](std::string_view name) { return std::ranges::find(columns, name) != columns.end(); };
  if (!(has("layer") && has("bits")) && !(has("group") && has("ratio")))
    fail("pare.plan.101", "",
         "line {}: the header of a plan names the columns 'layer' and 'bits', that of its groups 'group' and 'ratio'",
         number);
  return columns;
}

bool starts_groups(const std::string& line) {
  std::istringstream stream(line);
  std::string first, second;
  return stream >> first >> second && first == "group" && second == "ratio";
}

Plan::Group read_group(const std::string& line, const std::vector<std::string>& columns, std::size_t at) {
  std::istringstream stream(line);
  Plan::Group group;
  for (const auto& column : columns) {
    std::string cell;
    if (column == "reason") {
      std::getline(stream >> std::ws, group.reason);
      continue;
    }
    if (!(stream >> std::quoted(cell))) fail("pare.plan.101", "", "line {}: the column '{}' is missing", at, column);
    if (column == "group") group.name = cell;
    if (column == "ratio") group.ratio = {number<double>(cell, at, "ratio")};
    if (column == "units") group.units = number<std::int64_t>(cell, at, "number of units");
    if (column == "damage") group.damage = number<double>(cell, at, "damage");
  }
  if (!(group.ratio.fraction >= 0 && group.ratio.fraction < 1))
    fail("pare.plan.101", group.name, "line {}: a ratio of {}; from 0 to less than 1 can go", at, group.ratio.fraction);
  return group;
}

Plan::Layer read_layer(const std::string& line, const std::vector<std::string>& columns, std::size_t at) {
  std::istringstream stream(line);
  Plan::Layer layer;
  for (const auto& column : columns) {
    std::string cell;
    if (column == "reason") {
      std::getline(stream >> std::ws, layer.reason);
      continue;
    }
    if (!(stream >> std::quoted(cell))) fail("pare.plan.101", "", "line {}: the column '{}' is missing", at, column);
    if (column == "layer") layer.name = cell;
    if (column == "bits") layer.weights = {number<int>(cell, at, "number of bits")};
    if (column == "weights") layer.entries = number<std::int64_t>(cell, at, "number of weights");
    if (column == "damage") layer.damage = number<double>(cell, at, "damage");
    if (column == "ms") layer.latency_ms = number<double>(cell, at, "latency");
  }
  const auto bits = layer.weights.count;
  if ((bits < 2 || bits > 8) && bits != kFloatBits && bits != kHalfBits)
    fail("pare.plan.101", layer.name, "line {}: {} bits; 2 to 8 are possible, {} for bf16 and {} for float", at, bits,
         kHalfBits, kFloatBits);
  return layer;
}

std::string groups_text(const std::vector<Plan::Group>& groups) {
  if (groups.empty()) return {};
  std::size_t width = 5;
  for (const auto& group : groups) width = std::max(width, name_cell(group.name).size());
  const auto row = [&](const auto& name, const auto& ratio, const auto& units, const auto& damage,
                       const std::string& reason) {
    auto line = fmt::format("{:<{}}  {:<5}  {:<6}  {:<11}  {}", name, width, ratio, units, damage, reason);
    return line.erase(line.find_last_not_of(' ') + 1) + "\n";
  };
  std::string text = "\n";
  text += row("group", "ratio", "units", "damage", "reason");
  for (const auto& group : groups)
    text +=
        row(name_cell(group.name), group.ratio.fraction, group.units, fmt::format("{}", group.damage), group.reason);
  return text;
}

}  // namespace

Plan Plan::parse(std::string_view text) {
  Plan plan;
  std::istringstream stream{std::string(text)};
  std::vector<std::string> columns;
  std::map<std::string, std::size_t> seen;
  std::size_t at = 0;
  bool groups = false;
  for (std::string line; std::getline(stream, line);) {
    ++at;
    line = without_comment(line);
    if (line.empty()) continue;
    if (columns.empty() || starts_groups(line)) {
      columns = header(line, at);
      groups = std::ranges::find(columns, "group") != columns.end();
      continue;
    }
    if (groups) {
      plan.groups.push_back(read_group(line, columns, at));
    } else {
      plan.layers.push_back(read_layer(line, columns, at));
    }
    const auto& name = groups ? plan.groups.back().name : plan.layers.back().name;
    if (!seen.emplace((groups ? "group " : "layer ") + name, at).second)
      fail("pare.plan.101", name, "line {}: this {} is in line {} already", at, groups ? "group" : "layer",
           seen[(groups ? "group " : "layer ") + name]);
  }
  if (columns.empty()) fail("pare.plan.101", "", "a plan starts with a header: layer bits");
  return plan;
}

std::string Plan::text() const {
  std::size_t width = 5;
  for (const auto& layer : layers) width = std::max(width, name_cell(layer.name).size());
  const bool timed = latency_ms() > 0;
  const auto row = [&](const auto& name, const auto& bits, const auto& entries, const auto& damage, const auto& ms,
                       const std::string& reason) {
    auto line = fmt::format("{:<{}}  {:<4}  {:<9}  {:<11}  ", name, width, bits, entries, damage);
    if (timed) line += fmt::format("{:<8}  ", ms);
    line += reason;
    return line.erase(line.find_last_not_of(' ') + 1) + "\n";
  };
  auto text = row("layer", "bits", "weights", "damage", "ms", "reason");
  for (const auto& layer : layers)
    text += row(name_cell(layer.name), layer.weights.count, layer.entries, fmt::format("{}", layer.damage),
                layer.latency_ms, layer.reason);
  if (timed) text += fmt::format("# {:.3f} bits a weight, {:.4f} ms a call\n", average_bits(), latency_ms());
  return text + groups_text(groups);
}

double Plan::average_bits() const {
  double bits = 0, entries = 0;
  for (const auto& layer : layers) {
    bits += static_cast<double>(layer.entries) * layer.weights.count;
    entries += static_cast<double>(layer.entries);
  }
  return entries > 0 ? bits / entries : 0.0;
}

double Plan::damage() const {
  double sum = 0;
  for (const auto& layer : layers) sum += layer.damage;
  for (const auto& group : groups) sum += group.damage;
  return sum;
}

double Plan::latency_ms() const {
  double sum = 0;
  for (const auto& layer : layers) sum += layer.latency_ms;
  return sum;
}

std::vector<std::pair<std::string, Bits>> Plan::layer_weights() const {
  std::vector<std::pair<std::string, Bits>> result;
  for (const auto& layer : layers)
    if (layer.weights.count < kHalfBits) result.emplace_back(layer.name, layer.weights);
  return result;
}

std::vector<std::string> Plan::float_layers() const {
  std::vector<std::string> result;
  for (const auto& layer : layers)
    if (layer.weights.count >= kHalfBits) result.push_back(layer.name);
  return result;
}

std::vector<std::string> Plan::bf16_layers() const {
  std::vector<std::string> result;
  for (const auto& layer : layers)
    if (layer.weights.count == kHalfBits) result.push_back(layer.name);
  return result;
}

std::vector<std::pair<std::string, Ratio>> Plan::group_ratios() const {
  std::vector<std::pair<std::string, Ratio>> result;
  for (const auto& group : groups)
    if (group.ratio.fraction > 0) result.emplace_back(group.name, group.ratio);
  return result;
}

std::ostream& operator<<(std::ostream& stream, const Plan& plan) { return stream << plan.text(); }

PARE_NAMESPACE_END
