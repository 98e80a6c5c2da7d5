#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <functional>
#include <iosfwd>
#include <string>
#include <vector>

#include "pare/graph/model.hpp"
#include "pare/pass/preserved.hpp"

PARE_NAMESPACE_BEGIN

/// Multiply-accumulates, operations, bytes and parameters of a model, from the symbolic shapes alone: nothing is run.
///
/// Counted are convolutions, linear layers, matrix products, attention and recurrent layers; a convolution that slides
/// over padding counts the padding, as every kernel computes it. Elementwise ops, norms and pooling count as none; of
/// floating operations they have one for each result, and a multiply-accumulate is two. Bytes are those of the tensors
/// as they are held, so a quantized model counts as its simulation. Prints as a tree of modules.
class Cost {
 public:
  static constexpr auto kDependsOn = Aspect::Structure | Aspect::Ops;

  /// One layer.
  struct Layer {
    NodeId node{};
    std::string name;
    std::string module;
    std::string op;
    std::int64_t macs = 0;
    std::int64_t flops = 0;       ///< two for each multiply-accumulate
    std::int64_t parameters = 0;  ///< that it reads
    std::int64_t bytes = 0;       ///< read and written: activations, parameters, results
    /// Operations for each byte: below what a machine does while it fetches one, memory is what the layer waits for.
    [[nodiscard]] double intensity() const noexcept {
      return bytes > 0 ? static_cast<double>(flops) / static_cast<double>(bytes) : 0.0;
    }
  };

  /// At the sizes the model was captured at, with a first dim (the batch) of 1.
  explicit Cost(const Model& model);
  /// At other sizes, one for each of `Graph::dims()`. @throws Error `pare.analysis.104` when their number is another
  Cost(const Model& model, const std::vector<std::int64_t>& dims);

  [[nodiscard]] std::int64_t macs() const noexcept { return macs_; }
  /// Floating operations: those of elementwise ops, norms and pooling included.
  [[nodiscard]] std::int64_t flops() const noexcept { return flops_; }
  /// The most bytes of activations alive at once, in the order of the graph: inputs and results that are still to be
  /// read. Views take none; nothing is computed in place.
  [[nodiscard]] std::int64_t activation_peak() const noexcept { return activation_peak_; }
  /// The node during which it is reached; empty for a model without nodes.
  [[nodiscard]] const std::string& peak_at() const noexcept { return peak_at_; }
  /// Entries of all parameters; tied ones count once.
  [[nodiscard]] std::int64_t parameters() const noexcept { return parameters_; }
  /// Bytes of all parameters and buffers.
  [[nodiscard]] std::int64_t weight_bytes() const noexcept { return weight_bytes_; }
  /// The layers that compute, in order.
  [[nodiscard]] const std::vector<Layer>& layers() const noexcept { return layers_; }
  /// The modules as a tree, each with what it and its children cost.
  [[nodiscard]] std::string text() const;

 private:
  /// What one node costs, counted or not.
  struct Work {
    std::string module;
    std::int64_t macs = 0, flops = 0, bytes = 0, alive = 0;
  };
  void count(const Model& model, const std::vector<std::int64_t>& dims);
  void follow_activations(const Model& model, const std::vector<std::int64_t>& dims);

  std::int64_t macs_ = 0;
  std::int64_t flops_ = 0;
  std::int64_t activation_peak_ = 0;
  std::string peak_at_;
  std::vector<Work> work_;
  std::int64_t parameters_ = 0;
  std::int64_t weight_bytes_ = 0;
  std::vector<Layer> layers_;
  std::vector<std::pair<std::string, std::int64_t>> owned_;  // parameters: module path, entries
};

/// The sizes of a value of the graph.
using Shapes = std::function<std::vector<std::int64_t>(ValueId)>;

/// The multiply-accumulates of one call on tensors of these shapes: how `Cost` counts, for callers that have real
/// tensors.
std::int64_t macs_of(const Graph& graph, const Node& node, const Shapes& shapes);

std::ostream& operator<<(std::ostream& stream, const Cost& cost);

PARE_NAMESPACE_END

template <>
struct fmt::formatter<pare::Cost> : fmt::formatter<std::string_view> {
  template <class FormatContext>
  auto format(const pare::Cost& cost, FormatContext& context) const {
    return fmt::formatter<std::string_view>::format(cost.text(), context);
  }
};
