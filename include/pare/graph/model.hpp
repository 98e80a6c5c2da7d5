#pragma once

#include <ATen/core/Tensor.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pare/graph/graph.hpp"
#include "pare/graph/weights.hpp"

PARE_NAMESPACE_BEGIN

class Interpreter;
struct Origin;  // of capture: see `commit`

/// What a run shows of itself: called with each value right after its node ran (inputs first). Runs under the caller's
/// grad mode.
using Tap = std::function<void(ValueId, const at::Tensor&)>;

/// A captured network: a graph and its weight table. Callable, differentiable, cheap to copy.
///
/// A fresh Model aliases the live module's tensors and follows them; a tensor that a pass writes is replaced here and
/// never there. Copies share graph and tensors until one of them is edited (`Rewriter`).
class Model {
 public:
  Model();
  Model(const Model& other);
  Model(Model&& other) noexcept;
  Model& operator=(const Model& other);
  Model& operator=(Model&& other) noexcept;
  ~Model();
  Model(Graph graph, Weights weights);

  [[nodiscard]] const Graph& graph() const;
  [[nodiscard]] const Weights& weights() const noexcept { return weights_; }
  /// The tensor at `path` or one of its aliases. @throws Error `pare.graph.104` when there is none.
  [[nodiscard]] const at::Tensor& weight(std::string_view path) const;
  /// The tensor behind a weight value of the graph.
  [[nodiscard]] const at::Tensor& weight(ValueId value) const;
  /// Replaces the tensor at `path`; its shape may change only together with the graph (`Rewriter`).
  void set_weight(std::string_view path, at::Tensor tensor);

  /// Runs the model on its inputs, one tensor each (an absent optional input is an undefined tensor).
  /// @return the outputs, flat, in the order the module's structure has them
  /// @throws Error `pare.run.101` wrong count, `.102` wrong dtype, `.103` wrong rank or fixed size, `.104` dims that
  ///         contradict each other, `.105` an op failed, `.106` a recorded guard no longer holds,
  ///         `.108` a dim is smaller than the capture allows
  [[nodiscard]] std::vector<at::Tensor> run(const std::vector<at::Tensor>& inputs, const Tap& tap = {}) const;
  /// Single-output convenience. @throws Error `pare.run.107` when the model has several outputs.
  template <class... Tensors>
  requires(std::convertible_to<const Tensors&, at::Tensor>&&...) [[nodiscard]] at::Tensor operator()(
      const Tensors&... inputs) const {
    return only(run(std::vector<at::Tensor>{inputs...}));
  }

  /// The trainable tensors, for an optimizer.
  [[nodiscard]] std::vector<at::Tensor> parameters() const;
  [[nodiscard]] std::vector<std::pair<std::string, at::Tensor>> named_parameters() const;
  /// Gives the model tensors of its own: training it no longer moves the live module.
  void detach_weights();

  /// Training mode, as the module's `train()`. @throws Error `pare.graph.105` when the module could only be captured in
  /// evaluation mode (the reason is in `notes()`).
  void train(bool on = true);
  void eval() { train(false); }
  [[nodiscard]] bool is_training() const noexcept { return training_; }
  [[nodiscard]] bool can_train() const noexcept { return can_train_; }
  void set_can_train(bool value) noexcept { can_train_ = value; }

  /// What capture has to say: what stayed opaque, what was assumed.
  [[nodiscard]] const std::vector<std::string>& notes() const noexcept { return notes_; }
  void note(std::string text) { notes_.push_back(std::move(text)); }

  /// What capture remembers of the module's forward, so that `commit` can run it again; null for a Model that was not
  /// captured. Copies and edited Models keep it.
  [[nodiscard]] const std::shared_ptr<const Origin>& origin() const noexcept { return origin_; }
  void set_origin(std::shared_ptr<const Origin> origin) { origin_ = std::move(origin); }

 private:
  friend class Rewriter;
  static at::Tensor only(std::vector<at::Tensor> outputs);

  std::shared_ptr<Graph> graph_;  // never edited while shared
  Weights weights_;
  // Prepared for `graph_` on the first run, maybe by another thread while this Model is copied.
  struct Prepared {
    std::atomic<std::shared_ptr<const Interpreter>> interpreter;

    Prepared() = default;
    Prepared(const Prepared& other) : interpreter(other.interpreter.load()) {}
    Prepared& operator=(const Prepared& other) {
      interpreter = other.interpreter.load();
      return *this;
    }
    ~Prepared() = default;
  };
  mutable Prepared interpreter_;
  std::vector<std::string> notes_;
  std::shared_ptr<const Origin> origin_;
  bool training_ = false;
  bool can_train_ = true;
};

PARE_NAMESPACE_END
