#include "capture/commit_trial.hpp"

#include <ATen/Functions.h>

#include <typeinfo>

#include "capture/commit_changes.hpp"
#include "capture/commit_check.hpp"
#include "capture/layer_options.hpp"
#include "capture/module_state.hpp"
#include "capture/samples.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

std::string constant_text(const Operand& operand, const std::vector<std::string>& dims) {
  if (const auto* sizes = operand.get<Operand::Ints>()) {
    std::string text;
    for (const auto& size : *sizes) text += (text.empty() ? "" : ", ") + size.text(dims);
    return "[" + text + "]";
  }
  if (const auto* size = operand.get<SymbolicInt>()) return size->text(dims);
  if (const auto number = operand.number()) return fmt::format("{}", *number);
  return operand.is_none() ? "none" : "?";
}

// Whether a constant that a forward was seen to use is the Model's, in evaluation mode.
bool same_constant_at(const Operand& seen, const Operand& wanted, std::span<const std::int64_t> dims) {
  if (const auto* sizes = wanted.get<Operand::Ints>()) {
    const auto actual = seen.integers();
    if (!actual || actual->size() != sizes->size()) return false;
    for (std::size_t i = 0; i < sizes->size(); ++i)
      if ((*sizes)[i].evaluate(dims) != (*actual)[i]) return false;
    return true;
  }
  if (const auto* size = wanted.get<SymbolicInt>()) return seen.integer() == size->evaluate(dims);
  if (const auto* flag = wanted.get<Flag>())
    return seen.boolean() == (*flag == Flag::True || *flag == Flag::Evaluation);
  if (const auto* number = wanted.get<double>()) return seen.number() == *number;
  return true;  // values, texts, devices: of these a narrower layer changes nothing
}

std::string without_id(const Error& error) {
  const std::string_view text(error.what());
  return std::string(text.substr(std::min(text.size(), error.id().size() + 3)));
}

// The first line, without where LibTorch's source has it.
std::string said_by(const std::exception& error) {
  std::string_view text(error.what());
  text = text.substr(0, text.find('\n'));
  return std::string(text.substr(0, text.find(" INTERNAL ASSERT FAILED")));
}

}  // namespace

class CommitTrial::State {
 public:
  State(const Model& model, const LiveModule& live)
      : module_(module_in(live)),
        options_(live.options() ? *live.options() : CommitOptions{}),
        origin_(origin_of(model)),
        forward_(options_.forward ? options_.forward : origin_->forward),
        samples_(options_.example.empty() ? origin_->example : options_.example, origin_->options) {
    for (const auto& parameter : module_.parameters()) parameters_.emplace_back(parameter, parameter.detach().clone());
    for (const auto& dim : samples_.dims()) dims_.push_back(dim.low);
    attempt(model, [&] {
      std::optional<std::string> why;
      if (!try_shapes(false, model, why) || why) check_commit(model, module_, *origin_, options_);
    });
  }

