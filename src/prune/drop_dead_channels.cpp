#include "pare/prune/drop_dead_channels.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "check_outputs.hpp"
#include "choice.hpp"
#include "pare/core/error.hpp"
#include "statistics.hpp"

PARE_NAMESPACE_BEGIN

namespace {

using Outputs = std::vector<at::Tensor>;

// Whether the numbers of a slice that belong to each unit are all zero.
std::vector<bool> zero_units(const at::Tensor& weight, const ChannelGroup::Slice& slice) {
  std::vector<std::int64_t> axes;
  for (std::int64_t axis = 0; axis < weight.dim(); ++axis)
    if (axis != slice.dim) axes.push_back(axis);
  const auto nonzero = weight.detach().ne(0).to(at::kLong);
  const auto counts = (axes.empty() ? nonzero : nonzero.sum(axes)).contiguous();
  std::vector<bool> zero;
  for (std::size_t unit = 0; unit < slice.indices.size() / static_cast<std::size_t>(slice.entries); ++unit)
    zero.push_back(
        std::ranges::all_of(slice.of(unit), [&](auto i) { return counts.const_data_ptr<std::int64_t>()[i] == 0; }));
  return zero;
}

// For each unit, whether it holds for all slices that `counts`; false where none does.
template <class Counts>
std::vector<bool> zero_in_all(const Model& model, const ChannelGroup& group, Counts counts) {
  std::vector<bool> zero(group.size(), true);
  bool any = false;
  for (const auto& slice : group.slices) {
    if (!slice.is_parameter || !counts(slice)) continue;
    any = true;
    const auto here = zero_units(model.weight(slice.path), slice);
    for (std::size_t u = 0; u < zero.size(); ++u) zero[u] = zero[u] && here[u];
  }
  return any ? zero : std::vector<bool>(group.size(), false);
}

Batch random_inputs(const Model& model, std::uint64_t seed) {
  auto generator = at::detail::createCPUGenerator(seed);
  auto inputs = made_up_inputs(model);
  for (auto& input : inputs)
    if (input.is_floating_point()) input = at::randn(input.sizes(), generator, input.scalar_type()).to(input.device());
  return inputs;
}

// Units that some layer reads as zeros only, and none as anything else.
std::set<std::int64_t> silent_units(const Model& model, const ChannelGroups& groups, const Batch& inputs) {
  std::set<std::int64_t> silent, loud;
  std::map<std::size_t, std::int64_t> axis_of;  // of the values that layers read
  for (const auto& reader : readers_of(model.graph()))
    axis_of[index(reader.region.inputs[0])] = reader.form.kernel.empty() ? -1 : 1;
  static_cast<void>(model.run(inputs, [&](ValueId value, const at::Tensor& tensor) {
    const auto found = axis_of.find(index(value));
    if (found == axis_of.end()) return;
    const auto axis = found->second < 0 ? tensor.dim() - 1 : found->second;
    const auto units = groups.units_along(value, axis);
    if (static_cast<std::int64_t>(units.size()) != tensor.size(axis)) return;
    const auto zero = tensor.movedim(axis, 0).flatten(1).eq(0).all(1).contiguous();
    for (std::size_t c = 0; c < units.size(); ++c) (zero.const_data_ptr<bool>()[c] ? silent : loud).insert(units[c]);
  }));
  for (const auto unit : loud) silent.erase(unit);
  return silent;
}

double difference(const Outputs& a, const Outputs& b) {
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!a[i].defined() || !a[i].is_floating_point() || a[i].numel() == 0) continue;
    const auto scale = std::max(a[i].abs().max().item<double>(), 1e-30);
    const auto change = (a[i] - b[i]).abs().max().item<double>() / scale;
    largest = std::max(largest, std::isfinite(change) ? change : 1.0);
  }
  return largest;
}

struct Dead {
  const ChannelGroup* group;
  std::vector<std::int64_t> units;
};

std::vector<Dead> dead_units(const Model& model, const ChannelGroups& groups, const Batch& inputs) {
  const auto silent = silent_units(model, groups, inputs);
  std::vector<Dead> all;
  for (const auto& group : groups.groups()) {
    if (group.is_frozen()) continue;
    const auto unread = zero_in_all(model, group, [](const auto& slice) { return slice.consumes; });
    const auto unmade = zero_in_all(
        model, group, [&](const auto& slice) { return slice.produces && model.weight(slice.path).dim() > 1; });
    Dead dead{&group, {}};
    for (std::size_t u = 0; u < group.size() && dead.units.size() + 1 < group.size(); ++u)
      if (unread[u] || (unmade[u] && silent.contains(group.units[u]))) dead.units.push_back(group.units[u]);
    if (!dead.units.empty()) all.push_back(std::move(dead));
  }
  return all;
}

}  // namespace

void DropDeadChannels::validate() const {
  if (!(tolerance > 0.0) || !std::isfinite(tolerance)) fail("pare.prune.102", "", "tolerance is {}", tolerance);
}

Preserved DropDeadChannels::run(Model& model, Context& context) {
  validate();
  const at::NoGradGuard no_grad;
  const bool training = model.is_training();
  model.eval();
  const auto original = model;
  const ChannelGroups groups(original);
  Batch inputs = random_inputs(original, context.seed());
  const bool given = context.has_calibration() && !context.calibration().empty();
  if (given) inputs = *context.calibration().begin();
  const auto expected = original.run(inputs);
  if (given) check_outputs("pare.prune.103", {expected});  // nothing can be compared with NaN

  std::vector<std::int64_t> leaving;
  for (const auto& dead : dead_units(original, groups, inputs)) {
    const auto figures = [&] {
      return Reporter::Figures{{"units", static_cast<double>(dead.group->size())},
                               {"kept", static_cast<double>(dead.group->size() - dead.units.size())}};
    };
    std::string why;
    try {
      auto trial = original;
      Rewriter rewriter(trial);
      apply_removal(rewriter, groups.removal(dead.units));
      if (const auto change = difference(expected, trial.run(inputs)); !(change <= tolerance))
        why = fmt::format("the outputs would change by {:.1e}", change);
    } catch (const Error& error) {
      why = error.what();
    }
    if (!why.empty()) {
      context.report().declined(dead.group->name, "channel group", why, figures());
      continue;
    }
    leaving.insert(leaving.end(), dead.units.begin(), dead.units.end());
    context.report().done(dead.group->name, "channel group",
                          fmt::format("{} of {} units were dead", dead.units.size(), dead.group->size()), figures());
  }
  if (!leaving.empty()) apply_removal(context.rewriter(), groups.removal(leaving));
  model.train(training);
  return leaving.empty() ? Preserved::all() : Preserved::none();
}

PARE_NAMESPACE_END
