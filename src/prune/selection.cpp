#include "selection.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <queue>
#include <span>

#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

using Quantity = SizeModel::Quantity;

struct Target {
  bool by_units = false;  // a share of the units rather than of a size
  Quantity quantity = Quantity::Macs;
  double share = 0.5;
};

Target target_of(const PruningSettings& settings) {
  if (settings.ratio) return {true, Quantity::Macs, settings.ratio->fraction};
  if (settings.macs) return {false, Quantity::Macs, settings.macs->fraction};
  if (settings.parameters) return {false, Quantity::Parameters, settings.parameters->fraction};
  if (settings.bytes) return {false, Quantity::Bytes, settings.bytes->fraction};
  return {};
}

std::string_view name_of(Quantity quantity) {
  switch (quantity) {
    case Quantity::Macs:
      return "multiply-accumulates";
    case Quantity::Parameters:
      return "entries of parameters";
    case Quantity::Bytes:
      return "bytes of weights";
  }
  return "";
}

// Less than a step is rounding.
bool is_shortfall(double units, std::int64_t step) { return units > static_cast<double>(step) - 1e-6; }

[[noreturn]] void fall_short(std::string_view group, double reached, double wanted) {
  fail("pare.prune.105", group,
       "only {:.1f} % could be removed of {:.1f} % asked for: relax max_ratio, min_channels, keep or commit_to",
       100 * reached, 100 * wanted);
}

class Selection {
 public:
  Selection(const std::vector<RankedGroup>& candidates, SizeModel& sizes, const PruningSettings& settings)
      : candidates_(candidates), sizes_(sizes), settings_(settings), taken_(candidates.size(), 0) {}

  [[nodiscard]] const std::vector<std::size_t>& taken() const noexcept { return taken_; }

  // The units that go next from a group: as many as make what is left round, or none.
  [[nodiscard]] std::vector<std::int64_t> next(std::size_t c) {
    const auto& candidate = candidates_[c];
    const auto size = candidate.order.size();
    const auto step = static_cast<std::size_t>(candidate.step);
    const auto count = (size - taken_[c]) % step == 0 ? step : (size - taken_[c]) % step;
    const auto limit =
        std::min(static_cast<std::size_t>(settings_.max_ratio.fraction * static_cast<double>(size) + 1e-9), size - 1);
    if (taken_[c] + count > limit) return {};
    std::vector<std::int64_t> units(candidate.order.begin() + static_cast<std::ptrdiff_t>(taken_[c]),
                                    candidate.order.begin() + static_cast<std::ptrdiff_t>(taken_[c] + count));
    for (std::size_t i = 0; i < units.size(); ++i) {  // one after the other: they may share an axis
      if (sizes_.least_left(units[i]) < settings_.min_channels) {
        sizes_.restore(std::span(units).first(i));
        return {};
      }
      sizes_.remove({&units[i], 1});
    }
    sizes_.restore(units);
    return units;
  }
  void take(std::size_t c, const std::vector<std::int64_t>& units) {
    sizes_.remove(units);
    taken_[c] += units.size();
  }
  // The units that a group lost last, which it may have back: what is left stays round.
  [[nodiscard]] std::vector<std::int64_t> last(std::size_t c) const {
    const auto count = std::min(static_cast<std::size_t>(candidates_[c].step), taken_[c]);
    const auto end = candidates_[c].order.begin() + static_cast<std::ptrdiff_t>(taken_[c]);
    return {end - static_cast<std::ptrdiff_t>(count), end};
  }
  void give_back(std::size_t c, const std::vector<std::int64_t>& units) {
    sizes_.restore(units);
    taken_[c] -= units.size();
  }
  // Sum of the scores of the next units.
  [[nodiscard]] double score(std::size_t c, std::size_t count) const {
    double sum = 0;
    for (std::size_t i = taken_[c]; i < taken_[c] + count; ++i) sum += candidates_[c].scores[i];
    return sum;
  }

