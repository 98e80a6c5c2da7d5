#pragma once

#include <map>
#include <string>
#include <vector>

#include "pare/core/batches.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// What the samples of a report show: each layer's values before and after, by layer name, and the outputs.
class ReportSamples {
 public:
  ReportSamples() = default;
  /// Runs the first few samples through both models. @throws as `Model::run`
  ReportSamples(const Batch& samples, const Model& before, const Model& after);

  /// Histograms of a layer's values, before as an outline, after as bars; empty for a layer that is not in both.
  [[nodiscard]] std::string histogram(const std::string& layer) const;
  /// The samples with what some of the layers see in them, and outputs that are maps, before and after. Empty without
  /// pictures.
  [[nodiscard]] std::string pictures(const std::vector<std::string>& layers) const;

 private:
  struct Side {
    std::map<std::string, at::Tensor> layers;
    std::vector<at::Tensor> outputs;
  };
  [[nodiscard]] std::vector<std::string> chosen(const std::vector<std::string>& layers) const;
  static Side run(const Model& model, const Batch& samples);
  at::Tensor input_;  // pictures, `[N, C, H, W]`, where the first input is some
  Side before_, after_;
};

PARE_NAMESPACE_END
