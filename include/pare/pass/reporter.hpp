#pragma once

#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "pare/graph/model.hpp"
#include "pare/pass/report.hpp"

PARE_NAMESPACE_BEGIN

/// Writes the rows of the pass that is running.
class Reporter {
 public:
  using Figures = std::map<std::string, double, std::less<>>;

  Reporter(Report& report, const Model& model) : report_(&report), model_(&model) {}

  /// The layer was changed; `what` says how, in a few words.
  void done(NodeId node, std::string_view what, Figures figures = {}) {
    add(Decision::Done, node, what, std::move(figures));
  }
  /// The layer was left as it was; `why` says why.
  void declined(NodeId node, std::string_view why, Figures figures = {}) {
    add(Decision::Declined, node, why, std::move(figures));
  }
  /// The same by layer name, for what is no node.
  void done(std::string_view layer, std::string_view op, std::string_view what, Figures figures = {}) {
    add(Decision::Done, layer, op, what, std::move(figures));
  }
  void declined(std::string_view layer, std::string_view op, std::string_view why, Figures figures = {}) {
    add(Decision::Declined, layer, op, why, std::move(figures));
  }
  /// A measured figure of a layer already reported. @return false when it was not
  bool figure(std::string_view layer, std::string_view name, double value) {
    return report_->set_figure(layer, name, value);
  }

  /// Whose rows follow.
  struct Author {
    std::string pass;
    const Model* before = nullptr;  ///< the Model before the pass: the names of nodes it erases are looked up there
  };
  /// Sets whose rows follow. @return whose came before, to go back to when passes are nested
  Author set_author(Author author) { return std::exchange(author_, std::move(author)); }
  [[nodiscard]] const Report& report() const noexcept { return *report_; }

 private:
  void add(Decision decision, NodeId node, std::string_view text, Figures figures);
  void add(Decision decision, std::string_view layer, std::string_view op, std::string_view text, Figures figures);

  Report* report_;
  const Model* model_;
  Author author_;
};

PARE_NAMESPACE_END
