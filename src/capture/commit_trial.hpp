#pragma once

#include <memory>
#include <optional>
#include <string>

#include "pare/capture/live_module.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// Asks a live module's own forward which Models could be committed to it. Each is written into the module, its forward
/// is run, and everything is put back, whatever is thrown: when the trial goes, the module is bit for bit what it was.
///
/// The forward runs with shapes alone: where its calls have the constants and the shapes that the Model has, it
/// computes the Model. Where they differ without anything stopping, or where the forward reads values, `commit`'s own
/// check with real numbers decides.
class CommitTrial {
 public:
  /// @param model what the trials are made from
  /// @throws Error as `commit`: where not even `model` as it is could be committed
  CommitTrial(const Model& model, const LiveModule& live);
  ~CommitTrial();
  CommitTrial(const CommitTrial&) = delete;
  CommitTrial& operator=(const CommitTrial&) = delete;

  /// Why the module's own forward cannot compute `model`, with the constant and the layer; nothing where it can.
  /// @throws Error `pare.commit.102` when the module is not the one that was captured
  [[nodiscard]] std::optional<std::string> refusal(const Model& model);

 private:
  class State;
  std::unique_ptr<State> state_;
};

PARE_NAMESPACE_END
