#pragma once

#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pare/core/log.hpp"
#include "pare/core/progress.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// A pass about to run, or that has just run.
struct PassEvent {
  std::string_view pass;
  const Model& model;     ///< before the pass, or after it
  std::size_t depth = 0;  ///< 0 for the outermost pass, 1 for those a manager runs, …
  double seconds = 0.0;   ///< wall time, once it has run
};

/// Callbacks around every pass; any of them may be empty. One that throws refuses the pass: it is rolled back.
struct Instrument {
  std::function<void(const PassEvent&)> before = {};
  /// After the pass succeeded and the Model verified, before the change is final.
  std::function<void(const PassEvent&)> after = {};
  /// After a failed pass was rolled back; must not throw.
  std::function<void(const PassEvent&, const std::exception&)> failed = {};
};

/// The instruments of a run, called in order.
class Instrumentation {
 public:
  Instrumentation() = default;
  Instrumentation(std::initializer_list<Instrument> instruments) : instruments_(instruments) {}
  Instrumentation& add(Instrument instrument) {
    instruments_.push_back(std::move(instrument));
    return *this;
  }
  void before(const PassEvent& event) const;
  void after(const PassEvent& event) const;
  void failed(const PassEvent& event, const std::exception& error) const noexcept;

 private:
  std::vector<Instrument> instruments_;
};

/// Wall time of every pass that ran.
class Timing {
 public:
  struct Entry {
    std::string pass;
    std::size_t depth;
    double seconds;
  };
  /// The instrument that fills this; copies of a Timing share their entries.
  [[nodiscard]] Instrument instrument() const;
  [[nodiscard]] const std::vector<Entry>& entries() const noexcept { return *entries_; }
  /// A line for each pass, nested ones indented.
  [[nodiscard]] std::string text() const;

 private:
  std::shared_ptr<std::vector<Entry>> entries_ = std::make_shared<std::vector<Entry>>();
};

/// Logs each pass at its start (debug) and end (info), and failures (warning).
[[nodiscard]] Instrument log_passes(Log log);
/// Counts the outermost passes' children: `passes 2/5`. @param total how many there are
[[nodiscard]] Instrument show_passes(const Progress& progress, std::size_t total);
/// Sends the graph's text, before and after each pass, to `sink(title, text)`; passes that left the graph alone are
/// skipped.
[[nodiscard]] Instrument dump_graphs(std::function<void(std::string_view title, const std::string& text)> sink);
/// Refuses a pass after which `cost(model)` exceeds `limit`. @throws Error `pare.pass.105` from the pass's run
[[nodiscard]] Instrument enforce_budget(std::string what, double limit, std::function<double(const Model&)> cost);

PARE_NAMESPACE_END
