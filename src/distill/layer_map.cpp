#include "pare/distill/layer_map.hpp"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "distill/features.hpp"
#include "pare/distill/projector.hpp"
#include "pare/numerics/relations.hpp"

PARE_NAMESPACE_BEGIN

namespace {

// Where the student's layer i of n looks in the teacher's m.
std::size_t uniform_position(std::size_t i, std::size_t n, std::size_t m) { return (i + 1) * m / n - 1; }

at::Tensor samples_of(const at::Tensor& feature) {
  return feature.dim() > 3 ? feature.transpose(1, feature.dim() - 1).flatten(0, -2) : feature.flatten(0, -2);
}

double alignment(const at::Tensor& student, const at::Tensor& teacher) {
  const auto [own, theirs] = same_map(student, teacher);
  const auto a = samples_of(own), b = samples_of(theirs);
  return a.size(0) == b.size(0) ? linear_alignment(a, b) : 0.0;
}

// The increasing choice of teacher layers with the largest sum of scores[i][choice[i]]; the last learns from the last.
std::vector<std::size_t> best_increasing(const std::vector<std::vector<double>>& scores) {
  const auto n = scores.size(), m = scores.front().size();
  constexpr auto kNever = -std::numeric_limits<double>::infinity();
  std::vector<std::vector<double>> best(n, std::vector<double>(m, kNever));
  std::vector<std::vector<std::size_t>> from(n, std::vector<std::size_t>(m, 0));
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = i; j < m; ++j) {
      double before = i == 0 ? 0.0 : kNever;
      for (std::size_t k = 0; i > 0 && k < j; ++k)
        if (best[i - 1][k] > before) {
          before = best[i - 1][k];
          from[i][j] = k;
        }
      best[i][j] = before + scores[i][j];
    }
  std::vector<std::size_t> choice(n);
  choice[n - 1] = m - 1;
  for (auto i = n - 1; i > 0; --i) choice[i - 1] = from[i][choice[i]];
  return choice;
}

}  // namespace

void require_same_shape(const at::Tensor& student, const at::Tensor& teacher, std::string_view where) {
  if (student.sizes() != teacher.sizes())
    fail("pare.distill.104", where, "the student's shape is [{}], the teacher's [{}]: this loss wants one shape",
         fmt::join(student.sizes(), ", "), fmt::join(teacher.sizes(), ", "));
}

std::pair<at::Tensor, at::Tensor> same_map(const at::Tensor& a, const at::Tensor& b) {
  if (a.dim() != 4 || b.dim() != 4) return {a, b};
  const std::vector<std::int64_t> size{std::min(a.size(2), b.size(2)), std::min(a.size(3), b.size(3))};
  const auto fit = [&](const at::Tensor& map) {
    return map.size(2) == size[0] && map.size(3) == size[1] ? map : at::adaptive_avg_pool2d(map, size);
  };
  return {fit(a), fit(b)};
}

std::vector<std::string> layers_of_stack(const std::vector<std::string>& paths, std::string_view stack) {
  std::vector<std::int64_t> numbers;
  const auto prefix = stack.empty() ? std::string() : std::string(stack) + ".";
  for (const auto& path : paths) {
    if (!path.starts_with(prefix)) continue;
    const auto* begin = path.data() + prefix.size();
    const auto* end = path.data() + path.size();
    std::int64_t number = 0;
    const auto parsed = std::from_chars(begin, end, number);
    if (parsed.ec == std::errc() && (parsed.ptr == end || *parsed.ptr == '.')) numbers.push_back(number);
  }
  std::ranges::sort(numbers);
  numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
  std::vector<std::string> layers;
  for (const auto number : numbers) layers.push_back(fmt::format("{}{}", prefix, number));
  return layers;
}

LayerMap::LayerMap(std::string student, std::string teacher) {
  pairs_.push_back({std::move(student), std::move(teacher)});
}

