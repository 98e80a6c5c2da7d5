#include "pare/pass/instrumentation.hpp"

#include <fmt/format.h>

#include <map>

#include "pare/core/error.hpp"
#include "pare/graph/text.hpp"
#include "pare/pass/pass.hpp"

PARE_NAMESPACE_BEGIN

void Instrumentation::before(const PassEvent& event) const {
  for (const auto& instrument : instruments_)
    if (instrument.before) instrument.before(event);
}

void Instrumentation::after(const PassEvent& event) const {
  for (const auto& instrument : instruments_)
    if (instrument.after) instrument.after(event);
}

void Instrumentation::failed(const PassEvent& event, const std::exception& error) const noexcept {
  for (const auto& instrument : instruments_)
    if (instrument.failed) instrument.failed(event, error);
}

Instrument Timing::instrument() const {
  return {.after = [entries = entries_](const PassEvent& event) {
    entries->push_back({std::string(event.pass), event.depth, event.seconds});
  }};
}

std::string Timing::text() const {
  std::string text;
  for (const auto& entry : *entries_)
    text += fmt::format("{:>9.3f} s  {:{}}{}\n", entry.seconds, "", 2 * entry.depth, entry.pass);
  return text;
}

Instrument log_passes(Log log) {
  return {.before = [log](const PassEvent& event) { log.debug("{}: starts", event.pass); },
          .after = [log](const PassEvent& event) { log.info("{}: done in {:.3f} s", event.pass, event.seconds); },
          .failed =
              [log](const PassEvent& event, const std::exception& error) {
                try {
                  log.warning("{}: rolled back: {}", event.pass, error.what());
                } catch (const std::exception&) {  // a sink that throws hides no error that is on its way
                }
              }};
}

Instrument show_passes(const Progress& progress, std::size_t total) {
  struct State {
    Progress progress;
    Progress::Task task;
    State(const Progress& shown, std::size_t steps) : progress(shown), task(progress, "passes", steps) {}
  };
  auto state = std::make_shared<State>(progress, total);
  return {.after = [state](const PassEvent& event) {
    if (event.depth == 1) state->task.advance();
  }};
}

Instrument dump_graphs(std::function<void(std::string_view, const std::string&)> sink) {
  auto pending = std::make_shared<std::map<std::size_t, Model>>();  // one at each depth
  return {.before = [pending](const PassEvent& event) { (*pending)[event.depth] = event.model; },
          .after =
              [pending, sink](const PassEvent& event) {
                const auto before = pending->extract(event.depth);
                if (before.empty() || &before.mapped().graph() == &event.model.graph()) return;
                sink(fmt::format("before {}", event.pass), print(before.mapped().graph()));
                sink(fmt::format("after {}", event.pass), print(event.model.graph()));
              },
          .failed = [pending](const PassEvent& event, const std::exception&) { pending->erase(event.depth); }};
}

Instrument enforce_budget(std::string what, double limit, std::function<double(const Model&)> cost) {
  return {.after = [what = std::move(what), limit, cost = std::move(cost)](const PassEvent& event) {
    const double spent = cost(event.model);
    if (!(spent <= limit))
      fail("pare.pass.105", event.pass, "{} would be {} and the budget is {}: the pass was rolled back", what, spent,
           limit);
  }};
}

PARE_NAMESPACE_END
