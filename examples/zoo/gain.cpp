#include "examples/zoo/gain.hpp"

#include <fmt/format.h>
#include <torch/torch.h>

#include <algorithm>
#include <map>

#include "pare/analysis/cost.hpp"
#include "pare/analysis/latency.hpp"
#include "pare/graph/interpreter.hpp"

namespace zoo {

namespace {

std::map<std::string, double> macs_by_layer(const pare::Cost& cost) {
  std::map<std::string, double> macs;
  for (const auto& layer : cost.layers()) macs[layer.name] += static_cast<double>(layer.macs);
  return macs;
}

std::map<std::string, double> times_by_layer(const pare::ExecutionProfile& profile) {
  std::map<std::string, double> times;
  for (const auto& step : profile.steps) times[step.row.name] += step.ms;
  return times;
}

}  // namespace

std::string Gain::text(std::size_t count) const {
  auto text =
      fmt::format("compiled {:.3f} ms, pruned and compiled {:.3f} ms: {:.2f}x faster with {:.0f} % of the MACs\n",
                  before_ms, after_ms, before_ms / after_ms, 100 * macs_left);
  text += fmt::format("{:<34} {:>9} {:>9} {:>7} {:>7} {:>9}\n", "layer", "before ms", "after ms", "faster", "MACs",
                      "lost ms");
  for (std::size_t i = 0; i < std::min(count, rows.size()); ++i) {
    const auto& row = rows[i];
    text += fmt::format("{:<34} {:>9.3f} {:>9.3f} {:>6.2f}x {:>7} {:>9.3f}\n", row.layer, row.before_ms, row.after_ms,
                        row.before_ms / std::max(row.after_ms, 1e-9),
                        row.macs_left ? fmt::format("{:.0f} %", 100 * *row.macs_left) : "-", row.lost_ms);
  }
  return text;
}

Gain measure_gain(const pare::Model& before, const pare::Model& after, const pare::CompileOptions& options,
                  const std::vector<torch::Tensor>& inputs, double seconds) {
  const auto large = pare::compile(before, options);
  const auto small = pare::compile(after, options);
  const auto latency = pare::measure_latency(
      {[&] { static_cast<void>(large.run(inputs)); }, [&] { static_cast<void>(small.run(inputs)); }}, seconds / 2);
  const auto dims = pare::Interpreter::bind_dims(before.graph(), inputs);
  const pare::Cost whole(before, dims), rest(after, dims);
  Gain gain{latency[0].median_ms, latency[1].median_ms,
            static_cast<double>(rest.macs()) / static_cast<double>(whole.macs())};
  const auto macs_before = macs_by_layer(whole), macs_after = macs_by_layer(rest);
  const auto times_after = times_by_layer(small.profile(inputs, seconds / 4));
  for (const auto& [layer, ms] : times_by_layer(large.profile(inputs, seconds / 4))) {
    Gain::Row row{layer, ms};
    if (const auto found = times_after.find(layer); found != times_after.end()) row.after_ms = found->second;
    const auto had = macs_before.find(layer), has = macs_after.find(layer);
    if (had != macs_before.end() && has != macs_after.end() && had->second > 0)
      row.macs_left = has->second / had->second;
    row.lost_ms = row.after_ms - row.before_ms * row.macs_left.value_or(gain.macs_left);
    gain.rows.push_back(std::move(row));
  }
  std::ranges::sort(gain.rows, [](const auto& a, const auto& b) { return a.lost_ms > b.lost_ms; });
  return gain;
}

}  // namespace zoo
