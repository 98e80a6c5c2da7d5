#include "pare/capture/capture.hpp"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/Functions.h>
#include <fmt/ranges.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <mutex>
#include <optional>

#include "capture/align.hpp"
#include "capture/assemble.hpp"
#include "capture/module_state.hpp"
#include "capture/origin.hpp"
#include "capture/samples.hpp"
#include "pare/core/error.hpp"
#include "pare/graph/rewriter.hpp"

PARE_NAMESPACE_BEGIN

namespace {

constexpr double kRounding = 1e-5;  // of the largest output

// Tensors of their own: a forward may write to its inputs.
std::vector<at::Tensor> copies(std::vector<at::Tensor> inputs) {
  for (auto& input : inputs)
    if (input.defined()) input = input.detach().clone();
  return inputs;
}

std::string sizes_of(const std::vector<at::Tensor>& inputs) {
  std::string sizes;
  for (const auto& input : inputs)
    if (input.defined())
      sizes +=
          fmt::format("{}[{}]", sizes.empty() ? "" : ", ", fmt::join(input.sizes().begin(), input.sizes().end(), ", "));
  return sizes;
}

class Session {
 public:
  Session(torch::nn::Module& module, const ModuleForward& forward, const std::vector<at::Tensor>& example,
          const CaptureOptions& options)
      : module_(module),
        state_(module),
        forward_(forward),
        tensors_(module_tensors(module)),
        samples_(example, options),
        example_(example),
        options_(options) {}

  Model run() {
    const at::NoGradGuard no_grad;
    state_.set_training(false);
    auto evaluation = record_mode(/*real_first=*/true);
    std::optional<SymbolicTrace> training;
    std::string why;
    if (options_.training) {
      try {
        state_.set_training(true);
        training = record_mode(/*real_first=*/false);
      } catch (const Error& error) {
        why = fmt::format("training mode could not be captured: {}", error.what());
      }
    }
    state_.set_training(false);
    auto assembled = merge(evaluation, training, why);
    if (!training) {
      assembled.model.set_can_train(false);
      assembled.model.note(why.empty() ? "training mode was not captured" : why);
    }
    if (options_.verify) verify(assembled);
    auto graph = assembled.model.graph();
    assembled.model.set_origin(std::make_shared<const Origin>(
        Origin{forward_, example_, options_, std::move(graph), std::move(assembled.nodes)}));
    return std::move(assembled.model);
  }

 private:
  Assembled merge(const SymbolicTrace& evaluation, std::optional<SymbolicTrace>& training, std::string& why) const {
    const auto assemble_with = [&](const SymbolicTrace* mode) {
      return assemble(evaluation, mode, samples_.dims(), samples_.example_dims(), options_.input_names, tensors_);
    };
    if (training) {
      try {
        return assemble_with(&*training);
      } catch (const Error& error) {
        why = error.what();
        training.reset();
      }
    }
    return assemble_with(nullptr);
  }

  // One trace at each corner of the varying dims. Shapes alone tell what most modules do, and the verification runs
  // them for real; a forward that refuses what it finds in memory gets zeros, one that reads values gets its own: what
  // a norm makes of zeros is equal to anything.
  SymbolicTrace record_mode(bool real_first) {
    bool reads = false;
    const auto recorded = [&](Computation first, Computation others) {
      auto traces = record_corners(first, others);
      reads = std::ranges::any_of(traces, &Trace::reads_values);
      return traces;
    };
    if (options_.verify) {
      try {
        const auto traces = recorded(Computation::Shapes, Computation::Shapes);
        if (!reads) return align(traces);
      } catch (const Error&) {  // told by the next recording, if it is the module's own
      }
    }
    if (!reads) {
      const auto traces = recorded(real_first ? Computation::Values : Computation::Zeros, Computation::Zeros);
      if (!reads) return align(traces);
    }
    return align(record_corners(Computation::Values, Computation::Values));
  }

  std::vector<Trace> record_corners(Computation first, Computation others) {
    std::vector<Trace> traces;
    for (std::size_t corner = 0; corner < samples_.corners(); ++corner)
      traces.push_back(std::move(record(samples_.at(corner), corner == 0 ? first : others, false)->trace()));
    return traces;
  }

