#include "statistics.hpp"

#include <torch/torch.h>

#include <algorithm>
#include <set>

#include "pare/graph/weight_axis.hpp"

PARE_NAMESPACE_BEGIN

namespace {

// The model on weights that gradients flow to; the tensors are the model's own.
Model differentiable(const Model& model) {
  auto copy = model;
  copy.eval();
  for (const auto& [path, weight] : model.weights())
    if (weight.is_parameter && weight.tensor.is_floating_point())
      copy.set_weight(path, weight.tensor.detach().requires_grad_(true));
  return copy;
}

at::Tensor own_loss(const std::vector<at::Tensor>& outputs) {
  at::Tensor sum;
  for (const auto& output : outputs) {
    if (!output.defined() || !output.is_floating_point()) continue;
    const auto loss = output.dim() == 2 && output.size(1) > 1
                          ? torch::nn::functional::cross_entropy(output, output.detach().argmax(1))
                          : output.square().mean();
    sum = sum.defined() ? sum + loss : loss;
  }
  return sum;
}

// Mean of f over all axes but the channels'.
at::Tensor over_positions(const at::Tensor& values, bool channels_last) {
  const auto flat = channels_last ? values.reshape({-1, values.size(-1)}) : values.transpose(0, 1).flatten(1).t();
  return flat.mean(0, false, at::kDouble);
}

void observe(Reader& reader, const at::Tensor& input, std::int64_t max_features) {
  const bool last = reader.form.kernel.empty();
  const auto values = input.detach().to(at::kFloat);
  const auto add = [](at::Tensor& sum, const at::Tensor& part) { sum = sum.defined() ? sum + part : part; };
  add(reader.mean_square, over_positions(values.square(), last));
  add(reader.mean_magnitude, over_positions(values.abs(), last));
  add(reader.zeros, over_positions(values.eq(0).to(at::kFloat), last));
  reader.batches += 1;
  if (reader.form.features <= max_features)
    reader.inputs.observe(features_of(reader.form, values, std::max<std::int64_t>(16384, 4 * reader.form.features)));
}

}  // namespace

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

void observe_inputs(const Model& model, const Batches& calibration, std::int64_t max_features, std::uint64_t seed,
                    std::vector<Reader>& readers) {
  const at::AutoGradMode with_gradients(true);
  const auto copy = differentiable(model);
  std::map<std::size_t, std::vector<std::size_t>> of_input, of_output;
  for (std::size_t r = 0; r < readers.size(); ++r) {
    of_input[index(readers[r].region.inputs[0])].push_back(r);
    of_output[index(copy.graph().node(readers[r].region.anchor).output())].push_back(r);
  }
  auto generator = at::detail::createCPUGenerator(seed);
  double batches = 0;
  for (const auto& batch : calibration) {
    std::map<std::size_t, at::Tensor> results;
    const auto outputs = copy.run(batch, [&](ValueId value, const at::Tensor& tensor) {
      if (const auto found = of_input.find(index(value)); found != of_input.end()) {
        for (const auto r : found->second) observe(readers[r], tensor, max_features);
      }
      if (of_output.contains(index(value)) && tensor.requires_grad()) results[index(value)] = tensor;
    });
    at::Tensor projection;
    for (const auto& output : outputs) {
      if (!output.defined() || !output.is_floating_point() || !output.requires_grad()) continue;
      const auto scale = 1.0 / (output.detach().to(at::kDouble).std().item<double>() + 1e-12);
      const auto signs = at::randint(0, 2, output.sizes(), generator, output.options().dtype(at::kFloat)) * 2 - 1;
      const auto part = (output.to(at::kFloat) * signs).sum() * (std::isfinite(scale) ? scale : 1.0);
      projection = projection.defined() ? projection + part : part;
    }
    if (!projection.defined()) continue;
    std::vector<at::Tensor> values;
    std::vector<std::size_t> ids;
    for (auto& [id, tensor] : results) {
      ids.push_back(id);
      values.push_back(tensor);
    }
    const auto gradients = torch::autograd::grad({projection}, values, {}, false, false, /*allow_unused=*/true);
    batches += 1;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (!gradients[i].defined()) continue;
      for (const auto r : of_output[ids[i]]) {
        auto& reader = readers[r];
        const auto square = over_positions(gradients[i].to(at::kFloat).square(), reader.form.kernel.empty()) *
                            (static_cast<double>(gradients[i].numel()) / static_cast<double>(reader.form.outputs) /
                             static_cast<double>(gradients[i].size(0)));
        reader.sensitivity = reader.sensitivity.defined() ? reader.sensitivity + square : square;
      }
    }
  }
  for (auto& reader : readers) {
    if (reader.sensitivity.defined()) reader.sensitivity = reader.sensitivity / batches;
    if (reader.batches == 0) continue;
    reader.mean_square = reader.mean_square / reader.batches;
    reader.mean_magnitude = reader.mean_magnitude / reader.batches;
    reader.zeros = reader.zeros / reader.batches;
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
    const auto value = loss ? loss(outputs, batch) : own_loss(outputs);
    const auto gradients = torch::autograd::grad({value}, tensors, {}, false, false, /*allow_unused=*/true);
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
