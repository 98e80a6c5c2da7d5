#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

// Drawings for the HTML report: inline SVG that takes its colours from the page's style sheet.

/// `& < > " '` as entities, control characters dropped.
std::string escaped(std::string_view text);

/// A point of a plot; `strong` for the one chosen, `faint` for those that another dominates.
struct PlotPoint {
  double x = 0, y = 0;
  std::string label;
  bool strong = false, faint = false;
};

/// Points on two axes with ticks; labels beside the points.
std::string scatter(const std::vector<PlotPoint>& points, std::string_view x_title, std::string_view y_title);

/// One bar of a chart.
struct Bar {
  std::string label;
  double value = 0;
  std::string text;  ///< behind the bar
};

/// Horizontal bars, as long as their value is of the largest; negative values are drawn as none.
std::string bars(const std::vector<Bar>& all);

/// A small histogram without axes.
std::string sparkline(const std::vector<double>& counts);

PARE_NAMESPACE_END
