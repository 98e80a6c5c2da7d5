#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <optional>

#include "distill/features.hpp"
#include "pare/distill/attention_transfer.hpp"
#include "pare/distill/contrastive_distillation.hpp"
#include "pare/distill/decoupled_knowledge_distillation.hpp"
#include "pare/distill/hard_targets.hpp"
#include "pare/distill/hints.hpp"
#include "pare/distill/knowledge_distillation.hpp"
#include "pare/distill/relational_distillation.hpp"
#include "pare/numerics/divergence.hpp"
#include "pare/numerics/relations.hpp"

PARE_NAMESPACE_BEGIN

namespace {

// Student's and teacher's side of each pair, or their first outputs where there is no pair.
std::vector<std::pair<at::Tensor, at::Tensor>> sides(const LayerMap& layers, const DistillationBatch& batch) {
  if (layers.empty()) return {{batch.student.output(), batch.teacher.output()}};
  std::vector<std::pair<at::Tensor, at::Tensor>> all;
  for (const auto& pair : layers.pairs())
    all.emplace_back(batch.student.feature(pair.student), batch.teacher.feature(pair.teacher));
  return all;
}

const std::string& name_of(const LayerMap& layers, std::size_t position) {
  static const std::string output = "output 0";
  return layers.empty() ? output : layers.pairs()[position].student;
}

at::Tensor mean_of(const std::vector<at::Tensor>& terms) { return at::stack(terms).mean(); }

// One vector a sample: maps and tokens are averaged over their positions.
at::Tensor embedding_of(const at::Tensor& feature) {
  if (feature.dim() == 3) return feature.mean(1);
  return feature.dim() > 3 ? feature.flatten(2).mean(2) : feature;
}

template <class Value>
void want(bool good, const char* setting, Value value, std::string_view range) {
  if (!good) fail("pare.distill.112", setting, "{} is out of range: {}", value, range);
}

// Labels as int64 classes of `[N, classes, ...]` logits; `ignored` may stand for no class.
at::Tensor classes_of(const at::Tensor& targets, const at::Tensor& logits,
                      std::optional<std::int64_t> ignored = std::nullopt) {
  if (logits.dim() < 2)
    fail("pare.distill.104", "", "labels for an output of shape [{}]: classes along axis 1 are wanted",
         fmt::join(logits.sizes(), ", "));
  auto wanted = logits.sizes().vec();
  wanted.erase(wanted.begin() + 1);
  if (!at::isIntegralType(targets.scalar_type(), /*includeBool=*/false) || targets.sizes() != wanted)
    fail("pare.distill.111", "", "labels are {} of shape [{}]: integers of shape [{}] are wanted",
         c10::toString(targets.scalar_type()), fmt::join(targets.sizes(), ", "), fmt::join(wanted, ", "));
  const auto classes = targets.to(at::kLong);
  auto unknown = classes.lt(0).logical_or(classes.ge(logits.size(1)));
  if (ignored) unknown = unknown.logical_and(classes.ne(*ignored));
  if (const auto bad = classes.masked_select(unknown); bad.numel() > 0)
    fail("pare.distill.111", "", "a label is {}: the student has {} classes, counted from 0",
         bad[0].item<std::int64_t>(), logits.size(1));
  return classes;
}

at::Tensor huber(const at::Tensor& a, const at::Tensor& b) { return at::smooth_l1_loss(a, b); }

}  // namespace

at::Tensor KnowledgeDistillation::operator()(const DistillationBatch& batch) const {
  const auto &own = batch.student.output(output), &theirs = batch.teacher.output(output);
  require_same_shape(own, theirs, fmt::format("output {}", output));
  want(class_dim >= -own.dim() && class_dim < own.dim(), "KnowledgeDistillation.class_dim", class_dim,
       fmt::format("one of the output's {} axes", own.dim()));
  return softened_divergence(own, theirs, temperature, class_dim);
}

at::Tensor DecoupledKnowledgeDistillation::operator()(const DistillationBatch& batch) const {
  const auto &own = batch.student.output(output), &theirs = batch.teacher.output(output);
  require_same_shape(own, theirs, fmt::format("output {}", output));
  const auto targets = batch.targets.defined() ? classes_of(batch.targets, own) : theirs.argmax(-1);
  return decoupled_divergence(own, theirs, targets, target_weight, others_weight, temperature);
}

