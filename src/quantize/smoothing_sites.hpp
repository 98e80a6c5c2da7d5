#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "layer_samples.hpp"
#include "pare/graph/fusion.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// A sequence of activations and the linear layers that read it.
struct SmoothingSite {
  ValueId value = kNoValue;  ///< what the layers read
  NodeId norm = kNoNode;     ///< the layer norm that can take the division in, or none
  std::vector<FusedRegion> readers;
  at::Tensor peak;  ///< max |y_j| over calibration, double
  RowSamples samples;
};

/// All sites of a graph, in the order of their values.
std::vector<SmoothingSite> find_smoothing_sites(const Graph& graph);

/// How much a smoothing helps.
struct Smoothing {
  at::Tensor scale;  ///< s, `[channels]` double
  double strength = 0;
  double error = 0;  ///< of the layers' results, relative to that without smoothing
};

/// The smoothing of the given strengths that leaves the least error.
Smoothing choose_smoothing(const Model& model, const SmoothingSite& site, const std::vector<double>& strengths);

PARE_NAMESPACE_END
