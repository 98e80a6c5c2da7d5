// What a kernel does behind its multiplication: scales, bias, residual sum, activation, requantization.
#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

#include "execute/onednn/layout.hpp"
#include "execute/onednn/plan_builder.hpp"

PARE_NAMESPACE_BEGIN

using dnnl::memory;
using desc = memory::desc;

namespace {

// Whether saturation to the stored integers does what a clipping activation would.
bool is_redundant(const PostOp& post, const Quantization& stored) {
  const float slack = stored.scale * 0.5F;  // values beyond round to the same end
  if (post.algorithm == dnnl::algorithm::eltwise_relu && post.alpha == 0) return stored.lowest() >= 0;
  if (post.algorithm == dnnl::algorithm::eltwise_clip)
    return stored.lowest() >= post.alpha && stored.highest() <= post.beta + slack;
  return false;
}

bool is_clipping(const PostOp& post) {
  if (post.other != kNoValue) return false;
  return post.algorithm == dnnl::algorithm::eltwise_clip ||
         (post.algorithm == dnnl::algorithm::eltwise_relu && post.alpha == 0);
}

bool is_padded(const Window& window) {
  const auto some = [](const memory::dims& pads) {
    return std::ranges::any_of(pads, [](memory::dim pad) { return pad > 0; });
  };
  return some(window.pads_before) || some(window.pads_after);
}

memory floats(const std::vector<float>& values, const memory::dims& dims) {
  memory result({dims, memory::data_type::f32, row_major_strides(dims)}, cpu_engine());
  std::ranges::copy(values, static_cast<float*>(result.get_data_handle()));
  return result;
}

}  // namespace

memory PlanBuilder::bias_of(const ProgramStep& step) {
  const auto channels = step.weights->bias().numel();
  const memory::dims dims = step.kind == StepKind::Linear ? memory::dims{1, channels} : memory::dims{channels};
  return {{dims, data_type::f32, row_major_strides(dims)}, cpu_engine(), step.weights->bias().data_ptr()};
}

bool PlanBuilder::sums_integers(const ProgramStep& step, data_type type) {
  return step.residual != kNoValue && is_integer(type) && quantization(step.residual) &&
         is_integer(stored(step.residual).layout.get_data_type());
}

// Whether what follows the multiplication can be computed in units of the result's quanta.
bool PlanBuilder::folds_result(const ProgramStep& step, data_type type) {
  return is_integer(type) && (step.residual == kNoValue || sums_integers(step, type)) &&
         std::ranges::all_of(step.post, is_clipping);
}

// Both zero points, the source's and the result's scale and the residual's zero point go into one multiply and one add
// for each output channel. Per-element work is what small convolutions spend their time on.
PlanBuilder::ChannelFactors PlanBuilder::channel_factors(const ProgramStep& step, bool in_quanta,
                                                         bool with_zero_point) const {
  const auto& source = *quantization(step.inputs[0]);
  const auto& weights = *step.weights;
  const auto channels = static_cast<std::size_t>(weights.sums().numel());
  double quanta = 1, offset = 0;
  if (in_quanta) {
    const auto& grid = *quantization(step.outputs[0]);
    quanta = 1.0 / static_cast<double>(grid.scale);
    offset = grid.zero_point;
    if (step.residual != kNoValue) {
      const auto& residual = *quantization(step.residual);
      offset -= residual.zero_point * static_cast<double>(residual.scale) * quanta;
    }
  }
  const auto* sums = weights.sums().const_data_ptr<std::int64_t>();
  const auto* old = weights.bias().defined() ? weights.bias().const_data_ptr<float>() : nullptr;
  ChannelFactors factors{std::vector<float>(channels), std::vector<float>(channels)};
  for (std::size_t c = 0; c < channels; ++c) {
    const auto of_channel = weights.scales()[weights.scales().size() > 1 ? c : 0];
    const double factor = static_cast<double>(source.scale) * static_cast<double>(of_channel) * quanta;
    double sum = (old ? static_cast<double>(old[c]) * quanta : 0.0) + offset;
    if (with_zero_point) sum -= factor * static_cast<double>(source.zero_point) * static_cast<double>(sums[c]);
    factors.scale[c] = static_cast<float>(factor);
    factors.bias[c] = static_cast<float>(sum);
  }
  return factors;
}

