#pragma once

#include <map>
#include <string>

#include "execute/onednn/kernel_timer.hpp"
#include "execute/onednn/plan.hpp"

PARE_NAMESPACE_BEGIN

/// Whether oneDNN would compute with a reference kernel: element by element, some fifty times slower than the others.
bool is_reference(const dnnl::primitive_desc_base& description);

/// What every kernel is created with: its scratchpad comes from the arena.
[[nodiscard]] dnnl::primitive_attr with_scratchpad();

/// What an Embedding step does: rows of its table, as numbers.
/// @param indices integers of any shape @param to `[...indices, columns]`
void look_up(const ProgramStep& step, std::string_view name, const at::Tensor& indices, float* to);

/// Builds an `ExecutionPlan`: chooses kernels and layouts step by step, reorders where the next kernel wants another
/// layout.
class PlanBuilder {
 public:
  PlanBuilder(std::shared_ptr<const Program> program, std::vector<std::int64_t> dims, bool tapped,
              const ExecutionPlan* like);
  std::shared_ptr<const ExecutionPlan> build();

 private:
  using desc = dnnl::memory::desc;
  using data_type = dnnl::memory::data_type;

  /// One way in which a value is stored.
  struct Stored {
    desc layout;
    int buffer = -1;
    std::size_t offset = 0;
    int tensor = -1;  ///< held by a tensor made while running (layout assumed row-major)
  };

  // What is known when the sizes are (plan_constants.cpp).
  const at::Tensor* constant(ValueId root) const;
  const at::Tensor* read_constant(ValueId root);
  bool fold(const ProgramStep& step);
  bool compute_now(ValueId value);
  bool keep_known(ValueId value, const at::Tensor& result);

  // Values (plan_values.cpp).
  dnnl::memory::dims sizes(ValueId value) const;
  const std::optional<Quantization>& quantization(ValueId value) const;
  Stored& stored(ValueId value);
  Stored in_layout(ValueId value, const desc& layout);
  Stored typed(ValueId value, data_type type);
  Stored row_major(ValueId value, data_type type);
  Stored shaped(ValueId value, data_type type, const dnnl::memory::dims& dims);
  int tensor_of(ValueId value, bool dense = false);
  void quantize_result(ValueId value);
  bool run_view(const ProgramStep& step, const Stored& source);
  data_type native_type(ValueId value, const ProgramStep& step) const;
  void store(ValueId value, Stored stored);
  Stored allocate(const desc& layout);
  /// @return the kernel's name
  std::string reorder(const Stored& from, const Stored& to, const std::optional<Quantization>& read,
                      const std::optional<Quantization>& write);
  bool quantize_floats_of(const Stored& from, const Stored& to, const Quantization& grid);
  bool is_last_use(int buffer) const;
  int tensor_for(const Stored& stored, const dnnl::memory::dims& dims);
  int new_buffer(PlanBuffer buffer);
  dnnl::memory scalar(float value);
  dnnl::memory scalar(std::int32_t value);

  // Calls.
  PlanArgument argument(int number, const Stored& stored) const {
    return {number, stored.layout, stored.buffer, stored.offset, {}};
  }
  PlanArgument argument(int number, dnnl::memory constant) const { return {number, {}, -1, 0, std::move(constant)}; }
  void call(const dnnl::primitive& primitive, const dnnl::primitive_desc_base& description,
            std::vector<PlanArgument> arguments);
  void call(std::function<void(PlanInstance&)> function, const std::vector<int>& buffers,
            const std::vector<int>& tensors = {});