 private:
  const std::vector<RankedGroup>& candidates_;
  SizeModel& sizes_;
  const PruningSettings& settings_;
  std::vector<std::size_t> taken_;
};

// A share of a group's units, as near as rounding allows.
void take_share(Selection& selection, std::size_t c, const RankedGroup& candidate, double share) {
  const auto wanted = std::lround(share * static_cast<double>(candidate.order.size()));
  for (;;) {
    const auto units = selection.next(c);
    const auto after = static_cast<std::int64_t>(selection.taken()[c] + units.size());
    if (units.empty() || after - wanted > static_cast<std::int64_t>(units.size()) / 2) break;
    selection.take(c, units);
  }
}

void require_share(std::size_t taken, const RankedGroup& candidate, double share) {
  const auto size = static_cast<double>(candidate.order.size()), gone = static_cast<double>(taken);
  if (is_shortfall(share * size - gone, candidate.step)) fall_short(candidate.group->name, gone / size, share);
}

// The same share from every group: the smallest share that meets the target.
std::vector<std::size_t> uniform(const std::vector<RankedGroup>& candidates, const SizeModel& sizes,
                                 const PruningSettings& settings, const Target& target, double& reached) {
  const auto whole = sizes.total(target.quantity);
  const auto attempt = [&](double share, double& removed) {
    auto copy = sizes;
    Selection selection(candidates, copy, settings);
    for (std::size_t c = 0; c < candidates.size(); ++c) take_share(selection, c, candidates[c], share);
    removed = 1.0 - copy.total(target.quantity) / whole;
    return selection.taken();
  };
  if (target.by_units) {
    reached = target.share;
    double removed = 0;
    auto taken = attempt(target.share, removed);
    for (std::size_t c = 0; c < candidates.size(); ++c) require_share(taken[c], candidates[c], target.share);
    return taken;
  }
  double low = 0, high = 1;
  auto best = attempt(high, reached);
  for (int i = 0; i < 24 && reached >= target.share; ++i) {
    const auto middle = (low + high) / 2;
    double removed = 0;
    auto taken = attempt(middle, removed);
    if (removed >= target.share) {
      high = middle;
      best = std::move(taken);
      reached = removed;
    } else {
      low = middle;
    }
  }
  return best;
}

// Each group its own share; groups that are not named stay.
std::vector<std::size_t> named(const std::vector<RankedGroup>& candidates, SizeModel sizes,
                               const PruningSettings& settings) {
  Selection selection(candidates, sizes, settings);
  for (std::size_t c = 0; c < candidates.size(); ++c) {
    const auto found = std::ranges::find(settings.group_ratios, candidates[c].group->name,
                                         [](const auto& entry) { return entry.first; });
    if (found == settings.group_ratios.end()) continue;
    take_share(selection, c, candidates[c], found->second.fraction);
    require_share(selection.taken()[c], candidates[c], found->second.fraction);
  }
  return selection.taken();
}

// Groups that are made up alike.
std::string make_up(const ChannelGroup& group) {
  std::string key;
  for (const auto& slice : group.slices)
    key += fmt::format("{}{}{}{};", slice.dim, slice.produces ? 'o' : '-', slice.consumes ? 'i' : '-',
                       slice.scales ? 's' : '-');
  return key;
}

// The unit that met the target may have freed more than was left to free (a residual channel belongs to many layers):
// what it made needless comes back, the most important first.
void give_back_needless(Selection& selection, SizeModel& sizes, std::size_t groups, Quantity quantity, double most) {
  for (;;) {
    std::size_t best = groups;
    double regained = 0;
    for (std::size_t c = 0; c < groups; ++c) {
      const auto units = selection.last(c);
      if (units.empty()) continue;
      selection.give_back(c, units);
      const bool fits = sizes.total(quantity) <= most;
      const auto score = selection.score(c, units.size());
      selection.take(c, units);
      if (!fits || (best != groups && score <= regained)) continue;
      best = c;
      regained = score;
    }
    if (best == groups) return;
    selection.give_back(best, selection.last(best));
  }
}

