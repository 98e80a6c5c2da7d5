#include "pare/numerics/divergence.hpp"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include "pare/core/error.hpp"
#include "unit_length.hpp"

PARE_NAMESPACE_BEGIN

namespace {

void check(const at::Tensor& a, const at::Tensor& b, double temperature) {
  if (a.sizes() != b.sizes())
    fail("pare.numerics.105", "", "a divergence of [{}] from [{}]", fmt::join(a.sizes(), ", "),
         fmt::join(b.sizes(), ", "));
  if (!(temperature > 0)) fail("pare.numerics.126", "", "temperature {}: it must be positive", temperature);
}

// KL(p || q) from logarithms of probabilities, over `dim`.
at::Tensor divergence(const at::Tensor& log_p, const at::Tensor& log_q, std::int64_t dim) {
  return (log_p.exp() * (log_p - log_q)).sum(dim);
}

}  // namespace

at::Tensor softened_divergence(const at::Tensor& student, const at::Tensor& teacher, double temperature,
                               std::int64_t class_dim) {
  check(student, teacher, temperature);
  const auto own = at::log_softmax(student / temperature, class_dim);
  const auto theirs = at::log_softmax(teacher / temperature, class_dim);
  return temperature * temperature * divergence(theirs, own, class_dim).mean();
}

at::Tensor decoupled_divergence(const at::Tensor& student, const at::Tensor& teacher, const at::Tensor& targets,
                                double target_weight, double others_weight, double temperature) {
  check(student, teacher, temperature);
  if (student.dim() != 2 || targets.dim() != 1 || targets.size(0) != student.size(0))
    fail("pare.numerics.105", "", "[{}] logits and [{}] targets: [N, classes] and [N] are wanted",
         fmt::join(student.sizes(), ", "), fmt::join(targets.sizes(), ", "));
  const auto index = targets.unsqueeze(1);
  const auto is_target = at::zeros_like(student, student.options().dtype(at::kBool)).scatter_(1, index, true);
  const auto parts = [&](const at::Tensor& logits) {
    const auto log_p = at::log_softmax(logits / temperature, 1);
    const auto log_target = log_p.gather(1, index);
    const auto others = log_p.masked_fill(is_target, -1e30);
    const auto log_others = at::logsumexp(others, {1}, /*keepdim=*/true);
    return std::pair{at::cat({log_target, log_others}, 1), (others - log_others).masked_fill(is_target, -1e4)};
  };
  const auto [own_target, own_others] = parts(student);
  const auto [their_target, their_others] = parts(teacher);
  const auto loss =
      target_weight * divergence(their_target, own_target, 1) + others_weight * divergence(their_others, own_others, 1);
  return temperature * temperature * loss.mean();
}

at::Tensor contrastive_divergence(const at::Tensor& a, const at::Tensor& b, double temperature,
                                  const at::Tensor& labels) {
  check(a, b, temperature);
  auto similarity = at::matmul(unit_length(a, 1), unit_length(b, 1).t()) / temperature;
  const auto rows = at::arange(a.size(0), at::TensorOptions().dtype(at::kLong).device(a.device()));
  if (labels.defined()) {
    const auto same = labels.unsqueeze(0).eq(labels.unsqueeze(1));
    const auto itself = rows.unsqueeze(0).eq(rows.unsqueeze(1));
    similarity = similarity.masked_fill(same.logical_and(itself.logical_not()), -1e30);
  }
  return 0.5 * (at::cross_entropy_loss(similarity, rows) + at::cross_entropy_loss(similarity.t(), rows));
}

PARE_NAMESPACE_END