LayerMap::LayerMap(Rule rule, std::string student_stack, std::string teacher_stack)
    : rule_(rule), student_stack_(std::move(student_stack)), teacher_stack_(std::move(teacher_stack)) {}

LayerMap LayerMap::uniform(std::string student_stack, std::string teacher_stack) {
  return {Rule::Uniform, std::move(student_stack), std::move(teacher_stack)};
}
LayerMap LayerMap::last(std::string student_stack, std::string teacher_stack) {
  return {Rule::Last, std::move(student_stack), std::move(teacher_stack)};
}
LayerMap LayerMap::search(std::string student_stack, std::string teacher_stack) {
  return {Rule::Search, std::move(student_stack), std::move(teacher_stack)};
}

void LayerMap::request(FeatureRequest& request) {
  if (rule_ != Rule::Given) {
    student_layers_ = layers_of_stack(request.student_paths, student_stack_);
    teacher_layers_ = layers_of_stack(request.teacher_paths, teacher_stack_);
    const auto n = student_layers_.size(), m = teacher_layers_.size();
    if (n == 0) fail("pare.distill.103", student_stack_, "the student has no numbered layers here");
    if (m < n)
      fail("pare.distill.103", teacher_stack_, "the teacher has {} numbered layers here, the student has {}", m, n);
    if (rule_ == Rule::Search) {
      for (const auto& layer : student_layers_) request.wanted.push_back({layer, ""});
      for (const auto& layer : teacher_layers_) request.wanted.push_back({"", layer});
      return;
    }
    pairs_.clear();
    for (std::size_t i = 0; i < n; ++i)
      pairs_.push_back(
          {student_layers_[i], teacher_layers_[rule_ == Rule::Uniform ? uniform_position(i, n, m) : m - n + i]});
  }
  for (const auto& pair : pairs_) request.wanted.push_back(pair);
}

void LayerMap::choose(const DistillationBatch& example) {
  if (rule_ != Rule::Search) return;
  std::vector<std::vector<double>> scores;
  for (const auto& student : student_layers_) {
    auto& row = scores.emplace_back();
    for (const auto& teacher : teacher_layers_)
      row.push_back(alignment(example.student.feature(student), example.teacher.feature(teacher)));
  }
  const auto choice = best_increasing(scores);
  pairs_.clear();
  for (std::size_t i = 0; i < choice.size(); ++i) pairs_.push_back({student_layers_[i], teacher_layers_[choice[i]]});
}

Projector Projector::between(const at::Tensor& from, const at::Tensor& to, bool always, std::uint64_t seed,
                             std::string_view path) {
  if (from.dim() != to.dim() || from.dim() < 2 || from.size(0) != to.size(0) ||
      (from.dim() == 3 && from.size(1) != to.size(1)))
    fail("pare.distill.104", path, "no projector makes [{}] of [{}]", fmt::join(to.sizes(), ", "),
         fmt::join(from.sizes(), ", "));
  const std::int64_t axis = from.dim() == 3 ? 2 : 1;
  Projector projector;
  if (!always && from.size(axis) == to.size(axis)) return projector;
  auto generator = at::detail::createCPUGenerator(seed);
  projector.weight = at::empty({to.size(axis), from.size(axis)}, at::kFloat)
                         .normal_(0.0, 1.0 / std::sqrt(static_cast<double>(from.size(axis))), generator)
                         .to(from.device())
                         .requires_grad_(true);
  return projector;
}

at::Tensor Projector::operator()(const at::Tensor& features) const {
  if (!weight.defined()) return features;
  if (features.dim() <= 3) return at::linear(features, weight);
  const auto mapped = at::matmul(weight, features.flatten(2));
  auto sizes = features.sizes().vec();
  sizes[1] = weight.size(0);
  return mapped.view(sizes);
}

std::vector<at::Tensor> parameters_of(const std::vector<Projector>& projectors) {
  std::vector<at::Tensor> all;
  for (const auto& projector : projectors)
    if (projector.weight.defined()) all.push_back(projector.weight);
  return all;
}

PARE_NAMESPACE_END