void PlanBuilder::fold_scales(const ProgramStep& step, Epilogue& epilogue, data_type type) {
  const auto& source = *quantization(step.inputs[0]);
  const bool whole = folds_result(step, type);
  const bool linear = step.kind == StepKind::Linear;
  if (!whole && is_integer(type)) add_scale(epilogue, DNNL_ARG_DST, *quantization(step.outputs[0]));
  // Beyond an image's border lies the zero point, not zero: only the kernel knows where.
  const bool padded = source.zero_point != 0 && is_padded(step.window);
  if (padded) {
    epilogue.attr.set_zero_points_mask(DNNL_ARG_SRC, 0);
    epilogue.arguments.push_back(
        argument(DNNL_ARG_ATTR_ZERO_POINTS | DNNL_ARG_SRC, scalar(std::int32_t{source.zero_point})));
  }
  const auto factors = channel_factors(step, whole, !padded);
  const auto channels = std::ssize(factors.scale);
  epilogue.attr.set_scales_mask(DNNL_ARG_WEIGHTS, linear ? 2 : step.window.groups > 1 ? 3 : 1);
  epilogue.arguments.push_back(argument(DNNL_ARG_ATTR_SCALES | DNNL_ARG_WEIGHTS, floats(factors.scale, {channels})));
  epilogue.bias = floats(factors.bias, linear ? memory::dims{1, channels} : memory::dims{channels});
}

void PlanBuilder::add_scale(Epilogue& epilogue, int side, const Quantization& quantized) {
  epilogue.attr.set_scales_mask(side, 0);
  epilogue.arguments.push_back(argument(DNNL_ARG_ATTR_SCALES | side, scalar(quantized.scale)));
  if (quantized.zero_point == 0) return;
  epilogue.attr.set_zero_points_mask(side, 0);
  epilogue.arguments.push_back(argument(DNNL_ARG_ATTR_ZERO_POINTS | side, scalar(std::int32_t{quantized.zero_point})));
}

// Scales, zero points and bias.
void PlanBuilder::scale_arguments(const ProgramStep& step, Epilogue& epilogue, data_type type) {
  if (step.weights && reads_integers(step) && step.weights->sums().defined()) return fold_scales(step, epilogue, type);
  if (step.weights && step.weights->bias().defined()) epilogue.bias = bias_of(step);
  if (reads_integers(step)) {
    add_scale(epilogue, DNNL_ARG_SRC, *quantization(step.inputs[0]));
    if (step.weights) {
      epilogue.attr.set_scales_mask(DNNL_ARG_WEIGHTS, step.weights->scales().size() == 1 ? 0
                                                      : step.window.groups > 1           ? 3
                                                                                         : 1);
      epilogue.arguments.push_back(argument(DNNL_ARG_ATTR_SCALES | DNNL_ARG_WEIGHTS, step.weights->scale_memory()));
    } else {
      add_scale(epilogue, DNNL_ARG_WEIGHTS, *quantization(step.inputs[1]));
    }
  }
  if (is_integer(type)) add_scale(epilogue, DNNL_ARG_DST, *quantization(step.outputs[0]));
}