  SymbolicTrace align(const std::vector<Trace>& traces) const {
    std::vector<const Trace*> pointers;
    for (const auto& trace : traces) pointers.push_back(&trace);
    return align_sizes(pointers, samples_.dims());
  }

  std::shared_ptr<Recorder> record(const std::vector<at::Tensor>& values, Computation computation, bool snapshots) {
    const auto inputs = copies(values);
    auto recorder = std::make_shared<Recorder>(tensors_, computation);
    if (snapshots) recorder->keep_snapshots();
    recorder->watch_writes([this](const at::Tensor& tensor) { state_.remember(tensor); });
    for (const auto& input : inputs) recorder->add_input(input);
    try {
      const auto outputs = watched_call(inputs, recorder);
      for (const auto& output : outputs) recorder->add_output(output);
    } catch (const std::exception&) {
      state_.restore();
      throw;
    }
    state_.restore();
    return recorder;
  }

  std::vector<at::Tensor> watched_call(const std::vector<at::Tensor>& inputs,
                                       const std::shared_ptr<Recorder>& recorder) {
    const Interception interception(recorder);
    return call(inputs, recorder.get());
  }

  std::vector<at::Tensor> call(const std::vector<at::Tensor>& inputs, Recorder* recorder) {
    std::vector<at::Tensor> outputs;
    try {
      outputs = forward_(module_, inputs);
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      const std::string text(error.what());
      const auto where = recorder ? recorder->where() : std::string();
      fail("pare.capture.104", where, "the module's forward threw on inputs {}: {}", sizes_of(inputs),
           text.substr(0, text.find('\n')));
    }
    if (outputs.empty())
      fail("pare.capture.103", "",
           "the forward returned no tensor that capture can see: return tensors, or open the struct that holds them "
           "with pare_fields");
    return outputs;
  }

  // Replays against the module on fresh values at a size never captured.
  void verify(Assembled& assembled) {
    // LibTorch takes other paths for single samples, with other orders of summation.
    auto failed = mismatch(assembled.model, samples_.fresh(1), kRounding);
    if (failed.empty()) return verify_beyond(assembled);
    const auto inputs = samples_.fresh(5);
    if (samples_.corners() > 1 && mismatch(assembled.model, inputs, 0).empty()) {
      if (samples_.example_dims()[0] == 1)
        fail("pare.capture.142", "",
             "at size 1, which the example has, the module behaves differently from other sizes ({}); give an example "
             "of "
             "2 or more, or set fixed_sizes",
             failed);
      Rewriter(assembled.model).limit_dim(0, 2);
      assembled.model.note(
          fmt::format("at {} 1 the module behaves differently from other sizes ({}): the model refuses it",
                      assembled.model.graph().dims()[0], failed));
      return;
    }
    fail("pare.capture.141", "",
         "the replay differs from the module's own forward, first at {}; something in it is "
         "computed outside LibTorch's dispatcher",
         locate(assembled, inputs));
  }

  // Two sizes do not tell a half from a difference: those that are no batch are compared at others, as far as the
  // module takes them. At the next odd size a half may well be rounded otherwise than those captured tell; one step
  // further nothing may differ.
  void verify_beyond(Assembled& assembled) {
    bool compared = false;
    for (const std::int64_t steps : {1, 0}) {
      const auto inputs = samples_.beyond(steps);
      if (inputs.empty()) return;
      if (!takes(inputs)) continue;
      compared = true;
      if (mismatch(assembled.model, inputs, kRounding).empty()) continue;
      const auto what = fmt::format("at inputs of {} the replay differs from the module's own forward, first at {}",
                                    sizes_of(inputs), locate(assembled, inputs));
      if (steps > 0)
        fail("pare.capture.143", "",
             "{}: the two sizes captured do not tell how it depends on them; name another one as "
             "VaryingDim::other_size, or set fixed_sizes",
             what);
      assembled.model.note(
          fmt::format("{}: the model is right at sizes that leave the same remainders as those captured", what));
    }
    if (!compared) assembled.model.note("the module takes no third size to compare the replay at");
  }

