#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "pare/capture/capture.hpp"
#include "pare/capture/interceptor.hpp"
#include "pare/core/batches.hpp"
#include "pare/quantize/qat_options.hpp"
#include "pare/quantize/quantizer.hpp"

PARE_NAMESPACE_BEGIN

class SimulatedForward;

/// What a `Simulation` may be told besides where and how to quantize.
struct SimulationOptions {
  /// Ranges are observed unless told otherwise: an optimizer over the module's parameters knows nothing of scales. Hand
  /// `Simulation::range_parameters()` to one when they are learned.
  QatOptions training = {.weights = RangeTraining::Observed, .activations = RangeTraining::Observed};
  Batches calibration = {};     ///< to start ranges from; none: the example
  CaptureOptions capture = {};  ///< which sizes vary, as for `capture`
};

/// Quantization-aware training of a module's own, unmodified forward.
///
///     pare::Simulation simulation{net, example, pare::Quantizer{.weights = 4_bits, .activations = 8_bits}};
///     auto scope = simulation.enter();
///     for (auto& batch : loader) { optimizer.zero_grad(); loss(net->forward(batch.data), ...).backward(); ... }
///
/// While a scope lives, calls that this thread makes are watched: where the quantized Model has a fake-quantize, the
/// argument of the call is rounded, with straight-through gradients, and the call goes on. The module, its parameters
/// and the optimizer stay the user's; backward passes and optimizer steps go by untouched.
///
/// A module that `capture` accepts is followed along its graph, so what is rounded is what `convert()` makes integers
/// of, products of attention among it. Another one (whose control flow depends on data, say) is followed by op
/// and parameter: convolutions, linear layers and embeddings round their weight and, but for embeddings, their input,
/// with a range for each layer that is found when the layer is first reached.
///
/// Batch norms train as they are; a weight in front of one is rounded as it will be once folded. `Quantizer::smooth`
/// and its rewrites are left out: they would move factors between parameters that are the user's.
class Simulation {
 public:
  /// One thread's forwards are simulated for as long as this lives.
  class Scope {
   public:
    explicit Scope(Simulation& simulation);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    std::shared_ptr<std::atomic<bool>> entered_;
    Interception interception_;
  };

  /// @param net,example as for `capture`; the module must outlive the simulation
  /// @throws Error as `Quantizer`, `pare.quantize.110` for options out of range, and what the module's forward throws
  template <class Net, class Example, class WeightObserver, class ActivationObserver>
  Simulation(Net& net, const Example& example, const Quantizer<WeightObserver, ActivationObserver>& quantizer,
             const SimulationOptions& options = {})
      : Simulation(
            detail::module_of(net), tensors_of(detail::AsArguments<Example>::of(example)), forward_of(net, example),
            [&net, &example, &options] { return capture(net, example, options.capture); }, quantizer.settings(),
            options) {}
  Simulation(const Simulation&) = delete;
  Simulation& operator=(const Simulation&) = delete;
  ~Simulation();

  /// Starts to simulate on this thread, until the scope that is returned ends.
  /// @throws Error `pare.quantize.121` while another scope lives, on whichever thread
  [[nodiscard]] Scope enter() { return Scope(*this); }

  /// Whether the module is followed along its graph; otherwise `obstacle()` says why it could not be captured.
  [[nodiscard]] bool follows_graph() const noexcept;
  [[nodiscard]] const std::string& obstacle() const noexcept { return obstacle_; }

  /// The learned scales, zero points and clips, for an optimizer that shall train them. Without a graph: of the layers
  /// reached so far.
  [[nodiscard]] std::vector<at::Tensor> range_parameters() const;
  /// The ranges and their statistics, to be saved beside the module.
  [[nodiscard]] std::map<std::string, at::Tensor> state() const;
  /// Puts them back. @throws Error `pare.quantize.113` for tensors that are missing, left over, or of another shape
  void load_state(const std::map<std::string, at::Tensor>& state);

  /// The integer Model of the module as it is now. It computes what the simulated forward computes, up to the rounding
  /// of batch norms that it has folded.
  /// @throws Error `pare.quantize.122` for a module that could not be captured, with the reason
  [[nodiscard]] Model convert() const;

 private:
  using Forward = std::function<void()>;
  Simulation(torch::nn::Module& module, std::vector<at::Tensor> example, const Forward& forward,
             const std::function<Model()>& captured, const QuantizationSettings& settings,
             const SimulationOptions& options);

  template <class Net, class Example>
  static Forward forward_of(Net& net, const Example& example) {
    return [&net, arguments = detail::AsArguments<Example>::of(example)]() mutable {
      (void)std::apply([&](auto&... argument) { return detail::module_of(net).forward(argument...); }, arguments);
    };
  }

  std::shared_ptr<SimulatedForward> forward_;
  std::shared_ptr<std::atomic<bool>> entered_ = std::make_shared<std::atomic<bool>>(false);
  std::string obstacle_;
};

PARE_NAMESPACE_END
