#include "statistics.hpp"

#include <fmt/ranges.h>
#include <torch/torch.h>

#include <algorithm>
#include <set>

#include "pare/graph/weight_axis.hpp"
#include "prune/loss_gradients.hpp"
#include "prune/own_loss.hpp"

PARE_NAMESPACE_BEGIN

namespace {

constexpr std::int64_t kScoreSamples = 16384;  // which channels matter shows in few; what the others become wants more

// The model on weights that gradients flow to; the tensors are the model's own.
Model differentiable(const Model& model) {
  auto copy = model;
  copy.eval();
  for (const auto& [path, weight] : model.weights())
    if (weight.is_parameter && weight.tensor.is_floating_point())
      copy.set_weight(path, weight.tensor.detach().requires_grad_(true));
  return copy;
}

// Mean over all axes but the channels'.
at::Tensor over_positions(const at::Tensor& values, bool channels_last) {
  std::vector<std::int64_t> axes;
  for (std::int64_t axis = 0; axis < values.dim(); ++axis)
    if (axis != (channels_last ? values.dim() - 1 : 1)) axes.push_back(axis);
  return (axes.empty() ? values : values.mean(axes)).to(at::kDouble);
}

void add(at::Tensor& sum, const at::Tensor& part) { sum = sum.defined() ? sum + part : part; }

// Layers that read the same features have the same key.
std::string features_key(const Reader& reader) {
  const auto& form = reader.form;
  return fmt::format("{} {} {} {} {} {}", index(reader.region.inputs[0]), form.features, fmt::join(form.kernel, ","),
                     fmt::join(form.stride, ","), fmt::join(form.padding, ","), fmt::join(form.dilation, ","));
}

// The values that layers read, and the results of those layers.
struct Taps {
  std::map<std::size_t, std::vector<std::size_t>> of_input, of_output;
  Taps(const Graph& graph, const std::vector<Reader>& readers) {
    for (std::size_t r = 0; r < readers.size(); ++r) {
      of_input[index(readers[r].region.inputs[0])].push_back(r);
      of_output[index(graph.node(readers[r].region.anchor).output())].push_back(r);
    }
  }
};

// A random projection of everything that the model returns, each output to its own scale.
at::Tensor projected(const std::vector<at::Tensor>& outputs, at::Generator& generator) {
  at::Tensor projection;
  for (const auto& output : outputs) {
    if (!output.defined() || !output.is_floating_point() || !output.requires_grad() || output.numel() == 0) continue;
    const auto scale = 1.0 / (output.detach().to(at::kDouble).std().item<double>() + 1e-12);
    const auto signs = at::randint(0, 2, output.sizes(), generator, output.options().dtype(at::kFloat)) * 2 - 1;
    add(projection, (output.to(at::kFloat) * signs).sum() * (std::isfinite(scale) ? scale : 1.0));
  }
  return projection;
}

// How the projection reacts to each output of each layer.
void observe_sensitivity(const at::Tensor& projection, const std::map<std::size_t, at::Tensor>& results,
                         const Taps& taps, std::vector<Reader>& readers) {
  std::vector<at::Tensor> values;
  for (const auto& [id, tensor] : results) values.push_back(tensor);
  if (values.empty()) return;  // no layer that can be refitted
  const auto gradients = torch::autograd::grad({projection}, values, {}, false, false, /*allow_unused=*/true);
  std::size_t i = 0;
  for (const auto& [id, tensor] : results) {
    const auto& gradient = gradients[i++];
    if (!gradient.defined()) continue;
    for (const auto r : taps.of_output.at(id)) {
      const auto positions = static_cast<double>(gradient.numel()) / static_cast<double>(readers[r].form.outputs) /
                             static_cast<double>(gradient.size(0));
      add(readers[r].sensitivity,
          over_positions(gradient.to(at::kFloat).square(), readers[r].form.kernel.empty()) * positions);
    }
  }
}

}  // namespace

std::int64_t samples_of_batch(const Batches& calibration, std::int64_t samples, std::int64_t features) {
  constexpr std::int64_t kEach = 16, kLeast = 512;
  const auto batches = static_cast<std::int64_t>(calibration.size().value_or(8));
  return std::max(kLeast, std::max(samples, kEach * features) / std::max<std::int64_t>(batches, 1));
}

std::vector<Reader> readers_of(const Graph& graph) {
  std::vector<Reader> readers;
  for (auto& region : match_regions(graph)) {
    if (region.weight == kNoValue) continue;
    const auto form = matrix_form(graph, region);
    if (!form || form->groups != 1) continue;
    Reader reader;
    reader.path = graph.value(region.weight).name;
    reader.axis = form->kernel.empty() ? 1 - form->axis : 1;
    for (const auto size : form->kernel) reader.window *= size;
    reader.form = *form;
    reader.region = std::move(region);
    readers.push_back(std::move(reader));
  }
  return readers;
}

