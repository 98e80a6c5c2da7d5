#pragma once

#include <string>
#include <vector>

#include "pare/graph/model.hpp"
#include "pare/numerics/batch_norm_folding.hpp"

PARE_NAMESPACE_BEGIN

/// A batch norm that a Model has and its folded form has not: where it was, and the tensors that it computes with.
struct BatchNormFold {
  NodeId norm = kNoNode;                    ///< in the float graph
  ValueId normed = kNoValue;                ///< what it normed: in both graphs
  std::string weight;                       ///< of the layer before
  std::string bias;                         ///< of the layer before; empty: none
  std::string folded_bias;                  ///< in the folded form's table
  bool bias_is_added = false;               ///< by a node that the float graph has not
  std::string gamma, beta, mean, variance;  ///< the first two may be empty
  double eps = 1e-5;
  std::int64_t axis = 0, groups = 1;

  [[nodiscard]] ChannelAffine affine(const Model& model) const;
  /// As rounding sees it: a constant whose factor is never zero.
  [[nodiscard]] ChannelAffine rounding_affine(const Model& model) const;
  /// `weight` out of its folded form, which may be cut into rows of groups.
  [[nodiscard]] at::Tensor unfold_weight(const at::Tensor& folded, const ChannelAffine& by,
                                         const at::Tensor& weight) const;
};

/// Compares a Model with its folded form.
std::vector<BatchNormFold> find_folds(const Model& model, const Model& folded);

/// Puts the batch norms back into a folded Model that has been edited since, with the tensors of `model`.
void unfold(Model& edited, const Model& model, const std::vector<BatchNormFold>& folds);

PARE_NAMESPACE_END
