#include "score.hpp"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>

#include "elimination.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

// The numbers of a tensor that go with each unit: [units, entries].
at::Tensor gathered(const at::Tensor& tensor, const ChannelGroup::Slice& slice) {
  const auto type = tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  auto rows = tensor.detach().to(at::kCPU, type).movedim(slice.dim, 0);
  if (!slice.is_whole()) rows = rows.index_select(0, at::tensor(slice.indices, at::kLong));
  return rows.reshape({static_cast<std::int64_t>(slice.indices.size()) / slice.entries, -1});
}

bool is_finite(const at::Tensor& tensor) { return tensor.isfinite().all().item<bool>(); }

bool reads(const Reader& reader, const ChannelGroup::Slice& slice) {
  return reader.path == slice.path && reader.axis == slice.dim;
}

// Per-channel statistics of the reader's input, averaged over each unit's channels.
at::Tensor of_units(const at::Tensor& channels, const ChannelGroup::Slice& slice) {
  auto along = slice;
  along.dim = 0;
  return gathered(channels, along).mean(1);
}

class Scorer {
 public:
  Scorer(const Model& model, const Batches* calibration, std::uint64_t seed, const PruningSettings& settings,
         WeightSquares squares)
      : model_(model), settings_(settings), squares_(std::move(squares)) {
    const auto& importance = settings.importance;
    if (!calibration) return;
    if (importance.need == Need::Gradient) gradients_ = gradients_of(model, *calibration, settings.loss);
    if (importance.need != Need::Activations && !importance.eliminates) return;
    readers_ = readers_of(model.graph());
    if (importance.eliminates) {
      // Inverting and updating cost several times what a refit does.
      observe_layers(model, *calibration, settings.max_features / 2, seed, readers_);
    } else {
      observe_activations(model, *calibration, readers_);
      for (const auto& reader : readers_)
        if (reader.mean_magnitude.defined() && !is_finite(reader.mean_magnitude)) bad_inputs(reader.path);
    }
  }

  RankedGroup operator()(const ChannelGroup& group) {
    RankedGroup candidate{&group, {}, {}, step_of(group)};
    if (settings_.importance.eliminates && eliminate(group, candidate)) return candidate;
    auto scores = aggregated(group);
    if (settings_.importance.eliminates) {
      scores = scores / std::max(scores.sum().item<double>(), 1e-30);  // a share of all that the group does
    } else if (settings_.importance.normalize) {
      scores = checked(settings_.importance.normalize(scores), group, "normalize()");
    } else {
      const auto mean = scores.mean().item<double>();
      scores = scores / (mean > 0 ? mean : 1.0);
    }
    const auto [sorted, order] = scores.to(at::kDouble).contiguous().sort(/*stable=*/true, 0, /*descending=*/false);
    const auto* units = order.const_data_ptr<std::int64_t>();
    const auto* values = sorted.const_data_ptr<double>();
    candidate.scores.assign(values, values + sorted.numel());
    for (std::int64_t i = 0; i < order.numel(); ++i)
      candidate.order.push_back(group.units[static_cast<std::size_t>(units[i])]);
    return candidate;
  }

 private:
  [[nodiscard]] std::int64_t step_of(const ChannelGroup& group) const {
    const auto step = settings_.round_to / std::gcd(settings_.round_to, group.slices.front().entries);
    return static_cast<std::int64_t>(group.size()) % step == 0 ? step : 1;
  }