  ~State() {
    try {  // a forward that writes to its own parameters: by content, whatever counters say
      const at::NoGradGuard no_grad;
      for (const auto& [live, copy] : parameters_)
        if (!at::equal(live, copy)) live.variable_data().copy_(copy);
    } catch (const std::exception&) {  // a destructor may not throw
    }
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  std::optional<std::string> refusal(const Model& model) {
    std::optional<std::string> why;
    try {
      attempt(model, [&] {
        bool sure = try_shapes(false, model, why);
        if (!why && model.can_train()) sure = try_shapes(true, model, why) && sure;
        if (sure) return;
        check_commit(model, module_, *origin_, options_);  // throws where numbers differ
        why.reset();
      });
    } catch (const Error& error) {
      if (error.id() != "pare.commit.103" && error.id() != "pare.commit.104" && error.id() != "pare.commit.111") throw;
      if (!why) why = without_id(error);
    }
    return why;
  }

 private:
  static torch::nn::Module& module_in(const LiveModule& live) {
    if (!live) fail("pare.commit.102", "", "no live module was given");
    return *live.module();
  }

  static std::shared_ptr<const Origin> origin_of(const Model& model) {
    if (!model.origin())
      fail("pare.commit.101", "", "this model was not captured from a module in this process: nothing can be tried");
    return model.origin();
  }

  // Writes the Model into the module, does what is asked, and puts everything back.
  template <class Ask>
  void attempt(const Model& model, Ask&& ask) {
    const at::NoGradGuard no_grad;
    require_same_graph(origin_->graph, model.graph());
    const auto changes = plan_changes(model, module_);
    UndoSteps undo;
    const ModuleState state(module_);  // flags, buffers and the random state come back when it goes: behind the rest
    try {
      replace_tensors(changes, undo);
      for (auto& step : update_layer_options(module_, model.graph())) undo.push_back(std::move(step));
      ask();
    } catch (...) {
      undo_all(undo);
      throw;
    }
    undo_all(undo);
  }

  // One forward by shapes. @param why what stands in the way @return whether numbers need not be asked
  bool try_shapes(bool training, const Model& model, std::optional<std::string>& why) {
    auto recorder = std::make_shared<Recorder>(module_tensors(module_), Computation::Shapes);
    ModuleState state(module_);  // nothing that it writes is worth keeping
    recorder->watch_writes([&](const at::Tensor& tensor) { state.remember(tensor); });
    const auto inputs = samples_.at(0);
    for (const auto& input : inputs) recorder->add_input(input);
    module_.train(training);
    bool stopped = false;
    try {
      const Interception interception(recorder);
      static_cast<void>(forward_(module_, inputs));
    } catch (const std::bad_cast&) {
      fail("pare.commit.102", "", "the module is not of the type that was captured");
    } catch (const Error&) {  // of the recorder: it cannot go on without numbers
      return false;
    } catch (const std::exception& error) {
      stopped = true;
      why = reason_to_stop(training, recorder->trace(), model.graph(), said_by(error));
    }
    if (recorder->trace().reads_values) return false;
    if (stopped || training) return true;
    why = first_difference(recorder->trace(), model.graph());
    if (!why && recorder->trace().calls.size() != origin_->nodes.size())
      why = "the module's own forward makes other calls with fewer channels";
    return !why;
  }

  // What was different before, or else what it could not do there.
  std::string reason_to_stop(bool training, const Trace& trace, const Graph& wanted, const std::string& text) const {
    if (training) return fmt::format("the module's own forward stops in training mode with fewer channels: {}", text);
    if (auto earlier = first_difference(trace, wanted)) return *std::move(earlier);
    const auto call = trace.calls.size();
    if (call < origin_->nodes.size() && wanted.contains(origin_->nodes[call])) {
      const auto& node = wanted.node(origin_->nodes[call]);
      const auto& captured = origin_->graph.node(node.id);
      for (std::size_t i = 0; i < node.operands.size(); ++i)
        if (!same_text(captured.operands[i], node.operands[i], wanted)) return written_in(captured, i, wanted);
      return fmt::format("{} ({}): the module's own forward stops here with fewer channels: {}", node.name,
                         node.op.name(), text);
    }
    return fmt::format("the module's own forward stops with fewer channels: {}", text);
  }

  static bool same_text(const Operand& a, const Operand& b, const Graph& graph) {
    if (a.value() != kNoValue || a.get<Operand::Values>()) return true;
    return constant_text(a, graph.dims()) == constant_text(b, graph.dims());
  }

  static std::string written_in(const Node& captured, std::size_t position, const Graph& graph) {
    return fmt::format("{} ({}): {} = {} is written into the module's own forward", captured.name, captured.op.name(),
                       captured.op.schema().arguments()[position].name(),
                       constant_text(captured.operands[position], graph.dims()));
  }

  // The first call, as far as there are any, whose constant or shape is not the Model's.
  std::optional<std::string> first_difference(const Trace& trace, const Graph& wanted) const {
    const auto& nodes = origin_->nodes;
    for (std::size_t i = 0; i < std::min(trace.calls.size(), nodes.size()); ++i) {
      if (nodes[i] == kNoNode || !wanted.contains(nodes[i])) continue;
      const auto& call = trace.calls[i];
      const auto& node = wanted.node(nodes[i]);
      const auto name = fmt::format("{} ({})", node.name, node.op.name());
      if (!(call.op == node.op)) return fmt::format("{}: the module's own forward calls {} here", name, call.op.name());
      for (std::size_t k = 0; k < std::min(call.operands.size(), node.operands.size()); ++k)
        if (!same_constant_at(call.operands[k], node.operands[k], dims_))
          return written_in(origin_->graph.node(node.id), k, wanted);
      for (std::size_t k = 0; k < std::min(call.outputs.size(), node.outputs.size()); ++k)
        if (trace.values[index(call.outputs[k])].sizes != wanted.value(node.outputs[k]).type.sizes_at(dims_))
          return fmt::format("{}: the module's own forward has another shape here", name);
    }
    return std::nullopt;
  }

  torch::nn::Module& module_;
  CommitOptions options_;
  std::shared_ptr<const Origin> origin_;
  const ModuleForward& forward_;
  Samples samples_;
  std::vector<std::pair<at::Tensor, at::Tensor>> parameters_;  // each with its numbers from before
  std::vector<std::int64_t> dims_;                             // of `samples_.at(0)`
};

CommitTrial::CommitTrial(const Model& model, const LiveModule& live) : state_(std::make_unique<State>(model, live)) {}
CommitTrial::~CommitTrial() = default;

std::optional<std::string> CommitTrial::refusal(const Model& model) { return state_->refusal(model); }

PARE_NAMESPACE_END
