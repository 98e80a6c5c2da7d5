#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "pare/graph/model.hpp"
#include "pare/pass/report.hpp"

PARE_NAMESPACE_BEGIN

/// Where a pipeline stands after a stage.
struct PipelineState {
  std::size_t stages = 0;               ///< decided
  Model model;                          ///< with those that were kept
  std::optional<double> before, after;  ///< metric of the captured model, and of `model`
  Report report;
};

/// The state of one pipeline on one model, in one file that is replaced as a whole after each stage: a process that is
/// killed leaves the state after the last stage it finished.
class PipelineCheckpoint {
 public:
  /// @param folder made if it is not there
  /// @param passes names, and the seed: with the model they say whose state the file holds
  PipelineCheckpoint(const std::string& folder, const Model& model, const std::vector<std::string>& passes,
                     std::uint64_t seed);

  /// The state in the file; nothing without one.
  /// @throws Error `pare.pipeline.107` for the state of another model, pipeline or version, or a file that is none
  [[nodiscard]] std::optional<PipelineState> load() const;
  /// @throws Error `pare.pipeline.108` when it cannot be written; the file before stays
  void save(const PipelineState& state) const;

 private:
  std::string path_, fingerprint_;
  Model original_;
};

PARE_NAMESPACE_END