  [[nodiscard]] at::Tensor aggregated(const ChannelGroup& group) {
    std::vector<at::Tensor> scores;
    std::vector<std::string_view> scored;  // whose they are
    for (const auto& slice : group.slices) {
      if (!slice.is_parameter) continue;
      SliceView view{slice};
      if (settings_.importance.need == Need::Squares) {
        view.squares = squares_.of_units(model_.weight(slice.path), slice);
      } else {
        view.weight = gathered(model_.weight(slice.path), slice);
      }
      if (const auto found = gradients_.mean.find(slice.path); found != gradients_.mean.end()) {
        view.gradient = gathered(found->second, slice);
        view.squared_gradient = gathered(gradients_.square.at(slice.path), slice);
      }
      for (const auto& reader : readers_) {
        if (!reads(reader, slice) || !reader.mean_square.defined()) continue;
        view.activation_square = of_units(reader.mean_square, slice);
        view.activation_mean = of_units(reader.mean_magnitude, slice);
        view.activation_zeros = of_units(reader.zeros, slice);
      }
      auto part = settings_.importance.score(view);
      if (!part.defined()) continue;
      if (part.dim() != 1 || part.size(0) != static_cast<std::int64_t>(group.size()))
        fail("pare.prune.103", slice.path, "the criterion scored {} units of {}", part.numel(), group.size());
      scores.push_back(part.to(at::kDouble));
      scored.push_back(slice.path);
    }
    if (scores.empty()) {  // nothing the criterion can look at: weights speak for themselves
      for (const auto& slice : group.slices) {
        if (!slice.produces && !slice.consumes) continue;
        scores.push_back(squares_.of_units(model_.weight(slice.path), slice));
        scored.push_back(slice.path);
      }
    }
    const auto all = at::stack(scores);
    if (!is_finite(all))  // of all at once: each by itself is a call for every norm's every weight
      for (std::size_t i = 0; i < scores.size(); ++i)
        if (!is_finite(scores[i])) not_finite(scored[i]);
    return settings_.aggregation ? checked(settings_.aggregation(all), group, "the aggregation") : all.sum(0);
  }

  // What the user's own code makes of a group's scores.
  static at::Tensor checked(const at::Tensor& scores, const ChannelGroup& group, std::string_view who) {
    const auto& path = group.slices.front().path;
    if (!scores.defined() || scores.dim() != 1 || scores.size(0) != static_cast<std::int64_t>(group.size()))
      fail("pare.prune.103", path, "{} returned {} for {} units: a score for each is wanted", who,
           scores.defined() ? fmt::format("[{}]", fmt::join(scores.sizes(), ", ")) : "no tensor", group.size());
    if (!is_finite(scores)) fail("pare.prune.103", path, "{} returned NaN or infinite importances", who);
    return scores.to(at::kDouble);
  }

  // Units go one after the other from all layers that read them. @return false when no layer does linearly
  bool eliminate(const ChannelGroup& group, RankedGroup& candidate) {
    const auto units = static_cast<std::int64_t>(group.size());
    struct Reading {
      Features* features;
      std::string_view path;  // of one of the layers' weights
      at::Tensor columns;
      std::vector<at::Tensor> weights;
    };
    std::vector<Reading> readings;  // layers that read the same features are judged at once
    auto fixed = at::zeros({units}, at::kDouble);
    bool any = false;
    for (const auto& slice : group.slices) {
      for (const auto& reader : readers_) {
        if (!reads(reader, slice) || reader.batches == 0) continue;
        any = true;
        const auto columns = columns_of(slice, reader.window);
        auto weight = to_rows(reader.form, model_.weight(reader.path).detach().cpu()).index_select(1, columns);
        if (reader.sensitivity.defined())
          weight = weight * reader.sensitivity.sqrt().to(at::kCPU, at::kFloat).unsqueeze(1);
        if (reader.features) {
          auto known = std::ranges::find(readings, reader.features.get(), &Reading::features);
          if (known == readings.end())
            known = readings.insert(known, {reader.features.get(), reader.path, columns, {}});
          known->weights.push_back(weight);
        } else {
          const auto variances = reader.mean_square.cpu().repeat_interleave(reader.window).index_select(0, columns);
          fixed += elimination_costs(weight, variances, units);
        }
      }
    }
    if (!any) return false;
    if (!is_finite(fixed)) not_finite(group.slices.front().path);
    std::vector<Elimination> layers;
    for (const auto& reading : readings) {
      const auto& inverse = inverse_of(*reading.features, reading.path);
      layers.emplace_back(at::cat(reading.weights),
                          inverse.index_select(0, reading.columns).index_select(1, reading.columns), units);
    }
    order_units(group, layers, fixed, candidate);
    return true;
  }

