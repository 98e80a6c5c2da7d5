#pragma once

#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "execute/onednn/page_memory.hpp"
#include "execute/onednn/program.hpp"
#include "pare/execute/execution_report.hpp"

PARE_NAMESPACE_BEGIN

class PlanInstance;

/// A piece of memory that steps read and write.
struct PlanBuffer {
  enum class Kind : std::uint8_t {
    Arena,     ///< at `offset` of the arena
    Input,     ///< the caller's tensor number `number`
    Output,    ///< the result tensor number `number`
    Tensor,    ///< whatever tensor `number` holds at that time (results of ATen)
    Constant,  ///< at `pointer`
  };
  Kind kind = Kind::Arena;
  std::size_t bytes = 0, offset = 0;
  int number = -1;
  void* pointer = nullptr;
  std::size_t first = std::numeric_limits<std::size_t>::max(), last = 0;  ///< calls that touch it
};

/// A kernel's argument: a layout over a buffer, or memory that never changes.
struct PlanArgument {
  int argument = 0;
  dnnl::memory::desc layout;
  int buffer = -1;
  std::size_t offset = 0;  ///< in bytes
  dnnl::memory constant;   ///< used when `buffer < 0`
};

/// One call of a plan: a primitive, or a function of our own.
struct PlanCall {
  dnnl::primitive primitive;
  std::vector<PlanArgument> arguments;
  std::function<void(PlanInstance&)> function;  ///< instead of a primitive
  std::vector<int> releases;                    ///< tensors not needed after this call
  std::size_t row = 0;                          ///< of the plan's rows: the step it belongs to
};

/// A strided view of a buffer as a tensor, made once for an instance.
struct PlanTensor {
  int buffer = -1;  ///< -1: filled while running
  std::size_t offset = 0;
  std::vector<std::int64_t> sizes = {}, strides = {};
  c10::ScalarType dtype = c10::ScalarType::Float;
  at::Tensor constant = {};  ///< what it always is, instead
};

/// Where a result of the model comes from.
struct PlanOutput {
  int tensor = -1;  ///< a tensor made while running,
  int buffer = -1;  ///< or an Output buffer of these sizes
  std::vector<std::int64_t> sizes;
  at::Tensor constant;
};

/// A program for given sizes: primitives, layouts and memory, decided. Immutable; runs in `PlanInstance`s.
struct ExecutionPlan {
  std::shared_ptr<const Program> program;
  std::vector<std::int64_t> dims;
  std::vector<PlanBuffer> buffers;
  std::vector<PlanCall> calls;
  std::vector<PlanTensor> tensors;
  std::vector<PlanOutput> outputs;
  std::vector<int> input_tensors;  ///< tensor number of each input, or -1
  std::size_t arena_bytes = 0;
  std::vector<ExecutionReport::Row> rows;
  std::unordered_map<std::size_t, at::Tensor> constants;  ///< by ValueId: results known when the sizes are
  std::map<std::string, std::string> kernels;  ///< fastest implementations, by everything that they depend on
};

/// Builds the plan for these dims and this thread's OpenMP team. With `tapped`, every step's result is shown to the
/// instance's tap.
/// @param like a plan whose choice of kernels is taken over
std::shared_ptr<const ExecutionPlan> build_plan(std::shared_ptr<const Program> program, std::vector<std::int64_t> dims,
                                                bool tapped, const ExecutionPlan* like = nullptr);

/// Gives every arena buffer its offset: buffers whose lives do not meet share memory.
/// @return bytes of the arena
std::size_t assign_offsets(std::vector<PlanBuffer>& buffers);

/// A plan with memory of its own: runs one call at a time.
class PlanInstance {
 public:
  explicit PlanInstance(std::shared_ptr<const ExecutionPlan> plan);
  PlanInstance(const PlanInstance&) = delete;
  PlanInstance& operator=(const PlanInstance&) = delete;

  /// @param spread keep the team's threads on CPUs of their own (`spread_team`)
  /// @param row_ms if given, receives what the calls of each row took; one entry more than there are rows, for results
  ///               that had to be converted
  std::vector<at::Tensor> run(const std::vector<at::Tensor>& inputs, const Tap& tap, bool spread = false,
                              std::vector<double>* row_ms = nullptr);

  // For the functions of a plan.
  [[nodiscard]] char* pointer(int buffer) const {
    return static_cast<char*>(pointers_[static_cast<std::size_t>(buffer)]);
  }
  [[nodiscard]] const at::Tensor& tensor(int number) const { return tensors_[static_cast<std::size_t>(number)]; }
  void set_tensor(int number, at::Tensor tensor) { tensors_[static_cast<std::size_t>(number)] = std::move(tensor); }
  /// Points a buffer's arguments at memory.
  void bind(int buffer, void* pointer);
  void bind_tensors(int buffer);  // as ATen reads them, once the buffer is bound
  [[nodiscard]] const Tap& tap() const { return *tap_; }
  [[nodiscard]] const ExecutionPlan& plan() const { return *plan_; }

 private:
  struct Binding {
    dnnl::memory memory;
    std::size_t offset;
  };
  std::shared_ptr<const ExecutionPlan> plan_;
  PageMemory arena_;
  std::vector<void*> pointers_;                          // by buffer
  std::vector<std::vector<Binding>> bindings_;           // by buffer that moves
  std::vector<dnnl::memory> memories_;                   // what the arguments point to
  std::vector<std::vector<dnnl_exec_arg_t>> arguments_;  // by call
  std::vector<at::Tensor> tensors_;
  at::Tensor view_of(const PlanTensor& tensor);  // of its buffer, which is bound
  void run_call(std::size_t number);
  void run_calls(bool spread);
  void time_calls(std::vector<double>& row_ms);

  const Tap* tap_ = nullptr;
  dnnl::stream stream_;
};

PARE_NAMESPACE_END
