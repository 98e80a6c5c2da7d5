#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "capture/trace.hpp"
#include "pare/capture/interceptor.hpp"

PARE_NAMESPACE_BEGIN

/// Paths of a module's tensors: canonical name of each `TensorImpl`, tied ones with their aliases.
struct ModuleTensors {
  struct Entry {
    std::string path;
    at::Tensor tensor;
    bool is_parameter = false;
    std::vector<std::string> aliases;
  };
  std::vector<Entry> entries;
};

/// What a recording computes. Results that are not computed have the right shape; expensive ops are convolutions,
/// products, recurrent layers, norms, activations and sums.
enum class Computation : std::uint8_t {
  Values,  ///< everything
  Zeros,   ///< zeros for the results of expensive ops
  Shapes,  ///< whatever memory holds for the results of expensive ops: it is not even touched
};

/// Records a forward as a `Trace`: identifies tensors, turns in-place writes and writes through views into SSA values,
/// and stops at values that the forward reads out of tensors.
///
/// What is not computed (`Computation`) makes looking at further sizes and at training mode cheap.
class Recorder : public Interceptor {
 public:
  Recorder(const ModuleTensors& tensors, Computation computation);

  ValueId add_input(const at::Tensor& tensor);
  void add_output(const at::Tensor& tensor);
  void call(const c10::OperatorHandle& op, torch::jit::Stack& stack) override;
  [[nodiscard]] Trace& trace() noexcept { return trace_; }
  /// The tensor behind each value, kept alive while recording.
  [[nodiscard]] const at::Tensor& tensor(ValueId value) const { return value_tensors_.at(index(value)); }
  /// With snapshots, `tensor()` keeps each result as it was when computed (for finding where a replay departs).
  void keep_snapshots() noexcept { snapshots_ = true; }
  /// Has every tensor that outlives the forward shown to `watch` before the forward writes to it: parameters, buffers,
  /// tensors that were never registered. Where results are not computed, nothing worth keeping is written.
  void watch_writes(std::function<void(const at::Tensor&)> watch) { watch_ = std::move(watch); }
  /// The module of the call that threw; else of the last weight read.
  [[nodiscard]] std::string where() const { return failed_in_.value_or(here()); }

 private:
  // The module at work, by the last weight read.
  [[nodiscard]] std::string here() const { return trace_.module_at(trace_.calls.size()); }

  struct View {
    c10::TensorImpl* parent = nullptr;
    Op op;
    std::vector<Operand> operands;  ///< with the parent's value wherever it stood
    std::size_t position = 0;       ///< which output of the view op
    std::size_t count = 1;          ///< how many outputs it has
    std::uint64_t parent_version = 0;
    ValueId parent_value = kNoValue;  ///< the parent's value that `operands` name
  };
  struct State {
    at::Tensor alive;  ///< keeps the TensorImpl's address ours
    ValueId value = kNoValue;
    std::uint64_t version = 0;
    std::vector<View> view;  ///< zero or one
    bool uninitialised = false;
    std::vector<Operand> empty_operands;  ///< of a tensor that the forward allocated uninitialised: the factory call
    std::vector<Op> empty_op;
  };

  ValueId resolve(const at::Tensor& tensor);
  ValueId resolve_unknown(const at::Tensor& tensor);
  State* find_alias(const at::Tensor& tensor);
  void refresh(State& state);
  ValueId new_value(Trace::Value value, const at::Tensor& tensor);
  ValueId result(const at::Tensor& tensor, bool depends_on_input);
  void bind(const at::Tensor& tensor, ValueId value);
  State& state_of(const at::Tensor& tensor) { return states_.at(tensor.unsafeGetTensorImpl()); }

  Operand operand_of(const c10::IValue& value);
  std::vector<Operand> operands_of(const torch::jit::Stack& stack, std::size_t count);
  bool depends_on_input(const std::vector<Operand>& operands) const;
  std::vector<ValueId> emit(const Op& op, std::vector<Operand> operands, const std::vector<at::Tensor>& results,
                            bool barrier = false);
  void execute(const c10::OperatorHandle& op, torch::jit::Stack& stack, std::size_t count,
               const std::vector<Operand>& operands);
  State& root_of(const at::Tensor& tensor);
  [[nodiscard]] bool outlives_forward(const State& root) const;
  void before_write(const at::Tensor& target);
  void separate_identities(torch::jit::Stack& stack, const std::vector<at::Tensor>& arguments);

  void record_pure(const Op& op, std::vector<Operand> operands, const std::vector<at::Tensor>& arguments,
                   const torch::jit::Stack& stack);
  void record_write(const Op& op, std::vector<Operand> operands, std::size_t written, const at::Tensor& target,
                    const std::vector<at::Tensor>& sources);
  void record_read(const Op& op, std::vector<Operand> operands, const torch::jit::Stack& stack);
  ValueId functional_write(const Op& op, std::vector<Operand>& operands, const at::Tensor& target,
                           const std::vector<at::Tensor>& sources);
  void write_through(State& state);
  ValueId scatter(const State& parent, const View& view, ValueId child);

  std::unordered_map<c10::TensorImpl*, State> states_;
  std::unordered_map<c10::TensorImpl*, std::string> weights_;
  std::vector<at::Tensor> module_tensors_;
  std::vector<at::Tensor> keep_alive_;
  std::vector<at::Tensor> value_tensors_;
  Trace trace_;
  Computation computation_;
  std::function<void(const at::Tensor&)> watch_;
  bool snapshots_ = false;
  std::optional<std::string> failed_in_;
};

PARE_NAMESPACE_END