  bool takes(const std::vector<at::Tensor>& inputs) {
    bool taken = true;
    try {
      static_cast<void>(call(copies(inputs), nullptr));
    } catch (const Error&) {
      taken = false;
    }
    state_.restore();
    return taken;
  }

  // Equal to the last bit, or within `tolerance` of the largest number.
  static bool same(const at::Tensor& a, const at::Tensor& b, double tolerance = 0) {
    if (a.defined() != b.defined()) return false;
    if (!a.defined()) return true;
    if (same_tensor(a, b)) return true;
    return tolerance > 0 && a.numel() > 0 && a.is_floating_point() && a.scalar_type() == b.scalar_type() &&
           a.sizes() == b.sizes() &&
           at::allclose(a, b, 0.0, tolerance * a.abs().max().item<double>(), /*equal_nan=*/true);
  }

  std::string mismatch(const Model& model, const std::vector<at::Tensor>& inputs, double tolerance) {
    std::vector<at::Tensor> expected, actual;
    // What a forward writes to tensors that it keeps shows in its next run.
    const int runs = state_.remembers_more() ? 2 : 1;
    try {
      state_.seed();
      for (int run = 0; run < runs; ++run) expected = call(copies(inputs), nullptr);
      state_.restore();
      state_.seed();
      for (int run = 0; run < runs; ++run) actual = model.run(inputs);
      state_.restore();
    } catch (const Error& error) {
      state_.restore();
      return error.what();
    }
    for (std::size_t i = 0; i < expected.size(); ++i)
      if (!same(expected[i], actual.at(i), tolerance)) return fmt::format("output {}", i);
    return {};
  }

  // Runs both once more and names the first call whose result differs.
  std::string locate(const Assembled& assembled, const std::vector<at::Tensor>& inputs) {
    state_.seed();
    const auto recorder = record(inputs, Computation::Values, true);
    std::vector<at::Tensor> replayed(assembled.model.graph().value_count());
    try {
      state_.seed();
      static_cast<void>(assembled.model.run(inputs, [&](ValueId id, const at::Tensor& tensor) {
        replayed[index(id)] = tensor.defined() ? tensor.clone() : tensor;
      }));
    } catch (const Error& error) {
      state_.restore();
      return error.what();
    }
    state_.restore();
    const auto& calls = recorder->trace().calls;
    for (std::size_t i = 0; i < std::min(calls.size(), assembled.nodes.size()); ++i) {
      const auto& node = assembled.model.graph().node(assembled.nodes[i]);
      for (std::size_t o = 0; o < std::min(calls[i].outputs.size(), node.outputs.size()); ++o)
        if (!same(recorder->tensor(calls[i].outputs[o]), replayed[index(node.outputs[o])]))
          return fmt::format("{} ({})", node.name, node.op.name());
    }
    return "its output";
  }

  torch::nn::Module& module_;
  ModuleState state_;
  const ModuleForward& forward_;
  ModuleTensors tensors_;
  Samples samples_;
  const std::vector<at::Tensor>& example_;
  const CaptureOptions& options_;
};

}  // namespace

Model capture_forward(torch::nn::Module& module, const FlatForward& forward, const std::vector<at::Tensor>& example,
                      const CaptureOptions& options) {
  return capture_module(
      module,
      [forward](torch::nn::Module& /*target*/, const std::vector<at::Tensor>& tensors) { return forward(tensors); },
      example, options);
}

Model capture_module(torch::nn::Module& module, const ModuleForward& forward, const std::vector<at::Tensor>& example,
                     const CaptureOptions& options) {
  static thread_local bool capturing = false;
  if (capturing)
    fail("pare.capture.105", "", "a forward that is being captured captures itself: do that outside of it");
  static std::mutex mutex;  // captures flip the training flag of the module for a moment
  const std::lock_guard lock(mutex);
  struct Capturing {
    Capturing() { capturing = true; }
    ~Capturing() { capturing = false; }
  } const here;
  return Session(module, forward, example, options).run();
}

PARE_NAMESPACE_END
