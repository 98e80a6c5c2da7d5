#include "pipeline/svg.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

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
    // Numbers that differ by rounding alone are one: no tick would fit between them.
    const auto largest = std::max(std::abs(low), std::abs(high));
    const auto margin = high - low > 1e-9 * largest ? 0.08 * (high - low) : std::max(1e-6, 0.05 * largest);
    low_ -= margin;
    high_ += margin;
  }
  [[nodiscard]] double at(double value) const { return from_ + (value - low_) / (high_ - low_) * (to_ - from_); }
  [[nodiscard]] std::vector<double> ticks() const {
    const auto step = nice_step(high_ - low_, 5);
    const auto first = std::ceil(low_ / step);
    const auto count = static_cast<int>(std::floor(high_ / step) - first) + 1;
    std::vector<double> ticks;
    for (int i = 0; i < count; ++i) ticks.push_back((first + i) * step + 0.0);  // never -0
    return ticks;
  }

 private:
  double low_, high_, from_, to_;
};

/// What a label or a point covers: its middle, half its width and half its height.
struct Place {
  double x = 0, y = 0, wide = 0, high = 0;
  [[nodiscard]] bool meets(const Place& other) const {
    return std::abs(x - other.x) < wide + other.wide && std::abs(y - other.y) < high + other.high;
  }
};

// Beside, below or above a point, farther and farther out until there is room.
Place free_place(double x, double y, std::string_view label, std::vector<Place>& taken) {
  constexpr double kLetter = 4, kHalfLine = 7, kGap = 10;
  const auto wide = kLetter * static_cast<double>(label.size());
  Place place;
  for (double far = kGap; far < 120; far += 6) {
    for (const auto& [dx, dy] : {std::pair{1.0, 0.0}, {-1.0, 0.0}, {0.0, -1.0}, {0.0, 1.0}, {1.0, -1.0}, {-1.0, 1.0}}) {
      place = {x + dx * (far + wide), y + dy * (far + 4), wide, kHalfLine};
      if (std::ranges::none_of(taken, [&](const Place& other) { return place.meets(other); })) {
        taken.push_back(place);
        return place;
      }
    }
  }
  return place;
}

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
  std::string dots, labels;
  std::vector<Place> taken;
  for (const auto& point : points) taken.push_back({x.at(point.x), y.at(point.y), 8, 8});
  for (const auto& point : points) {
    const auto place = free_place(x.at(point.x), y.at(point.y), point.label, taken);
    dots += fmt::format("<circle class=\"{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\"/>\n",
                        point.strong  ? "strong"
                        : point.faint ? "faint"
                                      : "point",
                        x.at(point.x), y.at(point.y), point.strong ? 7 : 5);
    labels += fmt::format("<text class=\"label\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n", place.x,
                          place.y + 4, escaped(point.label));
  }
  return svg + dots + labels + "</svg>\n";
}

// Not SVG: text in a drawing becomes as narrow as the screen.
std::string bars(const std::vector<Bar>& all) {
  if (all.empty()) return {};
  double most = 0;
  for (const auto& bar : all) most = std::max(most, bar.value);
  std::string html = "<div class=\"bars\">\n";
  for (const auto& bar : all)
    html += fmt::format(
        "<span class=\"name\">{}</span><span class=\"track\"><i style=\"width:{:.1f}%\"></i></span>"
        "<span class=\"value\">{}</span>\n",
        escaped(bar.label), most > 0 ? 100 * std::max(0.0, bar.value / most) : 0.0, escaped(bar.text));
  return html + "</div>\n";
}

std::string sparkline(const std::vector<double>& counts, const std::vector<double>& outline) {
  if (counts.empty()) return {};
  constexpr double kBin = 3, kHeight = 20;
  auto most = std::max(1e-9, *std::ranges::max_element(counts));
  for (const auto one : outline) most = std::max(most, one);
  auto svg =
      fmt::format("<svg class=\"spark\" viewBox=\"0 0 {} {}\">", kBin * static_cast<double>(counts.size()), kHeight);
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const auto height = counts[i] / most * kHeight;
    if (height <= 0) continue;
    svg += fmt::format("<rect class=\"bar\" x=\"{}\" y=\"{:.1f}\" width=\"{}\" height=\"{:.1f}\"/>",
                       kBin * static_cast<double>(i), kHeight - height, kBin - 0.5, height);
  }
  if (!outline.empty()) {
    std::string points;
    for (std::size_t i = 0; i < outline.size(); ++i)
      points += fmt::format("{:.1f},{:.1f} ", kBin * (static_cast<double>(i) + 0.5),
                            kHeight - outline[i] / most * (kHeight - 1));
    svg += "<polyline class=\"outline\" points=\"" + points + "\"/>";
  }
  return svg + "</svg>";
}

std::string channel_strip(std::int64_t total, const std::vector<std::int64_t>& kept) {
  constexpr double kWidth = 96, kHeight = 12;
  if (total <= 0) return {};
  std::vector<bool> left(static_cast<std::size_t>(total), false);
  for (const auto channel : kept)
    if (channel >= 0 && channel < total) left[static_cast<std::size_t>(channel)] = true;
  const auto step = kWidth / static_cast<double>(total);
  auto svg = fmt::format(
      "<svg class=\"spark\" viewBox=\"0 0 {0} {1}\"><rect class=\"gone\" width=\"{0}\" "
      "height=\"{1}\"/>",
      kWidth, kHeight);
  for (std::size_t first = 0; first < left.size();) {
    auto last = first;
    while (last < left.size() && left[last] == left[first]) ++last;
    if (left[first])
      svg += fmt::format("<rect class=\"bar\" x=\"{:.2f}\" width=\"{:.2f}\" height=\"{}\"/>",
                         step * static_cast<double>(first), step * static_cast<double>(last - first), kHeight);
    first = last;
  }
  return svg + "</svg>";
}

PARE_NAMESPACE_END
