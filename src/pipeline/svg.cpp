#include "pipeline/svg.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

PARE_NAMESPACE_BEGIN

namespace {

// A step of 1, 2 or 5 times a power of ten that gives about `count` ticks.
double nice_step(double span, int count) {
  const auto raw = span / count;
  const auto power = std::pow(10.0, std::floor(std::log10(raw)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (raw <= factor * power) return factor * power;
  return 10 * power;
}

/// Numbers of one axis to places of the drawing.
class Axis {
 public:
  Axis(double low, double high, double from, double to) : low_(low), high_(high), from_(from), to_(to) {
    const auto margin = high > low ? 0.08 * (high - low) : std::max(1e-6, 0.05 * std::abs(high));
    low_ -= margin;
    high_ += margin;
  }
  [[nodiscard]] double at(double value) const { return from_ + (value - low_) / (high_ - low_) * (to_ - from_); }
  [[nodiscard]] std::vector<double> ticks() const {
    const auto step = nice_step(high_ - low_, 5);
    std::vector<double> ticks;
    for (auto value = std::ceil(low_ / step) * step; value <= high_; value += step) ticks.push_back(value);
    return ticks;
  }

 private:
  double low_, high_, from_, to_;
};

}  // namespace

std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : text) switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      case '\'':
        result += "&#39;";
        break;
      default:
        if (static_cast<unsigned char>(c) >= 0x20 || c == '\n' || c == '\t') result += c;
    }
  return result;
}

std::string scatter(const std::vector<PlotPoint>& points, std::string_view x_title, std::string_view y_title) {
  if (points.empty()) return {};
  constexpr double kWidth = 640, kHeight = 340, kLeft = 64, kRight = 24, kTop = 16, kBottom = 48;
  const auto [left, right] = std::ranges::minmax(points, {}, &PlotPoint::x);
  const auto [low, high] = std::ranges::minmax(points, {}, &PlotPoint::y);
  const Axis x(left.x, right.x, kLeft, kWidth - kRight), y(low.y, high.y, kHeight - kBottom, kTop);
  auto svg = fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{} against {}\">\n", kWidth, kHeight,
                         escaped(y_title), escaped(x_title));
  for (const auto tick : x.ticks())
    svg += fmt::format(
        "<line class=\"grid\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2}\"/>"
        "<text class=\"tick\" x=\"{0:.1f}\" y=\"{3}\" text-anchor=\"middle\">{4:.4g}</text>\n",
        x.at(tick), kTop, kHeight - kBottom, kHeight - kBottom + 16, tick);
  for (const auto tick : y.ticks())
    svg += fmt::format(
        "<line class=\"grid\" x1=\"{0}\" x2=\"{1}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/>"
        "<text class=\"tick\" x=\"{3}\" y=\"{4:.1f}\" text-anchor=\"end\">{5:.4g}</text>\n",
        kLeft, kWidth - kRight, y.at(tick), kLeft - 6, y.at(tick) + 4, tick);
  svg += fmt::format("<text class=\"title\" x=\"{:.0f}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
                     (kLeft + kWidth - kRight) / 2, kHeight - 8, escaped(x_title));
  svg += fmt::format(
      "<text class=\"title\" transform=\"translate(14 {:.0f}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
      (kTop + kHeight - kBottom) / 2, escaped(y_title));
  for (const auto& point : points) {
    const bool far_right = x.at(point.x) > kWidth * 0.6;
    svg += fmt::format(
        "<circle class=\"{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\"/><text class=\"label\" x=\"{:.1f}\" "
        "y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n",
        point.strong  ? "strong"
        : point.faint ? "faint"
                      : "point",
        x.at(point.x), y.at(point.y), point.strong ? 7 : 5, x.at(point.x) + (far_right ? -10 : 10), y.at(point.y) + 4,
        far_right ? "end" : "start", escaped(point.label));
  }
  return svg + "</svg>\n";
}

std::string bars(const std::vector<Bar>& all) {
  if (all.empty()) return {};
  constexpr double kWidth = 640, kRow = 18, kLabel = 220, kText = 90;
  double most = 0;
  for (const auto& bar : all) most = std::max(most, bar.value);
  auto svg =
      fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\">\n", kWidth, kRow * static_cast<double>(all.size()) + 4);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto top = kRow * static_cast<double>(i) + 2;
    const auto length = most > 0 ? std::max(0.0, all[i].value / most) * (kWidth - kLabel - kText) : 0.0;
    svg += fmt::format(
        "<text class=\"label\" x=\"{}\" y=\"{:.0f}\" text-anchor=\"end\">{}</text>"
        "<rect class=\"bar\" x=\"{}\" y=\"{:.0f}\" width=\"{:.1f}\" height=\"{}\"/>"
        "<text class=\"tick\" x=\"{:.1f}\" y=\"{:.0f}\">{}</text>\n",
        kLabel - 6, top + 12, escaped(all[i].label), kLabel, top + 2, std::max(1.0, length), kRow - 5,
        kLabel + length + 6, top + 12, escaped(all[i].text));
  }
  return svg + "</svg>\n";
}

std::string sparkline(const std::vector<double>& counts) {
  if (counts.empty()) return {};
  constexpr double kBin = 3, kHeight = 20;
  const auto most = std::max(1e-9, *std::ranges::max_element(counts));
  auto svg =
      fmt::format("<svg class=\"spark\" viewBox=\"0 0 {} {}\">", kBin * static_cast<double>(counts.size()), kHeight);
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const auto height = counts[i] / most * kHeight;
    svg += fmt::format("<rect class=\"bar\" x=\"{}\" y=\"{:.1f}\" width=\"{}\" height=\"{:.1f}\"/>",
                       kBin * static_cast<double>(i), kHeight - height, kBin - 0.5, height);
  }
  return svg + "</svg>";
}

PARE_NAMESPACE_END
