#pragma once

#include <ATen/core/Tensor.h>

#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "mcu/fixed_point.hpp"
#include "mcu/program.hpp"
#include "pare/core/error.hpp"
#include "pare/graph/fusion.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

namespace mcu {

/// Makes the integer program of a quantized Model, region by region. Used once.
class Lowering {
 public:
  explicit Lowering(const Model& model);
  /// @throws Error `pare.mcu.101` to `.103`
  Program run();

 private:
  /// Integer weights `[outputs, rest]` with a scale an output.
  struct Kernel {
    at::Tensor integers;
    std::vector<double> scales;
    at::Tensor bias;  ///< float64, or undefined
  };

  void check_ports() const;
  bool is_table_node(const Node& node) const;
  bool ends_model(ValueId value) const;
  Shape shape_of(ValueId value) const;
  const Activation& activation(const Node& reader, ValueId value) const;
  Activation unpadded(const Node& reader, ValueId value) const;
  Place new_buffer(std::int64_t size);
  const Node* quantizer_of(const Node& node, ValueId value) const;
  QParams qparams_of(const Node& node) const;
  void lower_node(const Node& node);
  void quantize(const Node& node);
  void rename(const Node& node);
  void pad(const Node& node);
  void max_pool(const Node& node);
  void window(const Node& node, Step& step) const;
  void lower_region(const FusedRegion& region);
  Kernel kernel_of(const FusedRegion& region, const Node& anchor) const;
  void finish(const FusedRegion& region, const Node& anchor, const Kernel& kernel, Step step);
  static double output_unit(const RealScale& real);
  static void store(const Node& anchor, const RealScale& real, Step& step);
  void clamp(const FusedRegion& region, const Node& anchor, Step& step) const;
  void convolution(const FusedRegion& region, const Node& anchor, Step step);
  void linear(const FusedRegion& region, const Node& anchor, Step step);
  void finish_plain(const FusedRegion& region, const Node& anchor, RealScale real, Step step);
  bool covers_channels(const Node& node, const Shape& result) const;
  void average_pool(const FusedRegion& region, const Node& anchor, Step step);
  void add(const FusedRegion& region, const Node& anchor, Step step);
  void concatenate(const FusedRegion& region, const Node& anchor);

  const Model& model_;
  const Graph& graph_;
  std::vector<FusedRegion> regions_;
  std::unordered_map<std::size_t, const FusedRegion*> last_;  // by NodeId of a region's last node
  std::unordered_set<std::size_t> inside_;                    // NodeIds of all regions
  std::unordered_map<std::size_t, Activation> known_;         // by ValueId
  Program program_;
  bool have_input_ = false;
};

/// @throws Error `pare.mcu.101` naming the node's layer, operator and module
template <class... Args>
[[noreturn]] void refuse(const Node& node, fmt::format_string<Args...> format, Args&&... args) {
  fail("pare.mcu.101", node.name, "{} (in module '{}') cannot run on a microcontroller: {}", node.op.name(),
       node.module, fmt::format(format, std::forward<Args>(args)...));
}

/// Whether an op may stand behind the scores: it gives them other dimensions, or is a softmax.
bool follows_scores(const Node& node);

/// An argument for height and width; one number stands for both.
std::vector<std::int64_t> spread(const Node& node, std::string_view argument, std::int64_t otherwise);

}  // namespace mcu

PARE_NAMESPACE_END
