#include "pare/pass/report.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>
#include <ostream>
#include <set>

PARE_NAMESPACE_BEGIN

namespace {

using Table = std::vector<std::vector<std::string>>;

// Columns as wide as their widest cell; the last one runs free.
std::string align(const Table& table) {
  std::vector<std::size_t> widths;
  for (const auto& row : table) {
    widths.resize(std::max(widths.size(), row.size()), 0);
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : table) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i)
      line += i + 1 == row.size() ? row[i] : fmt::format("{:<{}}  ", row[i], widths[i]);
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

std::string stage_table(const std::vector<ReportStage>& stages) {
  Table table{{"stage", "outcome", "seconds", "metric", "weight bytes", "reason"}};
  for (const auto& stage : stages)
    table.push_back({stage.pass, stage.kept ? "kept" : "rolled back", fmt::format("{:.2f}", stage.seconds),
                     stage.metric ? fmt::format("{:.4f}", *stage.metric) : "",
                     stage.weight_bytes ? fmt::format("{}", *stage.weight_bytes) : "", stage.reason});
  return align(table);
}

nlohmann::ordered_json number(double value) {
  return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr);
}

}  // namespace

std::string_view to_string(Decision decision) noexcept { return decision == Decision::Done ? "done" : "declined"; }

Report::Report() = default;
Report::Report(const Report& other) = default;
Report::Report(Report&& other) noexcept = default;
Report& Report::operator=(const Report& other) = default;
Report& Report::operator=(Report&& other) noexcept = default;
Report::~Report() = default;

void Report::add(ReportRow row) { rows_.push_back(std::move(row)); }
void Report::add(ReportStage stage) { stages_.push_back(std::move(stage)); }

bool Report::set_figure(std::string_view layer, std::string_view figure, double value) {
  const auto row = std::find_if(rows_.rbegin(), rows_.rend(), [&](const auto& r) { return r.layer == layer; });
  if (row == rows_.rend()) return false;
  row->figures.insert_or_assign(std::string(figure), value);
  return true;
}

void Report::revoke(std::size_t first, std::string_view reason) {
  for (auto i = first; i < rows_.size(); ++i) {
    if (rows_[i].decision == Decision::Declined) continue;
    rows_[i].decision = Decision::Declined;
    rows_[i].reason = fmt::format("rolled back ({}): {}", reason, rows_[i].reason);
  }
}

void Report::append(const Report& other) {
  rows_.insert(rows_.end(), other.rows_.begin(), other.rows_.end());
  stages_.insert(stages_.end(), other.stages_.begin(), other.stages_.end());
}

std::vector<ReportRow> Report::rows(std::string_view layer) const {
  std::vector<ReportRow> found;
  std::copy_if(rows_.begin(), rows_.end(), std::back_inserter(found),
               [&](const auto& row) { return row.layer == layer; });
  return found;
}

std::size_t Report::count(Decision decision) const noexcept {
  return static_cast<std::size_t>(
      std::count_if(rows_.begin(), rows_.end(), [&](const auto& row) { return row.decision == decision; }));
}

std::string Report::text() const {
  std::string text;
  if (stages_.size() > 1) text += stage_table(stages_) + "\n";
  std::set<std::string> figures;
  for (const auto& row : rows_)
    for (const auto& [name, value] : row.figures) figures.insert(name);
  Table table{{"layer", "op", "pass", "decision"}};
  table.front().insert(table.front().end(), figures.begin(), figures.end());
  table.front().emplace_back("reason");
  for (const auto& row : rows_) {
    std::vector<std::string> cells{row.layer, row.op, row.pass, std::string(to_string(row.decision))};
    for (const auto& figure : figures) {
      const auto found = row.figures.find(figure);
      cells.push_back(found == row.figures.end() ? "" : fmt::format("{:.4g}", found->second));
    }
    cells.push_back(row.reason);
    table.push_back(std::move(cells));
  }
  return text + align(table) + fmt::format("{} done, {} declined\n", count(Decision::Done), count(Decision::Declined));
}

std::string Report::json(int indent) const {
  nlohmann::ordered_json stages = nlohmann::ordered_json::array(), layers = nlohmann::ordered_json::array();
  for (const auto& stage : stages_) {
    nlohmann::ordered_json entry{{"pass", stage.pass}, {"kept", stage.kept}, {"seconds", number(stage.seconds)}};
    if (!stage.reason.empty()) entry["reason"] = stage.reason;
    if (stage.metric) entry["metric"] = number(*stage.metric);
    if (stage.weight_bytes) entry["weight_bytes"] = *stage.weight_bytes;
    stages.push_back(std::move(entry));
  }
  for (const auto& row : rows_) {
    nlohmann::ordered_json entry{{"name", row.layer},
                                 {"op", row.op},
                                 {"pass", row.pass},
                                 {"decision", to_string(row.decision)},
                                 {"reason", row.reason}};
    for (const auto& [name, value] : row.figures) entry[name] = number(value);
    layers.push_back(std::move(entry));
  }
  // Layer names and reasons come from the host: what is no UTF-8 must not make the report fail.
  return nlohmann::ordered_json{{"stages", stages}, {"layers", layers}}.dump(
      indent, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

std::ostream& operator<<(std::ostream& stream, const Report& report) { return stream << report.text(); }

PARE_NAMESPACE_END
