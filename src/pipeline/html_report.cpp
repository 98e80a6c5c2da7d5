#include "pare/pipeline/html_report.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <ostream>
#include <span>

#include "core/replace_file.hpp"
#include "pare/analysis/layer_exchange.hpp"
#include "pare/core/error.hpp"
#include "pipeline/bitmap.hpp"
#include "pipeline/report_samples.hpp"
#include "pipeline/svg.hpp"

PARE_NAMESPACE_BEGIN

namespace {

constexpr std::string_view kStyle = R"(
:root{color-scheme:light dark;--ink:#1d2733;--soft:#5b6877;--line:#d5dce3;--paper:#fff;--accent:#0b6e99;--good:#2a7d3f;--mark:#c2571a}
@media(prefers-color-scheme:dark){:root{--ink:#e4e9ee;--soft:#9aa7b4;--line:#36404b;--paper:#151a20;--accent:#5bb8e0;--good:#6cc783;--mark:#f09a5c}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:0 auto;max-width:60rem;padding:1rem}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2rem}p.note,td.soft{color:var(--soft)}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem}td,th{padding:.25rem .7rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
td:first-child,th:first-child,td.text,th.text,td.name{text-align:left}td.text{white-space:normal;min-width:20rem}tr.kept td{font-weight:600}
.short{color:var(--mark)}.good{color:var(--good)}svg{width:100%;max-width:40rem;height:auto}svg.spark{width:6rem;height:1.2rem;display:block}td.mask{text-align:left;font-size:.8rem}
.bars{display:grid;grid-template-columns:max-content minmax(6rem,1fr) max-content;gap:.25rem .7rem;max-width:44rem;font-size:.9rem;align-items:center}
.bars .name{text-align:right;overflow-wrap:anywhere}.bars .track i{display:block;height:.8rem;background:var(--accent);min-width:2px}.bars .value{color:var(--soft)}

svg text{font:11px system-ui,sans-serif;fill:var(--ink)}svg .tick{fill:var(--soft)}svg .title{font-size:12px}.grid{stroke:var(--line)}
.outline{fill:none;stroke:var(--mark)}.gone{fill:var(--line)}
.strip{display:flex;flex-wrap:wrap;gap:.6rem;margin:.6rem 0 1.4rem}figure{margin:0;width:6rem}figure img,td img{width:100%;height:auto;image-rendering:pixelated;display:block}
figcaption{font-size:.7rem;color:var(--soft);overflow-wrap:anywhere;line-height:1.25}td img{width:6rem}
.bar,.point{fill:var(--accent)}.strong{fill:var(--mark)}.dot{display:inline-block;width:.7rem;height:.7rem;border-radius:50%;background:var(--accent);border:1px solid var(--accent)}.dot.mark{background:var(--mark);border-color:var(--mark)}.dot.open{background:none;border-color:var(--soft)}.faint{fill:none;stroke:var(--soft)}
@media(max-width:40rem){.bars{grid-template-columns:1fr max-content}.bars .name{grid-column:1/-1;text-align:left;margin-top:.3rem}svg text,svg .title{font-size:15px}body{padding:.7rem}}
)";

std::string cell(std::string_view text, std::string_view kind = "") {
  return kind.empty() ? fmt::format("<td>{}</td>", escaped(text))
                      : fmt::format("<td class=\"{}\">{}</td>", kind, escaped(text));
}

std::string header(const std::vector<std::string>& names) {
  std::string row = "<tr>";
  for (const auto& name : names)
    row +=
        fmt::format("<th{}>{}</th>", name == "reason" || name == "candidate" ? " class=\"text\"" : "", escaped(name));
  return row + "</tr>\n";
}

std::string metric_text(const std::optional<double>& metric) { return metric ? fmt::format("{:.4f}", *metric) : "–"; }

std::string factor(double before, double after) { return after > 0 ? fmt::format("×{:.2f}", before / after) : "–"; }

std::string before_and_after(const PipelineReport& report) {
  std::string html = "<div class=\"wide\"><table>\n" + header({"", "before", "after", ""});
  const auto row = [&](std::string_view name, const std::string& before, const std::string& after,
                       const std::string& by) {
    html += "<tr>" + cell(name) + cell(before) + cell(after) + cell(by) + "</tr>\n";
  };
  if (report.before.metric)
    row("metric", metric_text(report.before.metric), metric_text(report.after.metric),
        report.after.metric ? fmt::format("{:+.4f}", *report.after.metric - *report.before.metric) : "");
  row("bytes of weights", fmt::format("{}", report.before.weight_bytes), fmt::format("{}", report.after.weight_bytes),
      factor(static_cast<double>(report.before.weight_bytes), static_cast<double>(report.after.weight_bytes)));
  row("median ms", fmt::format("{:.4f}", report.before.latency.median_ms),
      fmt::format("{:.4f}", report.after.latency.median_ms),
      factor(report.before.latency.median_ms, report.after.latency.median_ms));
  row("P99 ms", fmt::format("{:.4f}", report.before.latency.p99_ms), fmt::format("{:.4f}", report.after.latency.p99_ms),
      factor(report.before.latency.p99_ms, report.after.latency.p99_ms));
  html += "</table></div>\n";
  if (report.drop) html += "<p class=\"note\">Drop of the metric: " + escaped(report.drop->text()) + "</p>\n";
  html += report.within_budget() ? "<p class=\"good\">Within the budget.</p>\n"
                                 : "<p class=\"short\">Short of the budget: " + escaped(report.shortfall) + "</p>\n";
  return html;
}

std::string savings(const PipelineReport& report, const HtmlReportOptions& options) {
  if (!(options.watts > 0)) return {};
  const auto kwh = [&](const Measurement& one) {
    constexpr double kInferences = 1e6, kMsPerHour = 3.6e6;
    return one.latency.median_ms * kInferences / kMsPerHour * options.watts / 1000;
  };
  const auto before = kwh(report.before), after = kwh(report.after);
  std::string html =
      "<h2>A million inferences</h2><div class=\"wide\"><table>\n" + header({"", "before", "after", "saved"});
  const auto row = [&](const std::string& name, double rate) {
    html += "<tr>" + cell(name) + cell(fmt::format("{:.4g}", before * rate)) +
            cell(fmt::format("{:.4g}", after * rate)) + cell(fmt::format("{:.4g}", (before - after) * rate)) +
            "</tr>\n";
  };
  row("energy, kWh", 1);
  if (options.grams_per_kwh > 0) row("CO2, g", options.grams_per_kwh);
  if (options.price_per_kwh > 0) row("cost, " + options.currency, options.price_per_kwh);
  return html +
         fmt::format("</table></div><p class=\"note\">At {:.4g} W, one call after the other.</p>\n", options.watts);
}

std::string heads(const PipelineReport& report) {
  if (report.heads.empty()) return {};
  std::string html = "<h2>Heads</h2><div class=\"wide\"><table>\n" +
                     header({"head", "before", "after", "drop", "95 %", "allowed", ""});
  for (const auto& head : report.heads)
    html += "<tr>" + cell(head.name) + cell(fmt::format("{:.4f}", head.before)) +
            cell(fmt::format("{:.4f}", head.after)) + cell(fmt::format("{:.4f}", head.drop.drop)) +
            cell(fmt::format("{:.4f} to {:.4f}", head.drop.low, head.drop.high)) + cell(metric_text(head.max_drop)) +
            cell(head.within_budget() ? "kept" : "short", head.within_budget() ? "good" : "short") + "</tr>\n";
  return html + "</table></div>\n";
}

std::string candidates(const AutoResult& result) {
  std::vector<PlotPoint> points;
  std::string html = "<h2>Candidates</h2>\n", table = "<div class=\"wide\"><table>\n";
  const bool judged = result.report.drop.has_value();
  std::vector<std::string> columns{"", "candidate", "metric"};
  if (judged) columns.insert(columns.end(), {"drop", "95 %"});
  for (const auto& head : result.report.heads) columns.push_back("drop of " + head.name);
  for (const auto* one : {"bytes", "stored", "ms", "reason"}) columns.emplace_back(one);
  table += header(columns);
  int row = 0;
  for (const auto& one : result.candidates) {
    const auto number = fmt::format("{}", ++row);
    table += fmt::format("<tr{}>", one.kept ? " class=\"kept\"" : "") + cell(number) + cell(one.name, "name") +
             cell(metric_text(one.measured.metric));
    if (judged)
      table += cell(fmt::format("{:.4f}", one.drop.drop)) +
               cell(fmt::format("{:.4f} to {:.4f}", one.drop.low, one.drop.high));
    for (const auto& head : one.heads)
      table += cell(fmt::format("{:.4f}", head.drop.drop), head.within_budget() ? "" : "short");
    table += cell(fmt::format("{}", one.measured.weight_bytes)) + cell(fmt::format("{}", one.stored)) +
             cell(fmt::format("{:.4f}", one.measured.latency.median_ms)) + cell(one.reason, "text") + "</tr>\n";
    if (one.measured.metric)
      points.push_back({static_cast<double>(one.stored) / 1024, *one.measured.metric, number, one.kept, !one.on_front});
  }
  if (!points.empty())
    html +=
        scatter(points, "KiB of weights, each at its own width", "metric") +
        "<p class=\"note\"><span class=\"dot mark\"></span> chosen <span class=\"dot\"></span> on the Pareto front of "
        "metric, bytes and latency <span class=\"dot open\"></span> behind it; numbers as in the table</p>\n";
  return html + table + "</table></div>\n";
}

std::string sensitivity(const AutoResult& result) {
  if (!result.sensitivity || result.sensitivity->variants().empty()) return {};
  std::vector<Bar> all;
  for (const auto& layer : result.sensitivity->layers())
    all.push_back({layer.name, layer.damage.back(), fmt::format("{:.3g}", layer.damage.back())});
  return "<h2>What each layer bears</h2>\n<p class=\"note\">What the outputs lose (divergence in nats; where they are "
         "no "
         "classes, noise by signal) with this layer alone as " +
         escaped(result.sensitivity->variants().back()) + ".</p>\n" + bars(all);
}

// The channels of the original weight that are left, through the selections since.
std::vector<std::int64_t> channels_left(std::span<const Narrowing> steps, std::int64_t total) {
  std::vector<std::int64_t> kept(static_cast<std::size_t>(total));
  std::iota(kept.begin(), kept.end(), 0);
  for (const auto& step : steps) {
    if (step.dim != 0) continue;
    std::vector<std::int64_t> fewer;
    for (const auto index : step.kept) fewer.push_back(kept.at(static_cast<std::size_t>(index)));
    kept = std::move(fewer);
  }
  return kept;
}

// Which of a layer's channels are left, and which of its weights, where some are zero.
std::string mask(const AutoResult& result, const std::string& path) {
  const auto& weight = result.model.weight(path);
  std::string html;
  const auto before = result.original.weights().find(path);
  if (before != result.original.weights().end() && before->second.tensor.size(0) > weight.size(0)) {
    const auto total = before->second.tensor.size(0);
    const std::span steps(result.model.weights().narrowings(path));
    // The original may have been pruned before: its own selections lead to it, not on from it.
    const auto earlier = std::min(before->second.narrowings.size(), steps.size());
    html += fmt::format("{} of {}", weight.size(0), total) +
            channel_strip(total, channels_left(steps.subspan(earlier), total));
  }
  constexpr double kSparse = 0.3;  // few bits round a tenth to zero
  const auto present = weight.detach().ne(0).flatten(1).to(at::kFloat);
  if (const auto zeros = 1 - present.mean().item<double>(); zeros > kSparse) {
    constexpr std::int64_t kSide = 96;
    const auto picture = at::adaptive_avg_pool2d(
        present.unsqueeze(0), {std::min(kSide, present.size(0)), std::min(kSide, present.size(1))})[0];
    html += fmt::format("{:.0f} % zero<img alt=\"weights that are not zero\" src=\"{}\">", 100 * zeros,
                        bitmap_address(picture));
  }
  return html;
}

std::string layers(const AutoResult& result, const LayerExchange& exchange, const ReportSamples& samples) {
  std::string html =
      "<h2>Layers</h2>\n<p class=\"note\">Activations: roots of shares, bars after, the line before. "
      "Mask: output channels that are left.</p>\n<div class=\"wide\"><table>\n" +
      header({"layer", "bits", "weights", "weight histogram", "activations", "mask", "decision", "reason"});
  const at::NoGradGuard no_grad;
  for (const auto& layer : exchange.layers()) {
    const auto planned = std::ranges::find(result.plan.layers, layer.name, &Plan::Layer::name);
    const auto counts = at::histc(result.model.weight(layer.weight).detach().to(at::kFloat), 32).to(at::kDouble);
    const auto rows = result.report.steps.rows(layer.name);
    std::string reason;
    for (const auto& row : rows) reason += (reason.empty() ? "" : "; ") + row.reason;
    html += "<tr>" + cell(layer.name) +
            cell(planned == result.plan.layers.end() ? "" : fmt::format("{}", planned->weights.count)) +
            cell(fmt::format("{}", layer.entries)) + "<td>" +
            sparkline({counts.const_data_ptr<double>(), counts.const_data_ptr<double>() + counts.numel()}) +
            "</td><td>" + samples.histogram(layer.name) + "</td><td class=\"mask\">" + mask(result, layer.weight) +
            "</td>" + cell(rows.empty() ? "" : to_string(rows.back().decision)) + cell(reason, "text") + "</tr>\n";
  }
  return html + "</table></div>\n";
}

std::string pictures(const LayerExchange& exchange, const ReportSamples& samples) {
  std::vector<std::string> names;
  for (const auto& layer : exchange.layers()) names.push_back(layer.name);
  const auto strips = samples.pictures(names);
  return strips.empty()
             ? ""
             : "<h2>Samples</h2>\n<p class=\"note\">Where layers are active, mean over channels, and outputs "
               "that are maps: orange over the sample, before and after.</p>\n" +
                   strips;
}

std::string timeline(const PipelineReport& report) {
  std::vector<Bar> all;
  for (const auto& stage : report.steps.stages())
    all.push_back({stage.pass, stage.seconds, fmt::format("{:.1f} s", stage.seconds)});
  return all.empty() ? "" : "<h2>Time</h2>\n" + bars(all);
}

}  // namespace

std::string html_report(const AutoResult& result, const HtmlReportOptions& options) {
  const auto title = escaped(options.title);
  const LayerExchange exchange(result.model);
  const ReportSamples samples(options.samples, result.original, result.model);
  return "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
         "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>" +
         title + "</title><style>" + std::string(kStyle) + "</style></head><body>\n<h1>" + title + "</h1>\n" +
         before_and_after(result.report) + heads(result.report) + savings(result.report, options) + candidates(result) +
         sensitivity(result) + layers(result, exchange, samples) + pictures(exchange, samples) +
         timeline(result.report) + "</body></html>\n";
}

void write_html_report(const std::string& path, const AutoResult& result, const HtmlReportOptions& options) {
  const auto page = html_report(result, options);
  if (!replace_file(path, [&](std::ostream& file) { file << page; }))
    fail("pare.pipeline.106", path, "the report cannot be written: no such folder, no permission or a full disk");
}

PARE_NAMESPACE_END
