#include <fmt/format.h>

#include <algorithm>

#include "mcu/kernel_source.hpp"

PARE_NAMESPACE_BEGIN

namespace mcu {

namespace {

// Only sums of products come from CMSIS-NN. Its layers would round twice, with 32 bits in between; sums are exact, so
// that what is made of them here is the same integer with and without it.
constexpr std::string_view kConvolutionOnCmsisNn =
    R"(/* Patches of a few positions at a time become rows of a matrix product. */
static void convolution(const convolution_shape *s, const uint8_t *in, const int8_t *weights, const int32_t *multipliers,
                        const int64_t *offsets, const uint8_t *residual, uint8_t *out) {
  const int group_in = s->in_channels / s->groups, group_out = s->out_channels / s->groups;
  const int depth = group_in * s->kernel_height * s->kernel_width;
  const int32_t positions = (int32_t)s->out_height * s->out_width;
  const int by_patches = PATCHES_SIZE / depth, by_sums = SUMS_SIZE / group_out;
  const int most = by_patches < by_sums ? by_patches : by_sums;
  const int8_t padding = (int8_t)(s->in_zero - 128);
  int group, r, c, i, ky, kx;
  int32_t first;
  for (group = 0; group < s->groups; ++group) {
    const uint8_t *planes = in + (int32_t)group * group_in * s->in_height * s->in_width;
    for (first = 0; first < positions; first += most) {
      const int rows = positions - first < most ? (int)(positions - first) : most;
      int8_t *patch = patches;
      for (r = 0; r < rows; ++r) {
        const int top = (int)((first + r) / s->out_width) * s->stride_height - s->pad_top;
        const int left = (int)((first + r) % s->out_width) * s->stride_width - s->pad_left;
        for (i = 0; i < group_in; ++i) {
          for (ky = 0; ky < s->kernel_height; ++ky) {
            const int row = top + ky * s->dilation_height;
            const uint8_t *line = planes + ((int32_t)i * s->in_height + row) * s->in_width;
            const int inside = row >= 0 && row < s->in_height;
            for (kx = 0; kx < s->kernel_width; ++kx) {
              const int column = left + kx * s->dilation_width;
              *patch++ = inside && column >= 0 && column < s->in_width ? (int8_t)(line[column] - 128) : padding;
            }
          }
        }
      }
      for (i = 0; i < rows * group_out; ++i) sums[i] = 0;
      (void)arm_nn_mat_mult_nt_t_s8_s32(patches, weights + (int32_t)group * group_out * depth, sums, rows, depth,
                                        group_out, 128 - s->in_zero, 1);
      for (r = 0; r < rows; ++r) {
        for (c = 0; c < group_out; ++c) {
          const int channel = group * group_out + c;
          const int32_t at = channel * positions + first + r;
          int64_t total = (int64_t)sums[r * group_out + c] * multipliers[channel] + offsets[channel];
          if (residual) total += (residual[at] - s->residual_zero) * s->residual_multiplier;
          out[at] = clamped(total, s->shift, s->low, s->high);
        }
      }
    }
  }
}
)";

constexpr std::string_view kLinearOnCmsisNn =
    R"(static void linear(const uint8_t *in, int inputs, int in_zero, const int8_t *weights,
                   const int32_t *multipliers, const int64_t *offsets, int outputs, int shift, int low, int high,
                   const uint8_t *residual, int residual_zero, int64_t residual_multiplier, uint8_t *out,
                   int32_t *scores) {
  int o, i;
  for (i = 0; i < inputs; ++i) patches[i] = (int8_t)(in[i] - 128);
  for (o = 0; o < outputs; ++o) sums[o] = 0;
  (void)arm_nn_mat_mult_nt_t_s8_s32(patches, weights, sums, 1, inputs, outputs, 128 - in_zero, 1);
  for (o = 0; o < outputs; ++o) {
    int64_t total = (int64_t)sums[o] * multipliers[o] + offsets[o];
    if (residual) total += (residual[o] - residual_zero) * residual_multiplier;
    if (scores)
      scores[o] = (int32_t)shift_down(total, shift);
    else
      out[o] = clamped(total, shift, low, high);
  }
}
)";

}  // namespace

// Four patches of the largest layer: CMSIS-NN takes rows by two or four.
Scratch scratch_of(const Program& program) {
  constexpr std::int64_t kRows = 4;
  Scratch scratch;
  for (const auto& step : program.steps) {
    if (step.weights.empty()) continue;
    const auto outputs = step.output.shape.channels;
    const auto depth = static_cast<std::int64_t>(step.weights.size()) / outputs;
    const auto rows = step.kind == StepKind::Convolution ? kRows : 1;
    scratch.patches = std::max(scratch.patches, rows * depth);
    scratch.sums = std::max(scratch.sums, rows * outputs / step.groups);
  }
  return scratch;
}

std::string cmsis_nn_preamble(const Program& program) {
  const auto scratch = scratch_of(program);
  if (scratch.patches == 0) return {};
  return fmt::format(R"(
/* With PARE_USE_CMSIS_NN sums of products are CMSIS-NN's (arm_nnsupportfunctions.h, 5.0 or later); the results are the
   same integers. */
#if defined(PARE_USE_CMSIS_NN)
#include <arm_nnsupportfunctions.h>

enum {{ PATCHES_SIZE = {}, SUMS_SIZE = {} }};
static int8_t patches[PATCHES_SIZE];
static int32_t sums[SUMS_SIZE];
#endif
)",
                     scratch.patches, scratch.sums);
}

std::string_view cmsis_nn_source(StepKind kind) noexcept {
  switch (kind) {
    case StepKind::Convolution:
      return kConvolutionOnCmsisNn;
    case StepKind::Linear:
      return kLinearOnCmsisNn;
    default:
      return {};
  }
}

}  // namespace mcu

PARE_NAMESPACE_END
