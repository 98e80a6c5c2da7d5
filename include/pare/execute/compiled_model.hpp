#pragma once

#include <ATen/core/Tensor.h>

#include <concepts>
#include <cstddef>
#include <memory>
#include <vector>

#include "pare/execute/execution_profile.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

class Executor;

/// A model ready to run: kernels chosen, weights packed, memory planned. Made by `compile()`.
///
/// Holds no reference to the model it came from. Any number of threads may call it at once. A plan is built on the
/// first call with new input sizes and kept (`CompileOptions::plans`). No gradients.
class CompiledModel {
 public:
  explicit CompiledModel(std::shared_ptr<Executor> executor) : executor_(std::move(executor)) {}

  /// Runs the model; inputs and outputs as `Model::run`. Floating outputs are float32 and contiguous.
  /// @param tap called with the result of each step, dequantized: for comparing layer by layer
  /// @throws Error `pare.run.101` to `.106` and `.108` as `Model::run`; `pare.execute.103` when an operator returned
  ///         other sizes than its captured type says
  [[nodiscard]] std::vector<at::Tensor> run(const std::vector<at::Tensor>& inputs, const Tap& tap = {}) const;
  /// Single-output convenience. @throws Error `pare.run.107` when the model has several outputs.
  template <class... Tensors>
  requires(std::convertible_to<const Tensors&, at::Tensor>&&...) [[nodiscard]] at::Tensor operator()(
      const Tensors&... inputs) const {
    return only(run(std::vector<at::Tensor>{inputs...}));
  }

  /// Runs the model again and again on these inputs and times every step, for about `seconds` and at least five times.
  /// A plan is built for it where the sizes are new; a team gives up no thread (`CompileOptions::adapt_threads`).
  /// @throws Error as `run`, `pare.execute.101` for seconds that are not positive
  [[nodiscard]] ExecutionProfile profile(const std::vector<at::Tensor>& inputs, double seconds = 0.5) const;

  /// What runs how, for the sizes of the last plan built.
  [[nodiscard]] ExecutionReport report() const;
  /// Bytes of the weights as they are stored once: packed kernels, scales and biases, and tensors for ATen.
  [[nodiscard]] std::size_t weight_bytes() const;
  /// Bytes held in memory at this moment: weights in every layout in use, arenas and scratch memory.
  [[nodiscard]] std::size_t resident_bytes() const;

 private:
  static at::Tensor only(std::vector<at::Tensor> outputs);
  std::shared_ptr<Executor> executor_;
};

PARE_NAMESPACE_END
