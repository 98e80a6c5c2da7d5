#include "pare/quantize/simulation.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/function.h>

#include "capture/module_state.hpp"
#include "graph/replaying.hpp"
#include "graph_follower.hpp"
#include "parameter_follower.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

// What a forward that is watched cannot have done to it: its weights are the module's own.
QuantizationSettings in_place(QuantizationSettings settings) {
  settings.smooth = false;
  return settings;
}

// One forward in evaluation mode that leaves nothing behind.
void try_forward(torch::nn::Module& module, const std::shared_ptr<SimulatedForward>& follower,
                 const std::function<void()>& forward) {
  ModuleState state(module);
  state.set_training(false);
  const at::NoGradGuard no_grad;
  const Interception interception(follower);
  forward();
}

const GraphFollower* with_graph(const std::shared_ptr<SimulatedForward>& forward) {
  return dynamic_cast<const GraphFollower*>(forward.get());
}

}  // namespace

void SimulatedForward::call(const c10::OperatorHandle& op, torch::jit::Stack& stack) {
  if (torch::autograd::get_current_node() || replaying()) {
    op.callBoxed(stack);
  } else {
    forward_call(op, stack);
  }
}

Simulation::Simulation(torch::nn::Module& module, std::vector<at::Tensor> example, const Forward& forward,
                       const std::function<Model()>& captured, const QuantizationSettings& settings,
                       const SimulationOptions& options) {
  validate_qat(options.training, settings);
  const auto calibration =
      options.calibration.empty() ? Batches{std::vector<Batch>{std::move(example)}} : options.calibration;
  try {
    auto model = captured();
    const auto graph = model.graph();
    auto follower = std::make_shared<GraphFollower>(
        module, graph, TrainableQuantization(std::move(model), in_place(settings), calibration, options.training));
    try_forward(module, follower, forward);
    const auto missed = follower->missed();
    if (!missed.empty())
      fail("pare.capture.141", missed, "the forward's own calls cannot be told to be those of the graph");
    forward_ = std::move(follower);
  } catch (const Error& error) {
    if (!error.id().starts_with("pare.capture.")) throw;
    obstacle_ = error.what();
    auto follower = std::make_shared<ParameterFollower>(module, settings, options.training);
    try_forward(module, follower, forward);
    follower->discover(false);
    forward_ = std::move(follower);
  }
}

Simulation::~Simulation() = default;

namespace {

std::shared_ptr<SimulatedForward> claim(const std::shared_ptr<std::atomic<bool>>& entered,
                                        const std::shared_ptr<SimulatedForward>& forward) {
  if (entered->exchange(true))
    fail("pare.quantize.121", "",
         "this simulation is entered already, on this thread or another; end that scope first, or make a simulation "
         "for each thread");
  return forward;
}

}  // namespace

Simulation::Scope::Scope(Simulation& simulation)
    : entered_(simulation.entered_), interception_(claim(simulation.entered_, simulation.forward_)) {}
Simulation::Scope::~Scope() { entered_->store(false); }

bool Simulation::follows_graph() const noexcept { return obstacle_.empty(); }

std::vector<at::Tensor> Simulation::range_parameters() const {
  std::vector<at::Tensor> tensors;
  for (const auto& [name, tensor] : forward_->range_parameters()) tensors.push_back(tensor);
  return tensors;
}

std::map<std::string, at::Tensor> Simulation::state() const { return forward_->state(); }
void Simulation::load_state(const std::map<std::string, at::Tensor>& state) { forward_->load_state(state); }

Model Simulation::convert() const {
  const auto* follower = with_graph(forward_);
  if (!follower)
    fail("pare.quantize.122", "", "the module has no graph to convert, it could not be captured: {}", obstacle_);
  return follower->convert();
}

PARE_NAMESPACE_END