// The least important first, over all groups.
std::vector<std::size_t> ranked(const std::vector<RankedGroup>& candidates, SizeModel sizes,
                                const PruningSettings& settings, const Target& target, double& reached) {
  const auto whole = sizes.total(target.quantity);
  Selection selection(candidates, sizes, settings);
  std::map<std::string, std::pair<double, double>> families;  // units gone, units there
  std::vector<std::pair<double, double>*> family_of;
  double all = 0, gone = 0;
  for (const auto& candidate : candidates) {
    auto& family = families[settings.scope == Scope::Isomorphic ? make_up(*candidate.group) : std::string()];
    family.second += static_cast<double>(candidate.order.size());
    family_of.push_back(&family);
    all += static_cast<double>(candidate.order.size());
  }
  const bool budgeted = settings.scope == Scope::Budgeted;
  struct Entry {
    double key;
    std::size_t candidate;
    std::size_t taken;
    bool operator<(const Entry& other) const { return key > other.key; }
  };
  const auto key_of = [&](std::size_t c, const std::vector<std::int64_t>& units) {
    const auto score = selection.score(c, units.size());
    auto key = score / static_cast<double>(units.size());
    if (budgeted) key = score / std::max(sizes.gain(units, target.quantity), 1e-12);
    if (settings.scope == Scope::Isomorphic) key = family_of[c]->first / family_of[c]->second + 1e-9 * std::tanh(key);
    return key;
  };
  std::priority_queue<Entry> queue;
  const auto push = [&](std::size_t c) {
    if (const auto units = selection.next(c); !units.empty()) queue.push({key_of(c, units), c, selection.taken()[c]});
  };
  for (std::size_t c = 0; c < candidates.size(); ++c) push(c);
  const auto done = [&] {
    reached = target.by_units ? gone / all : 1.0 - sizes.total(target.quantity) / whole;
    return reached >= target.share - 1e-9;
  };
  while (!queue.empty() && !done()) {
    const auto entry = queue.top();
    queue.pop();
    const auto units = selection.next(entry.candidate);
    if (units.empty()) continue;
    const auto key = key_of(entry.candidate, units);  // what it frees shrinks as others go
    if (!queue.empty() && key > queue.top().key * (1 + 1e-9) && key > entry.key * (1 + 1e-9)) {
      queue.push({key, entry.candidate, entry.taken});
      continue;
    }
    selection.take(entry.candidate, units);
    gone += static_cast<double>(units.size());
    family_of[entry.candidate]->first += static_cast<double>(units.size());
    push(entry.candidate);
  }
  const bool comparable = settings.scope != Scope::Isomorphic && !target.by_units;
  if (done() && comparable)
    give_back_needless(selection, sizes, candidates.size(), target.quantity, whole * (1 - target.share + 1e-9));
  done();
  return selection.taken();
}

}  // namespace

std::vector<std::size_t> select(const std::vector<RankedGroup>& candidates, SizeModel sizes,
                                const PruningSettings& settings) {
  if (!settings.group_ratios.empty()) return named(candidates, std::move(sizes), settings);
  const auto target = target_of(settings);
  if (!target.by_units && sizes.total(target.quantity) <= 0)
    fail("pare.prune.105", "", "the model has no {}, so no share of them can go: give another target",
         name_of(target.quantity));
  double reached = 0;
  auto taken = settings.scope == Scope::PerGroup ? uniform(candidates, sizes, settings, target, reached)
                                                 : ranked(candidates, sizes, settings, target, reached);
  const auto missing = target.share - reached;
  double units = 0;
  std::int64_t step = 1;
  for (const auto& candidate : candidates) {
    units += static_cast<double>(candidate.order.size());
    step = std::max(step, candidate.step);
  }
  if (target.by_units ? is_shortfall(missing * units, step) : missing > 1e-9) fall_short("", reached, target.share);
  return taken;
}

PARE_NAMESPACE_END