at::Tensor HardTargets::operator()(const DistillationBatch& batch) const {
  constexpr std::int64_t kNoClass = -100;
  want(smoothing >= 0 && smoothing <= 1, "HardTargets.smoothing", smoothing, "0 to 1");
  const auto& logits = batch.student.output(output);
  const auto& labels = batch.labels();
  const bool shares = labels.is_floating_point() && labels.sizes() == logits.sizes();
  const auto targets = shares ? labels : classes_of(labels, logits, kNoClass);
  return at::cross_entropy_loss(logits, targets, {}, at::Reduction::Mean, kNoClass, smoothing);
}

void Hints::prepare(const DistillationBatch& example) {
  layers.choose(example);
  projectors.clear();
  for (const auto& [student, teacher] : layers.pairs())
    projectors.push_back(Projector::between(example.student.feature(student), example.teacher.feature(teacher),
                                            always_project, seed + projectors.size(), student));
}

at::Tensor Hints::operator()(const DistillationBatch& batch) const {
  if (layers.empty()) fail("pare.distill.101", "", "Hints without layers: give .layers = {{\"student\", \"teacher\"}}");
  std::vector<at::Tensor> terms;
  for (const auto& [student, teacher] : sides(layers, batch)) {
    const auto& projector = projectors.at(terms.size());
    const auto& path = name_of(layers, terms.size());
    const auto [own, theirs] = same_map(projector(student), teacher);
    require_same_shape(own, theirs, path);
    const auto error = (own - theirs).square().mean();
    terms.push_back(normalize ? error / theirs.var(/*unbiased=*/false).clamp_min(1e-6) : error);
  }
  return mean_of(terms);
}

at::Tensor AttentionTransfer::operator()(const DistillationBatch& batch) const {
  if (layers.empty())
    fail("pare.distill.101", "", "AttentionTransfer without layers: give .layers = {{\"student\", \"teacher\"}}");
  std::vector<at::Tensor> terms;
  for (const auto& [student, teacher] : sides(layers, batch)) {
    const auto& path = name_of(layers, terms.size());
    if (student.dim() < 3 || student.dim() != teacher.dim())
      fail("pare.distill.104", path, "attention maps of features with {} and {} axes: both need positions",
           student.dim(), teacher.dim());
    // Of tokens [N, S, C] the channels come last.
    const auto maps = [](const at::Tensor& f) { return f.dim() == 3 ? f.transpose(1, 2) : f; };
    const auto [own, theirs] = same_map(maps(student), maps(teacher));
    const auto a = attention_map(own), b = attention_map(theirs);
    require_same_shape(a, b, path);
    terms.push_back((a - b).square().sum(1).mean());
  }
  return mean_of(terms);
}

at::Tensor RelationalDistillation::operator()(const DistillationBatch& batch) const {
  want(distance != 0 || angle != 0, "RelationalDistillation.angle", angle, "not 0 where .distance is 0 too");
  std::vector<at::Tensor> terms;
  for (const auto& [student, teacher] : sides(layers, batch)) {
    const auto own = embedding_of(student), theirs = embedding_of(teacher);
    auto term = at::zeros({}, own.options());
    if (distance != 0) term = term + distance * huber(distance_relation(own), distance_relation(theirs));
    if (angle != 0) term = term + angle * huber(angle_relation(own), angle_relation(theirs));
    terms.push_back(term);
  }
  return mean_of(terms);
}

void ContrastiveDistillation::prepare(const DistillationBatch& example) {
  want(width >= 1, "ContrastiveDistillation.width", width, "at least 1");
  layers.choose(example);
  projectors.clear();
  for (const auto& [student, teacher] : sides(layers, example))
    for (const auto& side : {student, teacher}) {
      const auto embedding = embedding_of(side);
      const auto target = at::empty({embedding.size(0), width}, embedding.options());
      projectors.push_back(
          Projector::between(embedding, target, /*always=*/true, seed + projectors.size(), "embedding"));
    }
}

at::Tensor ContrastiveDistillation::operator()(const DistillationBatch& batch) const {
  std::vector<at::Tensor> terms;
  const auto labels = use_labels ? batch.targets : at::Tensor();
  for (const auto& [student, teacher] : sides(layers, batch)) {
    const auto& own = projectors.at(2 * terms.size());
    const auto& theirs = projectors.at(2 * terms.size() + 1);
    terms.push_back(contrastive_divergence(own(embedding_of(student)), theirs(embedding_of(teacher)), temperature,
                                           labels.defined() && labels.dim() == 1 ? labels : at::Tensor()));
  }
  return mean_of(terms);
}

PARE_NAMESPACE_END
