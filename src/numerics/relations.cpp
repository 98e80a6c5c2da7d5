#include "pare/numerics/relations.hpp"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <cmath>

#include "pare/core/error.hpp"
#include "unit_length.hpp"

PARE_NAMESPACE_BEGIN

at::Tensor attention_map(const at::Tensor& features) { return unit_length(features.square().mean(1).flatten(1), 1); }

at::Tensor distance_relation(const at::Tensor& embeddings) {
  constexpr std::int64_t kExactly = 2;  // by differences: products would leave a distance from a sample to itself
  const auto distances = at::cdist(embeddings, embeddings, 2.0, kExactly);
  return distances / (distances.sum() / distances.gt(0).sum().clamp_min(1)).clamp_min(1e-12);
}

at::Tensor angle_relation(const at::Tensor& embeddings) {
  const auto directions = unit_length(embeddings.unsqueeze(0) - embeddings.unsqueeze(1), 2);  // [j, i, D]: from j to i
  return at::bmm(directions, directions.transpose(1, 2));
}

at::Tensor token_relation(const at::Tensor& a, const at::Tensor& b, std::int64_t heads) {
  if (a.dim() != 3 || a.sizes() != b.sizes() || heads < 1 || a.size(2) % heads != 0)
    fail("pare.numerics.105", "", "relations of [{}] and [{}] in {} heads", fmt::join(a.sizes(), ", "),
         fmt::join(b.sizes(), ", "), heads);
  const auto split = [&](const at::Tensor& tokens) {
    return tokens.reshape({tokens.size(0), tokens.size(1), heads, tokens.size(2) / heads}).transpose(1, 2);
  };
  return at::matmul(split(a), split(b).transpose(2, 3)) / std::sqrt(static_cast<double>(a.size(2) / heads));
}

double linear_alignment(const at::Tensor& a, const at::Tensor& b) {
  if (a.dim() != 2 || b.dim() != 2 || a.size(0) != b.size(0))
    fail("pare.numerics.105", "", "alignment of [{}] and [{}]: rows are samples", fmt::join(a.sizes(), ", "),
         fmt::join(b.sizes(), ", "));
  const auto centred = [](const at::Tensor& x) { return (x - x.mean(0, /*keepdim=*/true)).to(at::kDouble); };
  // By the kernels where there are fewer samples than features.
  const auto x = centred(a), y = centred(b);
  const auto product = [&](const at::Tensor& p, const at::Tensor& q) {
    if (p.size(0) < std::min(p.size(1), q.size(1)))
      return (at::matmul(p, p.t()) * at::matmul(q, q.t())).sum().item<double>();
    return at::matmul(p.t(), q).square().sum().item<double>();
  };
  const double scale = std::sqrt(product(x, x) * product(y, y));
  return scale > 0 ? product(x, y) / scale : 0.0;
}

PARE_NAMESPACE_END