void PlanBuilder::add_residual(const ProgramStep& step, Epilogue& epilogue, dnnl::post_ops& ops, data_type type,
                               const desc& layout, const std::vector<Stored>& sources) {
  const auto quantized = quantization(step.residual);
  const auto made = stored(step.residual).layout.get_data_type();
  const bool integers = sums_integers(step, type);
  const auto want = integers ? made : is_integer(type) ? data_type::f32 : type;
  const auto dims = layout.get_dims();
  Stored residual;
  if (dims != sizes(step.residual)) {
    residual = shaped(step.residual, want, dims);
  } else if (want == type) {
    residual = in_layout(step.residual, layout);
  } else {
    residual = in_layout(step.residual, with_type(layout, want));
  }
  // A kernel may read the very value that it adds, then or after a reorder into the same memory.
  const bool shares = std::ranges::find(step.inputs, step.residual) != step.inputs.end() ||
                      std::ranges::any_of(sources, [&](const Stored& one) { return one.buffer == residual.buffer; });
  const bool in_place = residual.layout.get_size() == layout.get_size() && residual.offset == 0 && !shares &&
                        is_last_use(residual.buffer);
  if (integers && folds_result(step, type) && step.weights && step.weights->sums().defined()) {
    ops.append_sum(quantized->scale / quantization(step.outputs[0])->scale, 0, want);
    (in_place ? epilogue.in_place : epilogue.copied) = residual;
  } else if (integers) {
    ops.append_sum(quantized->scale, quantized->zero_point, want);
    (in_place ? epilogue.in_place : epilogue.copied) = residual;
  } else if (in_place && want == type) {
    ops.append_sum(1.F);
    epilogue.in_place = residual;
  } else {
    epilogue.arguments.push_back(argument(DNNL_ARG_ATTR_MULTIPLE_POST_OP(ops.len()) | DNNL_ARG_SRC_1, residual));
    ops.append_binary(dnnl::algorithm::binary_add, residual.layout);
  }
}

std::pair<float, float> PlanBuilder::bounds_in_quanta(const PostOp& clipping, const Quantization& grid) {
  const auto in_quanta = [&](float bound) {
    constexpr double kLargest = std::numeric_limits<float>::max();
    const auto quanta = static_cast<double>(bound) / static_cast<double>(grid.scale) + grid.zero_point;
    return static_cast<float>(std::clamp(quanta, -kLargest, kLargest));
  };
  const bool relu = clipping.algorithm == dnnl::algorithm::eltwise_relu;
  return {in_quanta(relu ? 0 : clipping.alpha), relu ? std::numeric_limits<float>::max() : in_quanta(clipping.beta)};
}

void PlanBuilder::add_activation(const ProgramStep& step, dnnl::post_ops& ops, const PostOp& post, data_type type) {
  const bool folded =
      step.weights && step.weights->sums().defined() && reads_integers(step) && folds_result(step, type);
  if (!folded) return ops.append_eltwise(post.algorithm, post.alpha, post.beta);
  const auto [low, high] = bounds_in_quanta(post, *quantization(step.outputs[0]));
  ops.append_eltwise(dnnl::algorithm::eltwise_clip, low, high);
}

// `layout` is the result's layout in the kernel's own dims, known whenever there is a residual.
PlanBuilder::Epilogue PlanBuilder::epilogue(const ProgramStep& step, data_type type, const desc& layout,
                                            const std::vector<Stored>& sources) {
  Epilogue result;
  result.attr = with_scratchpad();
  scale_arguments(step, result, type);
  dnnl::post_ops ops;
  if (step.residual != kNoValue) add_residual(step, result, ops, type, layout, sources);
  for (auto next = step.post.begin(); next != step.post.end();) {
    const auto& post = *next++;
    // What saturates is the end of the row: a factor behind a clip moves its bounds.
    if (is_integer(type) && is_redundant(post, *quantization(step.outputs[0])) &&
        std::all_of(next, step.post.end(), is_clipping))
      continue;
    if (post.other == kNoValue) {
      add_activation(step, ops, post, type);
      continue;
    }
    auto dims = sizes(post.other);
    dims.insert(dims.begin(), layout.get_dims().size() - dims.size(), 1);
    const auto other = shaped(post.other, data_type::f32, dims);
    result.arguments.push_back(argument(DNNL_ARG_ATTR_MULTIPLE_POST_OP(ops.len()) | DNNL_ARG_SRC_1, other));
    ops.append_binary(post.algorithm, other.layout);
  }
  result.attr.set_post_ops(ops);
  return result;
}

PARE_NAMESPACE_END
