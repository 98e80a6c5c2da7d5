#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "pare/graph/fusion_rule.hpp"
#include "pare/graph/graph.hpp"
#include "pare/graph/op_family.hpp"

PARE_NAMESPACE_BEGIN

/// A fused region: nodes that run as one kernel and are quantized once, at their common output.
///
/// `anchor (+ bias) (+ batch norm) (+ residual add) (+ activation) (+ channel scale)`. Between two nodes of a region
/// the value has no other use, is no output of the model, and carries no fake-quantize.
struct FusedRegion {
  OpFamily family = OpFamily::Other;  ///< of the anchor
  NodeId anchor = kNoNode;            ///< the op that does the arithmetic
  std::vector<NodeId> nodes;          ///< anchor and what follows it, in order of execution
  std::vector<ValueId> inputs;        ///< activations that the anchor reads: one, two for products and sums, n for cat
  ValueId output = kNoValue;          ///< result of the last node: where the region is quantized

  // Weighted anchors (convolutions, linear, embedding): the entry of the weight table.
  ValueId weight = kNoValue;         ///< reached through transposes, reshapes, casts and fake-quantize
  std::vector<NodeId> weight_nodes;  ///< those nodes, from the table to the anchor
  ValueId bias = kNoValue;           ///< the anchor's bias, or the one that `bias_add` adds
  NodeId bias_add = kNoNode;         ///< `matmul(x, w.t()) + b`

  NodeId batch_norm = kNoNode;  ///< absent once folded
  NodeId residual_add = kNoNode;
  ValueId residual = kNoValue;  ///< the other summand, an activation; quantized on its own
  NodeId activation = kNoNode;
  NodeId channel_scale = kNoNode;  ///< `y * s`, s a weight `[channels]` along the last axis
  ValueId scale = kNoValue;        ///< that weight
};

/// The rules that every region-wise pass uses unless told otherwise.
std::span<const FusionRule> default_fusion_rules() noexcept;

/// Divides a graph into regions, in order of their last node. Every node that computes (any family but PassThrough,
/// FakeQuantize and Other) is in exactly one region; a residual add goes to the later of the two kernels it could join.
///
/// Works on float and on fake-quantized graphs alike, in evaluation mode: dropout is looked through.
std::vector<FusedRegion> match_regions(const Graph& graph, std::span<const FusionRule> rules = default_fusion_rules());

/// Whether a node makes numbers of integers of the weight table: `integers.to(float) * scale`, as a Model whose weights
/// are stored packed does.
bool scales_integers(const Graph& graph, const Node& node);

/// The weight-table entry that a value is read from through transposes, reshapes, casts, scales of integers and
/// fake-quantize, or `kNoValue`.
/// @param path if given, receives those nodes, from the table to the value
ValueId table_weight(const Graph& graph, ValueId value, std::vector<NodeId>* path = nullptr);

/// Whether a node only hands on the integers of its inputs in evaluation mode: views, slices, max pooling, dropout,
/// padding with zero, concatenation.
bool passes_integers(const Graph& graph, NodeId node);

PARE_NAMESPACE_END
