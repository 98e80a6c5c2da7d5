#include "learn_rounding.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <bit>
#include <variant>

#include "learned_layer.hpp"

PARE_NAMESPACE_BEGIN

namespace {

/// Goes through the layers in order: each makes up for what those before it left wrong.
class LayerByLayer {
 public:
  LayerByLayer(Model& model, const Model& original, Context& context, const LearnedRounding& options)
      : model_(model), original_(original), context_(context), options_(options) {
    for (const auto& batch : context.calibration()) batches_.push_back(batch);
  }

  void run(const std::vector<LearnedLayer>& layers) {
    Frontier was(original_, batches_), now(model_, batches_);
    auto task = context_.progress().start("learn rounding", layers.size());
    for (const auto& layer : layers) {
      was.advance(original_, layer.original.anchor);
      now.advance(model_, layer.quantized.anchor);
      solve(layer, was, now);
      now.repeat(model_, layer.behind);
      task.advance();
    }
  }

 private:
  // Samples of one batch.
  std::int64_t limit(const MatrixForm& form) const {
    const auto wanted = std::max(options_.samples, 8 * form.features);
    return std::max<std::int64_t>(wanted / static_cast<std::int64_t>(batches_.size()), 1);
  }

  void solve(const LearnedLayer& layer, const Frontier& was, const Frontier& now) {
    const auto& form = layer.form;
    const auto weight = original_.weight(layer.weight).detach();
    const auto rows = to_rows(form, weight.to(at::kFloat));
    const LayerError error(layer, rows, was, now, limit(form));
    // Float weights that give the original outputs best from the quantized inputs; pruned ones stay zero.
    const auto target = at::where(rows.eq(0), rows, rows + error.change());
    const auto covariance = error.covariance();
    auto rounded = at::empty_like(rows);
    auto scale = at::empty({rows.size(0)}, at::kFloat);
    const auto group = [&](std::int64_t g) {
      const auto first = g * form.outputs;
      const auto result = options_.solver(target.narrow(0, first, form.outputs), covariance[g], layer.grid);
      rounded.narrow(0, first, form.outputs).copy_(result.rounded);
      scale.narrow(0, first, form.outputs).copy_(result.scale);
    };
    if (form.groups == 1) {
      group(0);
    } else {
      at::parallel_for(0, form.groups, 1, [&](std::int64_t begin, std::int64_t end) {
        const at::NoGradGuard no_grad;
        for (auto g = begin; g < end; ++g) group(g);
      });
    }
    auto& rewriter = context_.rewriter();
    rewriter.set_weight(layer.weight, from_rows(form, rounded, weight.sizes()).to(weight.scalar_type()));
    rewriter.set_weight(layer.scale, scale.to(weight.device()));
    if (layer.bias.empty()) return;
    const auto shift = error.bias_shift(rounded - rows);
    const auto& bias = original_.weight(layer.bias).detach();
    rewriter.set_weight(layer.bias, (bias + shift.view_as(bias)).to(bias.scalar_type()));
  }

  Model& model_;
  const Model& original_;
  Context& context_;
  const LearnedRounding& options_;
  std::vector<Batch> batches_;
};

}  // namespace

bool learns_rounding(const QuantizationSettings& settings) {
  return settings.rounding == Rounding::Learned && !settings.weight_only && settings.symmetric_weights &&
         std::holds_alternative<PerChannel>(settings.granularity);
}

std::unordered_map<std::size_t, std::string> learn_rounding(Model& model, const Model& original, Context& context,
                                                            const LearnedRounding& options, std::int64_t max_features) {
  const auto layers = find_learned_layers(original, model, max_features);
  LayerByLayer(model, original, context, options).run(layers);
  std::unordered_map<std::size_t, std::string> texts;
  for (const auto& layer : layers)
    texts[index(layer.quantized.anchor)] = fmt::format("symmetric int{} per channel, learned rounding",
                                                       std::bit_width(static_cast<std::uint64_t>(layer.grid.max)) + 1);
  return texts;
}

PARE_NAMESPACE_END
