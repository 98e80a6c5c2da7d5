#include "pipeline/report_samples.hpp"

#include <ATen/ATen.h>

#include <algorithm>

#include "pare/graph/op_family.hpp"
#include "pipeline/bitmap.hpp"
#include "pipeline/svg.hpp"

PARE_NAMESPACE_BEGIN

namespace {

constexpr std::int64_t kSamplesShown = 3, kPictureSide = 96;
constexpr std::size_t kLayersShown = 3;

bool is_map(const at::Tensor& values) {
  return values.defined() && values.is_floating_point() && values.dim() == 4 && values.size(2) >= 3 &&
         values.size(3) >= 3;
}

at::Tensor between_0_and_1(const at::Tensor& values) {
  const auto low = values.min(), span = values.max() - low;
  return (values - low) / span.clamp_min(1e-12);
}

at::Tensor resized(const at::Tensor& map, std::int64_t height, std::int64_t width) {
  return at::upsample_bilinear2d(map.to(at::kFloat).unsqueeze(0).unsqueeze(0), {height, width}, false)[0][0];
}

// Where a layer is active: the mean over its channels; a map of one channel as it is.
at::Tensor activity(const at::Tensor& map) { return between_0_and_1(map.size(0) == 1 ? map[0] : map.abs().mean(0)); }

std::string figure(const std::string& address, std::string_view caption) {
  return "<figure><img alt=\"" + escaped(caption) + "\" src=\"" + address + "\"><figcaption>" + escaped(caption) +
         "</figcaption></figure>\n";
}

}  // namespace

ReportSamples::Side ReportSamples::run(const Model& model, const Batch& samples) {
  const at::NoGradGuard no_grad;
  const auto& graph = model.graph();
  Side side;
  side.outputs = model.run(samples, [&](ValueId id, const at::Tensor& tensor) {
    if (!tensor.defined() || !tensor.is_floating_point()) return;
    const auto* node = graph.producer(id);
    if (node == nullptr) return;
    if (family_of(node->op) == OpFamily::FakeQuantize) node = graph.producer(node->input(0));
    if (node != nullptr) side.layers[node->name] = tensor;
  });
  return side;
}

ReportSamples::ReportSamples(const Batch& samples, const Model& before, const Model& after) {
  if (samples.empty()) return;
  Batch few;
  for (const auto& input : samples) {
    const bool rows = input.defined() && input.dim() > 0 && input.size(0) > kSamplesShown;
    few.push_back(rows ? input.narrow(0, 0, kSamplesShown).contiguous() : input);
  }
  if (is_map(few[0])) input_ = few[0];
  before_ = run(before, few);
  after_ = run(after, few);
}

std::string ReportSamples::histogram(const std::string& layer) const {
  const auto was = before_.layers.find(layer), is = after_.layers.find(layer);
  if (was == before_.layers.end() || is == after_.layers.end()) return {};
  const auto a = was->second.to(at::kFloat), b = is->second.to(at::kFloat);
  if (a.numel() == 0 || b.numel() == 0) return {};
  const auto low = a.min().item<double>(), high = a.max().item<double>();
  if (!(high > low)) return {};
  const auto counts = [&](const at::Tensor& values) {
    const auto all = at::histc(values, 32, low, high).to(at::kDouble);
    // Shares: a layer may have lost channels. Roots: most values are near 0.
    const auto shares = (all / static_cast<double>(values.numel())).sqrt().contiguous();
    return std::vector<double>(shares.const_data_ptr<double>(), shares.const_data_ptr<double>() + shares.numel());
  };
  return sparkline(counts(b), counts(a));
}

// Some that are maps on both sides, from the first to the last.
std::vector<std::string> ReportSamples::chosen(const std::vector<std::string>& layers) const {
  std::vector<std::string> maps, some;
  for (const auto& layer : layers) {
    const auto was = before_.layers.find(layer), is = after_.layers.find(layer);
    if (was != before_.layers.end() && is != after_.layers.end() && is_map(was->second) && is_map(is->second))
      maps.push_back(layer);
  }
  const auto count = std::min(kLayersShown, maps.size());
  for (std::size_t i = 0; i < count; ++i) some.push_back(maps[count > 1 ? i * (maps.size() - 1) / (count - 1) : 0]);
  return some;
}

std::string ReportSamples::pictures(const std::vector<std::string>& layers) const {
  if (!input_.defined()) return {};
  const auto tall = input_.size(2), wide = input_.size(3), side = std::max(tall, wide);
  const auto height = std::max<std::int64_t>(1, kPictureSide * tall / side),
             width = std::max<std::int64_t>(1, kPictureSide * wide / side);
  const auto shown = chosen(layers);
  std::string html;
  for (std::int64_t i = 0; i < input_.size(0); ++i) {
    const auto grey = resized(between_0_and_1(input_[i].mean(0)), height, width);
    html += "<div class=\"strip\">\n" + figure(bitmap_address(grey), fmt::format("sample {}", i + 1));
    const auto overlay = [&](const at::Tensor& map, const std::string& caption) {
      if (is_map(map) && i < map.size(0))
        html += figure(bitmap_address(grey, resized(activity(map[i]), height, width)), caption);
    };
    for (const auto& layer : shown) {
      overlay(before_.layers.at(layer), layer + ", before");
      overlay(after_.layers.at(layer), layer + ", after");
    }
    for (std::size_t out = 0; out < std::min(before_.outputs.size(), after_.outputs.size()); ++out) {
      overlay(before_.outputs[out], fmt::format("output {}, before", out + 1));
      overlay(after_.outputs[out], fmt::format("output {}, after", out + 1));
    }
    html += "</div>\n";
  }
  return html;
}

PARE_NAMESPACE_END
