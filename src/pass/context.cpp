#include "pare/pass/context.hpp"

#include "core/seconds_since.hpp"
#include "pare/core/error.hpp"
#include "pare/graph/verify.hpp"
#include "pare/pass/pass_manager.hpp"

PARE_NAMESPACE_BEGIN

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
  if (transaction.graph_changed() && (preserved.aspects() & Aspect::Ops) == Aspect::Ops && !preserved.is_all() &&
      model.graph().nodes() != transaction.before().graph().nodes())
    fail("pare.pass.104", pass.name(), "returned Preserved::graph() and added or removed nodes");
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
