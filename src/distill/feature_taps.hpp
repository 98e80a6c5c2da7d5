#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "pare/capture/interceptor.hpp"
#include "pare/distill/network.hpp"
#include "pare/distill/observation.hpp"

PARE_NAMESPACE_BEGIN

/// The value of a Model's graph that each path stands for. @throws Error `pare.distill.102`
std::map<ValueId, std::vector<std::string>> locate_features(const Graph& graph, const std::vector<std::string>& paths);

/// Sees the features of a forward that it does not run: follows which module's weights each call reads.
class FeatureWatch : public Interceptor {
 public:
  FeatureWatch(const std::vector<std::pair<std::string, at::Tensor>>& weights, const std::vector<std::string>& paths);
  void call(const c10::OperatorHandle& op, torch::jit::Stack& stack) override;
  /// What was seen since the last time, by path.
  std::map<std::string, at::Tensor, std::less<>> take();
  /// Calls without gradients (a backward pass, an optimizer's step) are not the forward: off for a teacher.
  void only_with_gradients(bool on) noexcept { only_with_gradients_ = on; }

 private:
  struct Tap {
    std::string path;
    at::Tensor value;
  };
  void before_writes(const c10::FunctionSchema& schema, const torch::jit::Stack& stack, std::string_view module);
  void follow(const at::Tensor& output, const std::string* owner, const std::vector<at::Tensor>& arguments);

  std::unordered_map<const c10::TensorImpl*, std::string> owners_;   // weights → module
  std::unordered_map<const c10::TensorImpl*, std::string> derived_;  // what was computed of weights alone → module
  std::vector<at::Tensor> alive_;                                    // keeps the addresses in `derived_` ours
  std::vector<Tap> taps_;
  std::string scope_;
  bool only_with_gradients_ = true;
};

/// Runs a network and collects its features.
class FeatureTaps {
 public:
  FeatureTaps() = default;
  /// @param role `student` or `teacher`, for messages
  /// @throws Error `pare.distill.102`, `.108`
  FeatureTaps(const Network& network, std::vector<std::string> paths, std::string_view role);
  [[nodiscard]] Observation run(const Network& network, const Batch& inputs) const;
  /// For forwards that others run; null where no feature is wanted.
  [[nodiscard]] const std::shared_ptr<FeatureWatch>& watch() const noexcept { return watch_; }
  [[nodiscard]] const std::vector<std::string>& paths() const noexcept { return paths_; }

 private:
  std::vector<std::string> paths_;
  std::map<ValueId, std::vector<std::string>> values_;
  std::shared_ptr<FeatureWatch> watch_;
};

/// Low-precision results as float32: losses are computed in it.
at::Tensor in_full_precision(const at::Tensor& tensor);

PARE_NAMESPACE_END
