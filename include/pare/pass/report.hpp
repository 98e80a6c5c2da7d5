#pragma once

#include <fmt/format.h>

#include <iosfwd>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// What a pass did with a layer.
enum class Decision : unsigned char {
  Done,      ///< the layer was changed; the reason says how
  Declined,  ///< the layer was left as it was; the reason says why
};

/// `done` or `declined`.
[[nodiscard]] std::string_view to_string(Decision decision) noexcept;

/// One layer, as one pass saw it.
struct ReportRow {
  std::string layer;  ///< unique layer name, e.g. `layer1.0.conv1`
  std::string op;     ///< e.g. `aten::conv2d`
  std::string pass;   ///< e.g. `Quantizer`
  Decision decision = Decision::Done;
  std::string reason;                                  ///< what was done, or why not
  std::map<std::string, double, std::less<>> figures;  ///< measured, e.g. `sqnr_db`
};

/// One pass of a run as a whole.
struct ReportStage {
  std::string pass;
  bool kept = true;                         ///< false: rolled back, the Model is as it was before this stage
  std::string reason;                       ///< why it was rolled back
  double seconds = 0.0;                     ///< wall time
  std::optional<double> metric;             ///< of the Model after the stage, where a metric was given
  std::optional<std::size_t> weight_bytes;  ///< of the Model after the stage, where measured
};

/// What happened to a Model: a row for every layer that a pass looked at, done or declined and why.
///
/// Prints as a text table (`fmt::print("{}", report)`) and as JSON.
class Report {
 public:
  Report();
  Report(const Report& other);
  Report(Report&& other) noexcept;
  Report& operator=(const Report& other);
  Report& operator=(Report&& other) noexcept;
  ~Report();
  void add(ReportRow row);
  void add(ReportStage stage);
  /// Sets a figure of the layer's last row. @return false when no row is about this layer
  bool set_figure(std::string_view layer, std::string_view figure, double value);
  /// Marks the rows from `first` on as declined: their pass was rolled back for `reason`.
  void revoke(std::size_t first, std::string_view reason);
  /// Appends the rows and stages of another report.
  void append(const Report& other);

  /// All rows, in the order they were written.
  [[nodiscard]] const std::vector<ReportRow>& rows() const noexcept { return rows_; }
  /// The rows about one layer.
  [[nodiscard]] std::vector<ReportRow> rows(std::string_view layer) const;
  [[nodiscard]] const std::vector<ReportStage>& stages() const noexcept { return stages_; }
  [[nodiscard]] std::size_t count(Decision decision) const noexcept;

  /// The tables, stages (where there are several) above layers. Lines end in `\n`.
  [[nodiscard]] std::string text() const;
  /// `{"stages":[…],"layers":[{"name","op","pass","decision","reason", figures…}]}`. Figures that are not finite are
  /// `null`.
  [[nodiscard]] std::string json(int indent = 2) const;

 private:
  std::vector<ReportRow> rows_;
  std::vector<ReportStage> stages_;
};

std::ostream& operator<<(std::ostream& stream, const Report& report);

PARE_NAMESPACE_END

template <>
struct fmt::formatter<pare::Report> : fmt::formatter<std::string_view> {
  template <class FormatContext>
  auto format(const pare::Report& report, FormatContext& context) const {
    return fmt::formatter<std::string_view>::format(report.text(), context);
  }
};
