#include "pare/numerics/sparsity_pattern.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

// The `count` largest of the last axis.
at::Tensor largest(const at::Tensor& values, std::int64_t count) {
  const auto kept = std::get<1>(values.topk(count, -1, /*largest=*/true, /*sorted=*/false));
  return at::zeros_like(values, at::kBool).scatter_(-1, kept, true);
}

struct Chooser {
  const at::Tensor& saliency;  // [rows, taps * channels]
  std::int64_t keep;

  at::Tensor operator()(const Unstructured&) const {
    return largest(saliency.flatten(), std::clamp<std::int64_t>(keep, 1, saliency.numel())).view_as(saliency);
  }
  at::Tensor operator()(const NofM& pattern) const {
    return largest(saliency.reshape({-1, pattern.of}), pattern.kept).view_as(saliency);
  }
  at::Tensor operator()(const Blocks& block) const {
    const auto rows = saliency.size(0) / block.rows, columns = saliency.size(1) / block.columns;
    const auto sums = saliency.reshape({rows, block.rows, columns, block.columns}).sum({1, 3});
    const auto size = static_cast<std::int64_t>(block.rows) * block.columns;
    const auto count = std::clamp<std::int64_t>((keep + size / 2) / size, 1, sums.numel());
    const auto mask = largest(sums.flatten(), count).view({rows, 1, columns, 1});
    return mask.expand({rows, block.rows, columns, block.columns}).reshape_as(saliency);
  }
};

}  // namespace

std::string name_of(const SparsityPattern& pattern) {
  if (const auto* n = std::get_if<NofM>(&pattern)) return fmt::format("{}:{}", n->kept, n->of);
  if (const auto* block = std::get_if<Blocks>(&pattern))
    return fmt::format("blocks of {}x{}", block->rows, block->columns);
  return "unstructured";
}

std::string misfit(const SparsityPattern& pattern, std::int64_t rows, std::int64_t channels) {
  if (const auto* n = std::get_if<NofM>(&pattern)) {
    if (n->of < 1 || n->kept < 0 || n->kept > n->of) return fmt::format("{}:{} is no pattern", n->kept, n->of);
    if (channels % n->of != 0) return fmt::format("{} input channels are no multiple of {}", channels, n->of);
  } else if (const auto* block = std::get_if<Blocks>(&pattern)) {
    if (block->rows < 1 || block->columns < 1)
      return fmt::format("blocks of {}x{} are no pattern", block->rows, block->columns);
    if (rows % block->rows != 0) return fmt::format("{} output channels are no multiple of {}", rows, block->rows);
    if (channels % block->columns != 0)
      return fmt::format("{} input channels are no multiple of {}", channels, block->columns);
  }
  return {};
}

at::Tensor choose_mask(const at::Tensor& saliency, std::int64_t keep, const SparsityPattern& pattern,
                       std::int64_t taps) {
  if (saliency.dim() != 2 || taps < 1 || saliency.size(1) % taps != 0 || saliency.numel() == 0)
    fail("pare.numerics.122", "", "a saliency of {} axes does not fit {} taps", saliency.dim(), taps);
  if (const auto why = misfit(pattern, saliency.size(0), saliency.size(1) / taps); !why.empty())
    fail("pare.numerics.122", "", "{}: {}", name_of(pattern), why);
  if (saliency.isnan().any().item<bool>()) fail("pare.numerics.122", "", "the saliency of a weight is NaN");
  const auto rows = saliency.size(0), channels = saliency.size(1) / taps;
  const auto by_tap = saliency.view({rows, channels, taps}).transpose(1, 2).reshape({rows, -1}).contiguous();
  const auto mask = std::visit(Chooser{by_tap, keep}, pattern);
  return mask.view({rows, taps, channels}).transpose(1, 2).reshape({rows, -1}).contiguous();
}

PARE_NAMESPACE_END
