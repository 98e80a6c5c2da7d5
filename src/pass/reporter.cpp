#include "pare/pass/reporter.hpp"

PARE_NAMESPACE_BEGIN

void Reporter::add(Decision decision, NodeId node, std::string_view text, Figures figures) {
  const auto& graph = model_->graph();
  const bool erased = !graph.contains(node) && author_.before;
  const auto& found = erased ? author_.before->graph().node(node) : graph.node(node);
  add(decision, found.name, found.op.base(), text, std::move(figures));
}

void Reporter::add(Decision decision, std::string_view layer, std::string_view op, std::string_view text,
                   Figures figures) {
  report_->add(
      ReportRow{std::string(layer), std::string(op), author_.pass, decision, std::string(text), std::move(figures)});
}

PARE_NAMESPACE_END
