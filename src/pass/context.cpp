#include "pare/pass/context.hpp"

#include <algorithm>
#include <vector>

#include "core/seconds_since.hpp"
#include "pare/core/error.hpp"
#include "pare/graph/text.hpp"
#include "pare/graph/verify.hpp"
#include "pare/pass/pass_manager.hpp"

PARE_NAMESPACE_BEGIN

namespace {

// What feeds a node, whatever the order of its arguments.
std::vector<ValueId> operand_values(const Node& node) {
  std::vector<ValueId> values;
  for (const auto& operand : node.operands) operand.each_value([&](ValueId value) { values.push_back(value); });
  std::ranges::sort(values);
  return values;
}

bool same_structure(const Graph& before, const Graph& after) {
  if (before.nodes() != after.nodes() || before.inputs() != after.inputs() || before.outputs() != after.outputs())
    return false;
  const auto same_type = [&](ValueId value) { return before.value(value).type == after.value(value).type; };
  return std::ranges::all_of(before.nodes(), [&](NodeId id) {
    const auto& node = before.node(id);
    const auto values = operand_values(node);
    return values == operand_values(after.node(id)) && node.outputs == after.node(id).outputs &&
           std::ranges::all_of(values, same_type) && std::ranges::all_of(node.outputs, same_type);
  });
}

}  // namespace

Context::Context(Model& model, ContextOptions options)
    : options_(std::move(options)), rewriter_(model), reporter_(report_, model), analyses_(model) {}

bool Context::has_calibration() const {
  if (!has_calibration_) has_calibration_ = !options_.calibration.empty();
  return *has_calibration_;
}

const Batches& Context::calibration() const {
  if (!has_calibration())
    fail("pare.pass.102", pass_, "this pass measures on calibration batches and got none: give .calibration = batches");
  return options_.calibration;
}

Preserved Context::run_checked(const AnyPass& pass, Transaction& transaction) {
  auto& model = rewriter_.model();
  auto preserved = [&] {
    try {
      return pass.run(model, *this);
    } catch (const c10::Error& error) {
      const std::string text = error.what_without_backtrace();
      fail("pare.pass.108", pass.name(), "LibTorch failed inside the pass, nothing was changed: {}",
           text.substr(0, text.find('\n')));
    }
  }();
  if (const auto path = transaction.written_in_place(); !path.empty())
    fail("pare.pass.107", path,
         "{} wrote this weight in place, which the live module would see: replace it with set_weight(), or call "
         "detach_weights() first",
         pass.name());
  if (preserved.is_all() && (transaction.graph_changed() || transaction.weights_changed()))
    fail("pare.pass.104", pass.name(), "returned Preserved::all() and edited the model");
  const auto claims = [&](Aspect aspect) { return (preserved.aspects() & aspect) == aspect && !preserved.is_all(); };
  if (const auto& before = transaction.before().graph(); transaction.graph_changed()) {
    if (claims(Aspect::Structure) && !same_structure(before, model.graph()))
      fail("pare.pass.104", pass.name(),
           "returned Preserved::topology() or graph() and changed nodes, wiring or shapes");
    if (claims(Aspect::Ops) && print(before) != print(model.graph()))
      fail("pare.pass.104", pass.name(), "returned Preserved::graph() and changed operators or their constants");
  }
  try {
    verify(model);
  } catch (const Error& error) {
    fail("pare.pass.103", pass.name(), "left a broken graph, nothing was changed: {}", error.what());
  }
  return preserved;
}

Preserved Context::run(const AnyPass& pass, Model& model) {
  if (&model != &rewriter_.model()) fail("pare.pass.101", pass.name(), "this context was made for another model");
  Transaction transaction(model, options_.backup_weights, transaction_);
  const auto* enclosing = std::exchange(transaction_, &transaction);
  const auto author = reporter_.set_author({pass.name(), &transaction.before()});
  const auto outer = std::exchange(pass_, pass.name());
  const auto depth = depth_++;
  const auto first_row = report_.rows().size();
  const auto start = Clock::now();
  const auto event = [&](bool ran) { return PassEvent{pass.name(), model, depth, ran ? seconds_since(start) : 0.0}; };
  const auto leave = [&] {
    transaction_ = enclosing;
    depth_ = depth;
    pass_ = outer;
    reporter_.set_author(author);
  };
  const auto undo = [&](std::string_view why) {
    transaction.roll_back();
    analyses_.clear();
    report_.revoke(first_row, why);
    leave();
  };
  try {
    options_.instruments.before(event(false));
    auto preserved = run_checked(pass, transaction);
    options_.instruments.after(event(true));
    transaction.commit();
    analyses_.invalidate(preserved);
    leave();
    return preserved;
  } catch (const std::exception& error) {
    undo(error.what());
    options_.instruments.failed(event(true), error);
    throw;
  } catch (...) {
    undo("the pass threw");
    throw;
  }
}

Preserved PassManager::run(Model& model, Context& context) {
  auto preserved = Preserved::all();
  for (const auto& pass : passes_) preserved = preserved & context.run(pass, model);
  return preserved;
}

PARE_NAMESPACE_END
