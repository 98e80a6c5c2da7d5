#pragma once

#include <string>

#include "pare/pipeline/auto.hpp"

PARE_NAMESPACE_BEGIN

/// What a report is told beside the results.
struct HtmlReportOptions {
  std::string title = "pare";
  // For what the change saves; 0: left out.
  double watts = 0;           ///< drawn by the machine while it computes
  double grams_per_kwh = 0;   ///< CO2 of the grid
  double price_per_kwh = 0;   ///< of the current
  std::string currency = "";  ///< of that price
  /// Inputs of one forward to show: the first three samples, with what layers see in them before and after, and
  /// histograms of activations. Empty: left out.
  Batch samples = {};
};

/// The result of `optimize` as one HTML page that needs nothing else: no network, no scripts. Follows the reader's
/// light or dark setting; wide tables scroll on a phone.
///
/// Before and after with the interval of the drop, and each head; what a million inferences save; the candidates as a
/// table and a plot of metric against stored bytes; damage of each layer as bars; layer by layer bits, histograms of
/// weights and activations, which channels and weights are left, decision and reasons; samples with feature maps and
/// outputs that are maps laid over them; the stages in time. Names that come from the host are escaped.
/// @throws Error as `Model::run` for samples that do not fit the model
[[nodiscard]] std::string html_report(const AutoResult& result, const HtmlReportOptions& options = {});

/// Writes the page; the file appears complete or not at all.
/// @throws Error also `pare.pipeline.106` when it cannot be written: a full disk, no such folder
void write_html_report(const std::string& path, const AutoResult& result, const HtmlReportOptions& options = {});

PARE_NAMESPACE_END