void observe_activations(const Model& model, const Batches& calibration, std::vector<Reader>& readers) {
  const at::NoGradGuard no_grad;
  const Taps taps(model.graph(), readers);
  for (const auto& batch : calibration)
    static_cast<void>(model.run(batch, [&](ValueId value, const at::Tensor& tensor) {
      const auto found = taps.of_input.find(index(value));
      if (found == taps.of_input.end()) return;
      const auto values = tensor.to(at::kFloat);
      for (const auto r : found->second) {
        auto& reader = readers[r];
        const bool last = reader.form.kernel.empty();
        add(reader.mean_square, over_positions(values.square(), last));
        add(reader.mean_magnitude, over_positions(values.abs(), last));
        add(reader.zeros, over_positions(values.eq(0).to(at::kFloat), last));
        reader.batches += 1;
      }
    }));
  for (auto& reader : readers) {
    if (reader.batches == 0) continue;
    reader.mean_square = reader.mean_square / reader.batches;
    reader.mean_magnitude = reader.mean_magnitude / reader.batches;
    reader.zeros = reader.zeros / reader.batches;
  }
}

void observe_layers(const Model& model, const Batches& calibration, std::int64_t max_features, std::uint64_t seed,
                    std::vector<Reader>& readers) {
  const at::AutoGradMode with_gradients(true);
  const auto copy = differentiable(model);
  const Taps taps(copy.graph(), readers);
  std::map<std::string, std::shared_ptr<Features>> shared;
  for (auto& reader : readers) {
    if (reader.form.features > max_features) continue;
    auto& features = shared[features_key(reader)];
    if (!features) features = std::make_shared<Features>();
    reader.features = features;
  }
  const auto observe = [&](const std::vector<std::size_t>& those, const at::Tensor& input) {
    std::set<const Features*> seen;
    const auto values = input.detach().to(at::kFloat);
    for (const auto r : those) {
      auto& reader = readers[r];
      reader.batches += 1;
      if (!reader.features) {
        add(reader.mean_square, over_positions(values.square(), reader.form.kernel.empty()));
      } else if (seen.insert(reader.features.get()).second) {
        reader.features->moments.observe(
            features_of(reader.form, values, samples_of_batch(calibration, kScoreSamples, reader.form.features)));
      }
    }
  };
  auto generator = at::detail::createCPUGenerator(seed);
  double batches = 0;
  for (const auto& batch : calibration) {
    std::map<std::size_t, at::Tensor> results;
    const auto outputs = copy.run(batch, [&](ValueId value, const at::Tensor& tensor) {
      if (const auto found = taps.of_input.find(index(value)); found != taps.of_input.end())
        observe(found->second, tensor);
      if (taps.of_output.contains(index(value)) && tensor.requires_grad()) results[index(value)] = tensor;
    });
    const auto projection = projected(outputs, generator);
    if (!projection.defined()) continue;
    batches += 1;
    observe_sensitivity(projection, results, taps, readers);
  }
  for (auto& reader : readers) {
    if (reader.sensitivity.defined()) reader.sensitivity = reader.sensitivity / batches;
    if (reader.mean_square.defined()) reader.mean_square = reader.mean_square / reader.batches;
  }
}

Gradients gradients_of(const Model& model, const Batches& calibration, const ImportanceLoss& loss) {
  const at::AutoGradMode with_gradients(true);
  const auto copy = differentiable(model);
  std::vector<std::string> paths;
  std::vector<at::Tensor> tensors;
  for (const auto& [path, tensor] : copy.named_parameters()) {
    if (!tensor.requires_grad()) continue;
    paths.push_back(path);
    tensors.push_back(tensor);
  }
  Gradients result;
  double batches = 0;
  for (const auto& batch : calibration) {
    const auto outputs = copy.run(batch);
    const auto gradients = loss_gradients(
        "pare.prune.110", static_cast<std::size_t>(batches),
        [&] { return loss ? loss(outputs, batch) : own_loss(outputs); }, tensors);
    batches += 1;
    for (std::size_t i = 0; i < paths.size(); ++i) {
      if (!gradients[i].defined()) continue;
      const auto gradient = gradients[i].to(at::kDouble);
      auto& mean = result.mean[paths[i]];
      auto& square = result.square[paths[i]];
      mean = mean.defined() ? mean + gradient : gradient;
      square = square.defined() ? square + gradient.square() : gradient.square();
    }
  }
  for (auto& [path, sum] : result.mean) sum /= std::max(batches, 1.0);
  for (auto& [path, sum] : result.square) sum /= std::max(batches, 1.0);
  return result;
}

PARE_NAMESPACE_END
