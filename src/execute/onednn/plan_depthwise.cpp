// Depthwise convolutions of integers that a kernel of our own computes.
#include <algorithm>
#include <cmath>
#include <limits>

#include "execute/onednn/depthwise_kernel.hpp"
#include "execute/onednn/layout.hpp"
#include "execute/onednn/plan_builder.hpp"

PARE_NAMESPACE_BEGIN

using dnnl::memory;
using desc = memory::desc;

namespace {

bool all_equal(const memory::dims& values, memory::dim value) {
  return std::ranges::all_of(values, [&](memory::dim one) { return one == value; });
}

// A channel's largest result before it is clipped; beyond 32 bits there is no rounding to integers.
bool fits_32_bits(const DepthwiseEpilogue& epilogue, memory::dim taps) {
  constexpr double kLargestProduct = 255.0 * 128.0;
  for (std::size_t c = 0; c < epilogue.scale.size(); ++c) {
    const auto sum = static_cast<double>(taps * taps) * kLargestProduct;
    const auto most = sum * std::abs(static_cast<double>(epilogue.scale[c])) + std::abs(epilogue.bias[c]);
    if (!(most < std::numeric_limits<std::int32_t>::max())) return false;
  }
  return true;
}

}  // namespace

bool PlanBuilder::emit_depthwise(const ProgramStep& step) {
  const auto input = step.inputs[0], output = step.outputs[0];
  const auto &from = quantization(input), &to = quantization(output);
  const auto& window = step.window;
  const auto source_dims = sizes(input), result_dims = sizes(output);
  const bool one_each = source_dims.size() == 4 && window.groups == source_dims[1] && source_dims[1] == result_dims[1];
  if (!one_each || !from || !to || from->is_signed || to->is_signed || !step.weights->sums().defined() ||
      step.residual != kNoValue || !folds_result(step, to->type()) ||
      !all_equal(window.kernel, window.kernel.front()) || !all_equal(window.strides, window.strides.front()) ||
      !all_equal(window.dilation, 1))
    return false;
  const DepthwiseShape shape{.images = source_dims[0],
                             .channels = source_dims[1],
                             .height = source_dims[2],
                             .width = source_dims[3],
                             .result_height = result_dims[2],
                             .result_width = result_dims[3],
                             .taps = window.kernel.front(),
                             .stride = window.strides.front(),
                             .pad_above = window.pads_before[0],
                             .pad_left = window.pads_before[1]};
  if (!DepthwiseKernel::computes(shape)) return false;
  // Beyond the border lies the zero point, as everywhere: its part is the same for each result.
  auto factors = channel_factors(step, true, true);
  DepthwiseEpilogue epilogue{std::move(factors.scale), std::move(factors.bias)};
  for (const auto& post : step.post) {
    const auto [low, high] = bounds_in_quanta(post, *to);
    const auto bounded = [&, low = low, high = high](std::uint8_t end) {
      return static_cast<std::uint8_t>(
          std::clamp(std::nearbyint(std::min(std::max(static_cast<float>(end), low), high)), 0.F, 255.F));
    };
    epilogue.low = bounded(epilogue.low);
    epilogue.high = bounded(epilogue.high);
  }
  if (!fits_32_bits(epilogue, shape.taps)) return false;
  const auto source = in_layout(input, desc(source_dims, data_type::u8, channels_last_strides(source_dims)));
  const auto result = allocate(desc(result_dims, data_type::u8, channels_last_strides(result_dims)));
  call(
      [source, result,
       kernel = DepthwiseKernel(shape, step.weights->ordered(&DepthwiseKernel::pack), epilogue,
                                static_cast<std::uint8_t>(from->zero_point))](PlanInstance& instance) {
        kernel.run(reinterpret_cast<const std::uint8_t*>(instance.pointer(source.buffer) + source.offset),
                   reinterpret_cast<std::uint8_t*>(instance.pointer(result.buffer)));
      },
      {source.buffer, result.buffer});
  row(step, "depthwise_kernel", "int8");
  store(output, result);
  return true;
}

PARE_NAMESPACE_END