  // Steps (plan_kernels.cpp, plan_depthwise.cpp, plan_integer_rows.cpp, plan_binary.cpp, plan_elementwise.cpp,
  // plan_recurrent.cpp, plan_other.cpp).
  struct Epilogue {
    dnnl::primitive_attr attr;
    std::vector<PlanArgument> arguments;
    std::optional<dnnl::memory> bias;
    std::optional<Stored> in_place;  ///< the residual's memory, which the result takes over
    std::optional<Stored> copied;    ///< an integer residual to be copied into the result first
  };
  Epilogue epilogue(const ProgramStep& step, data_type type, const desc& layout, const std::vector<Stored>& sources);
  void scale_arguments(const ProgramStep& step, Epilogue& epilogue, data_type type);
  void add_scale(Epilogue& epilogue, int side, const Quantization& quantized);
  /// By output channel: `result = acc * scale[c] + bias[c]`.
  struct ChannelFactors {
    std::vector<float> scale, bias;
  };
  /// @param in_quanta       the result in steps of its grid, or as numbers
  /// @param with_zero_point the source's is accounted for
  ChannelFactors channel_factors(const ProgramStep& step, bool in_quanta, bool with_zero_point) const;
  /// What a clipping activation leaves, in steps of the grid.
  static std::pair<float, float> bounds_in_quanta(const PostOp& clipping, const Quantization& grid);
  void fold_scales(const ProgramStep& step, Epilogue& epilogue, data_type type);
  void add_residual(const ProgramStep& step, Epilogue& epilogue, dnnl::post_ops& ops, data_type type,
                    const desc& layout, const std::vector<Stored>& sources);
  void add_activation(const ProgramStep& step, dnnl::post_ops& ops, const PostOp& post, data_type type);
  bool sums_integers(const ProgramStep& step, data_type type);
  bool folds_result(const ProgramStep& step, data_type type);
  static dnnl::memory bias_of(const ProgramStep& step);
  /// A convolution among the kernels that compute it, by the name of its implementation.
  using Describe = std::function<dnnl::convolution_forward::primitive_desc(const desc& weights)>;
  dnnl::convolution_forward::primitive_desc fastest(const ProgramStep& step,
                                                    const dnnl::convolution_forward::primitive_desc& first,
                                                    const Describe& describe, const Epilogue& behind);
  double seconds(const dnnl::convolution_forward::primitive_desc& kernel, const Epilogue& behind);
  void emit(const ProgramStep& step);
  void check_window(const ProgramStep& step) const;
  void emit_convolution(const ProgramStep& step);
  bool emit_depthwise(const ProgramStep& step);
  void emit_deconvolution(const ProgramStep& step);
  void emit_linear(const ProgramStep& step);
  void emit_integer_rows(const ProgramStep& step);
  void emit_product(const ProgramStep& step);
  void emit_binary(const ProgramStep& step);
  void emit_integer_sum(const ProgramStep& step);
  void emit_float_binary(const ProgramStep& step);
  void emit_binary_on_aten(const ProgramStep& step);
  void apply_in_place(const std::vector<PostOp>& post, const Stored& value);
  void emit_channel_affine(const ProgramStep& step);
  void emit_float_affine(const ProgramStep& step);
  void finish_binary(const ProgramStep& step, const dnnl::binary::primitive_desc& description, const Stored& left,
                     std::vector<PlanArgument> arguments, bool integers);
  void emit_eltwise(const ProgramStep& step);
  void emit_pooling(const ProgramStep& step);
  void emit_mean(const ProgramStep& step);
  void emit_layer_norm(const ProgramStep& step);
  void emit_softmax(const ProgramStep& step);
  bool emit_integer_softmax(const ProgramStep& step, const Stored& source);
  void emit_concat(const ProgramStep& step);
  void emit_quantize(const ProgramStep& step);
  void emit_embedding(const ProgramStep& step);
  void emit_recurrent(const ProgramStep& step);
  Stored recurrent_weights(const RecurrentMatrix& matrix, const RecurrentStack& stack, const desc& wanted);
  /// What a layer reads and writes; states are `[layers * directions, batch, hidden]` as a whole.
  struct RecurrentOperands {
    Stored input, output;
    std::vector<Stored> before, after;  ///< hidden state, and an LSTM's cell
  };
  void emit_recurrent_layer(const ProgramStep& step, std::size_t layer, const RecurrentOperands& operands);
  void emit_view(const ProgramStep& step);
  void emit_aten(const ProgramStep& step);
  void emit_tap(const ProgramStep& step);
  void finish_outputs();
  void finish_lives();
  void row(const ProgramStep& step, std::string implementation, std::string_view precision);
  std::string_view precision_of(const ProgramStep& step, bool integers) const;
  dnnl::memory::dims transposed_strides(ValueId value) const;
  bool reads_integers(const ProgramStep& step) const;
  dnnl::memory weights_for(const ProgramStep& step, const desc& wanted);

  std::shared_ptr<ExecutionPlan> plan_;
  const Program& program_;
  const Graph& graph_;
  bool tapped_;
  std::size_t position_ = 0;                           // of the step being emitted
  std::vector<std::vector<Stored>> values_;            // by ValueId; the first is how it was made
  std::vector<std::size_t> last_use_;                  // by ValueId: step
  std::vector<int> use_count_;                         // by ValueId
  std::unordered_map<std::size_t, at::Tensor> known_;  // by ValueId: results of steps that were run once
  KernelTimer timer_;
  std::vector<std::pair<std::size_t, int>> tensor_uses_;  // call, tensor
};

PARE_NAMESPACE_END
