#include "pare/pipeline/pipeline_report.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <ostream>

PARE_NAMESPACE_BEGIN

namespace {

nlohmann::ordered_json to_json(const Measurement& one) {
  nlohmann::ordered_json entry{{"metric", nullptr},
                               {"weight_bytes", one.weight_bytes},
                               {"latency_ms", one.latency.median_ms},
                               {"latency_p99_ms", one.latency.p99_ms}};
  if (one.metric) entry["metric"] = *one.metric;
  return entry;
}

}  // namespace

std::string PipelineReport::text() const {
  auto result = fmt::format("{:<16}{:>14}{:>14}\n", "", "before", "after");
  if (before.metric && after.metric)
    result += fmt::format("{:<16}{:>14.4f}{:>14.4f}  {:+.4f}\n", "metric", *before.metric, *after.metric,
                          *after.metric - *before.metric);
  if (drop) result += fmt::format("{:<16}{}\n", "drop", drop->text());
  for (const auto& head : heads)
    result += fmt::format("{:<16}{:>14.4f}{:>14.4f}  drop {}{}\n", head.name, head.before, head.after, head.drop.text(),
                          head.max_drop ? fmt::format(", {:.4f} allowed", *head.max_drop) : "");
  const auto row = [&](const char* name, double was, double is, int digits) {
    result +=
        fmt::format("{:<16}{:>14.{}f}{:>14.{}f}  x{:.2f}\n", name, was, digits, is, digits, is > 0 ? was / is : 0);
  };
  row("weight bytes", static_cast<double>(before.weight_bytes), static_cast<double>(after.weight_bytes), 0);
  row("latency ms", before.latency.median_ms, after.latency.median_ms, 4);
  row("latency P99 ms", before.latency.p99_ms, after.latency.p99_ms, 4);
  if (!shortfall.empty()) result += "short of the budget: " + shortfall + "\n";
  return result + "\n" + steps.text();
}

std::string PipelineReport::json(int indent) const {
  const auto parsed = nlohmann::ordered_json::parse(steps.json());
  nlohmann::ordered_json estimate;
  if (drop) estimate = {{"seen", drop->drop}, {"low", drop->low}, {"high", drop->high}, {"samples", drop->samples}};
  auto tasks = nlohmann::ordered_json::array();
  for (const auto& head : heads) {
    nlohmann::ordered_json entry{
        {"name", head.name},    {"before", head.before},  {"after", head.after},          {"drop", head.drop.drop},
        {"low", head.drop.low}, {"high", head.drop.high}, {"samples", head.drop.samples}, {"max_drop", nullptr}};
    if (head.max_drop) entry["max_drop"] = *head.max_drop;
    tasks.push_back(std::move(entry));
  }
  return nlohmann::ordered_json{
      {"before", to_json(before)}, {"after", to_json(after)},    {"drop", estimate},          {"heads", tasks},
      {"shortfall", shortfall},    {"stages", parsed["stages"]}, {"layers", parsed["layers"]}}
      .dump(indent);
}

std::ostream& operator<<(std::ostream& stream, const PipelineReport& report) { return stream << report.text(); }

PARE_NAMESPACE_END
