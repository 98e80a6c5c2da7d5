#include "distill/feature_taps.hpp"
#include "graph/layer_pattern.hpp"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>
#include <set>

PARE_NAMESPACE_BEGIN

namespace {

// Every tensor that an argument on the stack holds.
template <class Visit>
void visit_tensors(const c10::IValue& argument, const Visit& visit) {
  if (argument.isTensor() && argument.toTensor().defined()) visit(argument.toTensor());
  if (argument.isTensorList())
    for (const at::Tensor& tensor : argument.toTensorVector()) visit(tensor);
}

std::string parent_of(std::string_view path) {
  const auto dot = path.rfind('.');
  return dot == std::string_view::npos ? std::string() : std::string(path.substr(0, dot));
}

// Levenshtein distance.
std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    auto corner = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const auto changed = corner + (a[i - 1] == b[j - 1] ? 0 : 1);
      corner = row[j];
      row[j] = std::min({changed, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

[[noreturn]] void unknown_path(std::string_view path, std::vector<std::string> known, std::string_view role) {
  const auto shown = std::min<std::size_t>(3, known.size());
  std::ranges::stable_sort(known, {}, [&](const std::string& name) { return distance(path, name); });
  known.resize(shown);
  fail("pare.distill.102", path, "the {} has no module or layer of this name; nearest: {}", role,
       fmt::join(known, ", "));
}

bool is_weight(const Graph& graph, ValueId value) { return graph.value(value).kind == ValueKind::Weight; }

// What one path stands for: see Distillation.
ValueId locate(const Graph& graph, const std::string& path) {
  std::set<ValueId> derived;  // computed of weights alone
  ValueId found = kNoValue;
  for (const auto id : graph.nodes()) {
    const auto& node = graph.node(id);
    if (node.outputs.empty() || node.condition == Condition::Training) continue;
    std::size_t weights = 0, others = 0;
    bool continues = false;
    for (const auto& operand : node.operands)
      operand.each_value([&](ValueId value) {
        (is_weight(graph, value) || derived.contains(value) ? weights : others) += 1;
        continues |= value == found;
      });
    if (weights > 0 && others == 0) {
      derived.insert(node.outputs.begin(), node.outputs.end());
    } else if (is_within(node.module, path)) {
      const bool same = found != kNoValue && graph.value(found).type == graph.value(node.output()).type;
      if (weights > 0 || (continues && same)) found = node.output();
    }
  }
  if (found == kNoValue)
    if (const auto node = graph.find(path); node != kNoNode) return graph.node(node).output();
  return found;
}

}  // namespace

at::Tensor in_full_precision(const at::Tensor& tensor) {
  if (!tensor.defined() || !tensor.is_floating_point()) return tensor;
  return tensor.scalar_type() == at::kHalf || tensor.scalar_type() == at::kBFloat16 ? tensor.to(at::kFloat) : tensor;
}

std::map<ValueId, std::vector<std::string>> locate_features(const Graph& graph, const std::vector<std::string>& paths) {
  std::map<ValueId, std::vector<std::string>> values;
  for (const auto& path : paths)
    if (const auto value = locate(graph, path); value != kNoValue) values[value].push_back(path);
  return values;
}

FeatureWatch::FeatureWatch(const std::vector<std::pair<std::string, at::Tensor>>& weights,
                           const std::vector<std::string>& paths) {
  for (const auto& [path, tensor] : weights) owners_.emplace(tensor.unsafeGetTensorImpl(), parent_of(path));
  for (const auto& path : paths) taps_.push_back({path, {}});
}

void FeatureWatch::follow(const at::Tensor& output, const std::string* owner,
                          const std::vector<at::Tensor>& arguments) {
  if (owner) scope_ = parent_of(*owner);
  const std::string_view module = owner ? std::string_view(*owner) : std::string_view(scope_);
  for (auto& tap : taps_) {
    if (!is_within(module, tap.path)) continue;
    const bool continues = tap.value.defined() && tap.value.sizes() == output.sizes() &&
                           std::ranges::any_of(arguments, [&](const at::Tensor& a) { return a.is_same(tap.value); });
    if (owner || continues) tap.value = output;
  }
}

// What a module gave is not what later calls of others make of its memory. Its own writes, through views too, show in
// the tensor by themselves.
void FeatureWatch::before_writes(const c10::FunctionSchema& schema, const torch::jit::Stack& stack,
                                 std::string_view module) {
  if (!schema.is_mutable()) return;
  const auto& arguments = schema.arguments();
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const auto* alias = arguments[i].alias_info();
    if (!alias || !alias->isWrite()) continue;
    visit_tensors(stack[stack.size() - arguments.size() + i], [&](const at::Tensor& target) {
      for (auto& tap : taps_) {
        if (!tap.value.defined() || is_within(module, tap.path)) continue;
        if (!target.has_storage() || !tap.value.has_storage() || !tap.value.is_alias_of(target)) continue;
        const at::AutoGradMode gradients(tap.value.requires_grad());
        tap.value = tap.value.clone();
      }
    });
  }
}

void FeatureWatch::call(const c10::OperatorHandle& op, torch::jit::Stack& stack) {
  if (only_with_gradients_ && !at::GradMode::is_enabled()) {
    before_writes(op.schema(), stack, scope_);
    op.callBoxed(stack);
    return;
  }
  std::vector<at::Tensor> arguments;
  const auto count = op.schema().arguments().size();
  for (auto value = stack.end() - static_cast<std::ptrdiff_t>(count); value != stack.end(); ++value)
    visit_tensors(*value, [&](const at::Tensor& tensor) { arguments.push_back(tensor); });
  const std::string* owner = nullptr;
  std::size_t weights = 0;
  for (const auto& argument : arguments) {
    const auto* impl = argument.unsafeGetTensorImpl();
    auto found = owners_.find(impl);
    if (found == owners_.end()) {
      found = derived_.find(impl);
      if (found == derived_.end()) continue;
    }
    ++weights;
    if (!owner) owner = &found->second;
  }
  before_writes(op.schema(), stack, owner ? *owner : scope_);
  op.callBoxed(stack);
  if (op.schema().returns().empty()) return;
  const auto results = static_cast<std::ptrdiff_t>(op.schema().returns().size());
  const auto& first = *(stack.end() - results);
  at::Tensor output;
  if (first.isTensor()) output = first.toTensor();
  if (first.isTensorList() && !first.toTensorVector().empty()) output = first.toTensorVector().front();
  if (!output.defined()) return;
  if (weights > 0 && weights == arguments.size()) {
    if (owners_.contains(output.unsafeGetTensorImpl())) return;  // written in place: a counter of its own
    derived_.insert_or_assign(output.unsafeGetTensorImpl(), *owner);
    alive_.push_back(output);
    return;
  }
  const std::string module = owner ? *owner : std::string();
  follow(output, owner ? &module : nullptr, arguments);
}

std::map<std::string, at::Tensor, std::less<>> FeatureWatch::take() {
  std::map<std::string, at::Tensor, std::less<>> features;
  for (auto& tap : taps_) features.emplace(tap.path, in_full_precision(std::exchange(tap.value, {})));
  derived_.clear();
  alive_.clear();
  scope_.clear();
  return features;
}

FeatureTaps::FeatureTaps(const Network& network, std::vector<std::string> paths, std::string_view role) {
  std::ranges::sort(paths);
  paths.erase(std::unique(paths.begin(), paths.end()), paths.end());
  std::erase(paths, "");
  paths_ = std::move(paths);
  if (paths_.empty()) return;
  const auto known = network.paths();
  if (known.empty())
    fail("pare.distill.108", paths_.front(), "the {} is a mere callable and has no features to look at", role);
  for (const auto& path : paths_)
    if (std::ranges::find(known, path) == known.end()) unknown_path(path, known, role);
  if (network.model()) values_ = locate_features(network.model()->graph(), paths_);
  watch_ = std::make_shared<FeatureWatch>(network.named_parameters(), paths_);
}

Observation FeatureTaps::run(const Network& network, const Batch& inputs) const {
  Observation seen;
  if (network.model() && !paths_.empty()) {
    seen.outputs = network.run(inputs, [&](ValueId value, const at::Tensor& tensor) {
      if (const auto found = values_.find(value); found != values_.end())
        for (const auto& path : found->second) seen.features[path] = in_full_precision(tensor);
    });
  } else if (watch_) {
    watch_->take();
    watch_->only_with_gradients(false);
    {
      const Interception watching(watch_);
      seen.outputs = network.run(inputs);
    }
    watch_->only_with_gradients(true);
    seen.features = watch_->take();
  } else {
    seen.outputs = network.run(inputs);
  }
  for (auto& output : seen.outputs) output = in_full_precision(output);
  return seen;
}

PARE_NAMESPACE_END