  const at::Tensor& inverse_of(Features& features, std::string_view path) const {
    if (!features.inverse.defined()) {
      if (features.moments.empty()) bad_inputs(path);
      const auto covariance = features.moments.second_moment(true)[0].cpu();
      if (!is_finite(covariance)) bad_inputs(path);
      features.inverse = damped_inverse(covariance, *settings_.importance.eliminates);
      features.moments = Gram();
    }
    return features.inverse;
  }

  [[noreturn]] static void bad_inputs(std::string_view path) {
    fail("pare.prune.103", path,
         "on the calibration batches the layer reads NaN or infinite values, or they hold no samples");
  }

  [[noreturn]] static void not_finite(std::string_view path) {
    fail("pare.prune.103", path, "importances are NaN or infinite; check the weights and the calibration batches");
  }

  // The features that go with each unit, one unit after the other.
  static at::Tensor columns_of(const ChannelGroup::Slice& slice, std::int64_t window) {
    std::vector<std::int64_t> features;
    for (const auto channel : slice.indices)
      for (std::int64_t k = 0; k < window; ++k) features.push_back(channel * window + k);
    return at::tensor(features, at::kLong);
  }

  void order_units(const ChannelGroup& group, std::vector<Elimination>& layers, const at::Tensor& fixed,
                   RankedGroup& candidate) const {
    const auto units = static_cast<std::int64_t>(group.size());
    const auto limit = static_cast<std::int64_t>(settings_.max_ratio.fraction * static_cast<double>(units)) + 1;
    constexpr std::int64_t kRounds = 64;  // wide groups lose several units at a time
    const auto stride = layers.empty() ? units : std::max<std::int64_t>(1, units / kRounds);
    double least = 0;  // later units never cost less than those that went before
    std::vector<bool> gone(static_cast<std::size_t>(units), false);
    const auto leave = [&](std::int64_t unit, double cost) {
      least = std::max(least, cost);
      gone[static_cast<std::size_t>(unit)] = true;
      candidate.order.push_back(group.units[static_cast<std::size_t>(unit)]);
      candidate.scores.push_back(least);
    };
    while (static_cast<std::int64_t>(candidate.order.size()) < units) {
      auto costs = fixed.clone();
      for (const auto& layer : layers) costs += layer.costs();
      if (costs.isnan().any().item<bool>()) not_finite(group.slices.front().path);
      for (std::int64_t u = 0; u < units; ++u)
        if (gone[static_cast<std::size_t>(u)]) costs[u] = std::numeric_limits<double>::infinity();
      const auto [sorted, order] = costs.sort(/*stable=*/true, 0, /*descending=*/false);
      const bool rest = static_cast<std::int64_t>(candidate.order.size()) >= limit;
      const auto count = rest ? units : stride;
      std::vector<std::int64_t> leaving;
      for (std::int64_t i = 0; i < count && static_cast<std::int64_t>(candidate.order.size()) < units; ++i) {
        leaving.push_back(order[i].item<std::int64_t>());
        leave(leaving.back(), sorted[i].item<double>());
      }
      if (!rest)
        for (auto& layer : layers) layer.remove(leaving);
    }
  }

  const Model& model_;
  const PruningSettings& settings_;
  std::vector<Reader> readers_;
  Gradients gradients_;
  WeightSquares squares_;
};

}  // namespace

std::vector<RankedGroup> score(const Model& model, const std::vector<const ChannelGroup*>& groups,
                               const Batches* calibration, std::uint64_t seed, const PruningSettings& settings,
                               WeightSquares squares) {
  Scorer scorer(model, calibration, seed, settings, std::move(squares));
  std::vector<RankedGroup> candidates;
  for (const auto* group : groups) candidates.push_back(scorer(*group));
  return candidates;
}

PARE_NAMESPACE_END
