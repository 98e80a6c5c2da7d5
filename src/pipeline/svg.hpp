#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

// Drawings for the HTML report: inline SVG and boxes that take their colours from the page's style sheet.

/// `& < > " '` as entities, control characters dropped.
std::string escaped(std::string_view text);

/// A point of a plot; `strong` for the one chosen, `faint` for those that another dominates.
struct PlotPoint {
  double x = 0, y = 0;
  std::string label;
  bool strong = false, faint = false;
};

/// Points on two axes with ticks; labels beside the points, where they cover nothing.
std::string scatter(const std::vector<PlotPoint>& points, std::string_view x_title, std::string_view y_title);

/// One bar of a chart.
struct Bar {
  std::string label;
  double value = 0;
  std::string text;  ///< behind the bar
};

/// Horizontal bars with names and texts, as long as their value is of the largest; negative values are drawn as none.
std::string bars(const std::vector<Bar>& all);

/// A small histogram without axes; `outline`, of as many bins, is drawn as a line above it.
std::string sparkline(const std::vector<double>& counts, const std::vector<double>& outline = {});

/// Which of `total` channels are left: a strip with a gap for each that is gone.
std::string channel_strip(std::int64_t total, const std::vector<std::int64_t>& kept);

PARE_NAMESPACE_END
