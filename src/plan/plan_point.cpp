#include "pare/plan/plan_point.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

PARE_NAMESPACE_BEGIN

namespace {

constexpr double kRounding = 1e-12;  // of sums in another order

/// What a plan takes of one limit.
struct Taken {
  double share;  // of what is allowed
  std::string text;
};

std::vector<Taken> taken(const PlanPoint& point, const PlanLimits& limits) {
  std::vector<Taken> all;
  if (limits.average_bits)
    all.push_back(
        {point.plan.average_bits() / *limits.average_bits,
         fmt::format("{:.3f} bits a weight, {:.3f} allowed", point.plan.average_bits(), *limits.average_bits)});
  if (limits.bytes)
    all.push_back({static_cast<double>(point.bytes) / static_cast<double>(*limits.bytes),
                   fmt::format("{} bytes, {} allowed", point.bytes, *limits.bytes)});
  if (limits.latency_ms)
    all.push_back({point.latency_ms / *limits.latency_ms,
                   fmt::format("{:.4g} ms, {:.4g} allowed", point.latency_ms, *limits.latency_ms)});
  if (limits.macs)
    all.push_back({point.macs / *limits.macs,
                   fmt::format("{:.0f} multiply-accumulates, {:.0f} allowed", point.macs, *limits.macs)});
  return all;
}

}  // namespace

double PlanPoint::excess(const PlanLimits& limits) const {
  double most = 0;
  for (const auto& one : taken(*this, limits))
    most = std::max(most, one.share <= 1 + kRounding ? std::min(one.share, 1.0) : one.share);
  return most;
}

std::string PlanPoint::shortfall(const PlanLimits& limits) const {
  std::string text;
  for (const auto& one : taken(*this, limits))
    if (one.share > 1 + kRounding) text += (text.empty() ? "" : "; ") + one.text;
  return text;
}

PARE_NAMESPACE_END
