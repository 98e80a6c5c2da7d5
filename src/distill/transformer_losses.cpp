#include <ATen/ATen.h>

#include "distill/features.hpp"
#include "pare/distill/mini_lm.hpp"
#include "pare/distill/tiny_bert.hpp"
#include "pare/numerics/relations.hpp"

PARE_NAMESPACE_BEGIN

namespace {

constexpr double kOut = -1e9;

std::string below(const std::string& layer, const std::string& path) { return layer + "." + path; }

// The mask `[N, S]` of 1 and 0 as booleans, or an undefined tensor.
at::Tensor mask_of(const AttentionPaths& paths, const DistillationBatch& batch) {
  if (!paths.mask) return {};
  if (*paths.mask >= batch.inputs.size())
    fail("pare.distill.104", "", "the mask is input {} of a model with {}", *paths.mask, batch.inputs.size());
  return batch.inputs[*paths.mask].ne(0);
}

// Mean over what is not padding; `values` `[N, ..., S, ...]` with the mask along `dims`, counted from the front.
at::Tensor masked_mean(const at::Tensor& values, const at::Tensor& mask) {
  return mask.defined() ? (values * mask).sum() / mask.expand_as(values).sum().clamp_min(1) : values.mean();
}

}  // namespace

void TinyBert::request(FeatureRequest& request) {
  const auto before = request.wanted.size();
  layers.request(request);
  if (attention_weight == 0) return;
  const std::vector<LayerPair> pairs(request.wanted.begin() + static_cast<std::ptrdiff_t>(before),
                                     request.wanted.end());
  for (const auto& [student, teacher] : pairs)
    for (const auto& path : {attention.query, attention.key})
      request.wanted.push_back(
          {student.empty() ? student : below(student, path), teacher.empty() ? teacher : below(teacher, path)});
}

void TinyBert::prepare(const DistillationBatch& example) {
  layers.choose(example);
  projectors.clear();
  for (const auto& [student, teacher] : layers.pairs())
    projectors.push_back(Projector::between(example.student.feature(student), example.teacher.feature(teacher),
                                            /*always=*/false, seed + projectors.size(), student));
}

at::Tensor TinyBert::operator()(const DistillationBatch& batch) const {
  if (layers.empty())
    fail("pare.distill.101", "", "TinyBert without layers: give .layers = {{\"student\", \"teacher\"}}");
  const auto mask = mask_of(attention, batch);
  const auto tokens = mask.defined() ? mask.unsqueeze(2) : mask;  // [N, S, 1]
  const auto both = mask.defined() ? mask.unsqueeze(1).unsqueeze(3) * mask.unsqueeze(1).unsqueeze(2) : mask;
  at::Tensor sum;
  for (std::size_t i = 0; i < layers.pairs().size(); ++i) {
    const auto& [student, teacher] = layers.pairs()[i];
    const auto hidden = projectors.at(i)(batch.student.feature(student));
    require_same_shape(hidden, batch.teacher.feature(teacher), student);
    auto term = hidden_weight * masked_mean((hidden - batch.teacher.feature(teacher)).square(), tokens);
    if (attention_weight != 0) {
      const auto scores = [&](const Observation& side, const std::string& layer) {
        return token_relation(side.feature(below(layer, attention.query)), side.feature(below(layer, attention.key)),
                              attention.heads);
      };
      const auto own = scores(batch.student, student), theirs = scores(batch.teacher, teacher);
      require_same_shape(own, theirs, student);
      term = term + attention_weight * masked_mean((own - theirs).square(), both);
    }
    sum = sum.defined() ? sum + term : term;
  }
  return sum / static_cast<double>(layers.pairs().size());
}

void MiniLm::request(FeatureRequest& request) {
  const auto before = request.wanted.size();
  layers.request(request);
  const std::vector<LayerPair> pairs(request.wanted.begin() + static_cast<std::ptrdiff_t>(before),
                                     request.wanted.end());
  for (const auto& [student, teacher] : pairs)
    for (const auto& path : {attention.query, attention.key, attention.value})
      request.wanted.push_back(
          {student.empty() ? student : below(student, path), teacher.empty() ? teacher : below(teacher, path)});
}

at::Tensor MiniLm::operator()(const DistillationBatch& batch) const {
  if (layers.empty())
    fail("pare.distill.101", "", "MiniLm without layers: give .layers = {{\"student\", \"teacher\"}}");
  const auto mask = mask_of(attention, batch);
  const auto relation = [&](const Observation& side, const std::string& path) {
    const auto& projection = side.feature(path);
    auto products = token_relation(projection, projection, attention.heads);  // [N, heads, S, S]
    if (mask.defined()) products = products.masked_fill(mask.logical_not().unsqueeze(1).unsqueeze(2), kOut);
    return at::log_softmax(products, 3);
  };
  at::Tensor sum;
  for (const auto& [student, teacher] : layers.pairs()) {
    for (const auto& path : {attention.query, attention.key, attention.value}) {
      const auto own = relation(batch.student, below(student, path));
      const auto theirs = relation(batch.teacher, below(teacher, path));
      require_same_shape(own, theirs, below(student, path));
      const auto divergence = (theirs.exp() * (theirs - own)).sum(3);  // [N, heads, S]
      const auto term = masked_mean(divergence, mask.defined() ? mask.unsqueeze(1) : mask);
      sum = sum.defined() ? sum + term : term;
    }
  }
  return sum / static_cast<double>(layers.pairs().size());
}

PARE_NAMESPACE_END
