#include "mcu/kernel_source.hpp"

PARE_NAMESPACE_BEGIN

namespace mcu {

namespace {

constexpr std::string_view kPreamble =
    R"(/* Rounds towards minus infinity; shifts of negative numbers are not defined in C99. */
static int64_t shift_down(int64_t value, int shift) { return value >= 0 ? value >> shift : -((-value - 1) >> shift) - 1; }

/* `value` has a half added: where nothing is left behind the point it was a tie, which goes to the even integer. */
static uint8_t clamped(int64_t value, int shift, int low, int high) {
  int64_t scaled = shift_down(value, shift);
  if (((uint64_t)value & (((uint64_t)1 << shift) - 1)) == 0) scaled -= scaled & 1;
  return (uint8_t)(scaled < low ? low : scaled > high ? high : scaled);
}
)";

constexpr std::string_view kConvolutionShape = R"(typedef struct {
  int in_channels, in_height, in_width, out_channels, out_height, out_width;
  int kernel_height, kernel_width, stride_height, stride_width, pad_top, pad_left, dilation_height, dilation_width, groups;
  int in_zero, shift, low, high, residual_zero;
  int64_t residual_multiplier;
} convolution_shape;

)";

constexpr std::string_view kConvolution =
    R"(/* out[c] = clamp((sum of (x - zero) * w) * multiplier[c] + offset[c] + residual), padding counts as zero. */
static void convolution(const convolution_shape *s, const uint8_t *in, const int8_t *weights, const int32_t *multipliers,
                        const int64_t *offsets, const uint8_t *residual, uint8_t *out) {
  const int group_in = s->in_channels / s->groups, group_out = s->out_channels / s->groups;
  const int taps = s->kernel_height * s->kernel_width;
  int c, y, x, i, ky, kx;
  for (c = 0; c < s->out_channels; ++c) {
    const int8_t *kernel = weights + (int32_t)c * group_in * taps;
    const uint8_t *planes = in + (int32_t)(c / group_out) * group_in * s->in_height * s->in_width;
    for (y = 0; y < s->out_height; ++y) {
      for (x = 0; x < s->out_width; ++x) {
        const int32_t at = ((int32_t)c * s->out_height + y) * s->out_width + x;
        int32_t sum = 0;
        int64_t total;
        for (i = 0; i < group_in; ++i) {
          for (ky = 0; ky < s->kernel_height; ++ky) {
            const int row = y * s->stride_height - s->pad_top + ky * s->dilation_height;
            const int8_t *w = kernel + (int32_t)i * taps + ky * s->kernel_width;
            const uint8_t *line;
            if (row < 0 || row >= s->in_height) continue;
            line = planes + ((int32_t)i * s->in_height + row) * s->in_width;
            for (kx = 0; kx < s->kernel_width; ++kx) {
              const int column = x * s->stride_width - s->pad_left + kx * s->dilation_width;
              if (column >= 0 && column < s->in_width) sum += (int32_t)(line[column] - s->in_zero) * w[kx];
            }
          }
        }
        total = (int64_t)sum * multipliers[c] + offsets[c];
        if (residual) total += (residual[at] - s->residual_zero) * s->residual_multiplier;
        out[at] = clamped(total, s->shift, s->low, s->high);
      }
    }
  }
}
)";

constexpr std::string_view kLinear =
    R"(/* One row of weights an output. Scores, where `scores` is given, are not clamped. */
static void linear(const uint8_t *in, int inputs, int in_zero, const int8_t *weights, const int32_t *multipliers,
                   const int64_t *offsets, int outputs, int shift, int low, int high, const uint8_t *residual,
                   int residual_zero, int64_t residual_multiplier, uint8_t *out, int32_t *scores) {
  int o, i;
  for (o = 0; o < outputs; ++o) {
    const int8_t *row = weights + (int32_t)o * inputs;
    int32_t sum = 0;
    int64_t total;
    for (i = 0; i < inputs; ++i) sum += (int32_t)(in[i] - in_zero) * row[i];
    total = (int64_t)sum * multipliers[o] + offsets[o];
    if (residual) total += (residual[o] - residual_zero) * residual_multiplier;
    if (scores)
      scores[o] = (int32_t)shift_down(total, shift);
    else
      out[o] = clamped(total, shift, low, high);
  }
}
)";

constexpr std::string_view kMaxPool =
    R"(/* The largest integer stands for the largest number; padding never wins. */
static void max_pool(const uint8_t *in, int channels, int in_height, int in_width, int out_height, int out_width,
                     int kernel_height, int kernel_width, int stride_height, int stride_width, int pad_top, int pad_left,
                     uint8_t *out) {
  int c, y, x, ky, kx;
  for (c = 0; c < channels; ++c) {
    for (y = 0; y < out_height; ++y) {
      for (x = 0; x < out_width; ++x) {
        uint8_t largest = 0;
        for (ky = 0; ky < kernel_height; ++ky) {
          const int row = y * stride_height - pad_top + ky;
          if (row < 0 || row >= in_height) continue;
          for (kx = 0; kx < kernel_width; ++kx) {
            const int column = x * stride_width - pad_left + kx;
            if (column >= 0 && column < in_width) {
              const uint8_t value = in[((int32_t)c * in_height + row) * in_width + column];
              if (value > largest) largest = value;
            }
          }
        }
        out[((int32_t)c * out_height + y) * out_width + x] = largest;
      }
    }
  }
}
)";

constexpr std::string_view kAveragePool =
    R"(/* The sum of each window, scaled; padding counts as zero. */
static void average_pool(const uint8_t *in, int in_zero, int channels, int in_height, int in_width, int out_height,
                         int out_width, int kernel_height, int kernel_width, int stride_height, int stride_width,
                         int pad_top, int pad_left, int32_t multiplier, int64_t offset, int shift, int low, int high,
                         uint8_t *out) {
  int c, y, x, ky, kx;
  for (c = 0; c < channels; ++c) {
    for (y = 0; y < out_height; ++y) {
      for (x = 0; x < out_width; ++x) {
        int32_t sum = 0;
        for (ky = 0; ky < kernel_height; ++ky) {
          const int row = y * stride_height - pad_top + ky;
          if (row < 0 || row >= in_height) continue;
          for (kx = 0; kx < kernel_width; ++kx) {
            const int column = x * stride_width - pad_left + kx;
            if (column >= 0 && column < in_width) sum += in[((int32_t)c * in_height + row) * in_width + column] - in_zero;
          }
        }
        out[((int32_t)c * out_height + y) * out_width + x] =
            clamped((int64_t)sum * multiplier + offset, shift, low, high);
      }
    }
  }
}
)";

constexpr std::string_view kAdd =
    R"(static void add(const uint8_t *left, int left_zero, int32_t left_multiplier, const uint8_t *right, int right_zero,
                int32_t right_multiplier, int32_t count, int64_t offset, int shift, int low, int high, uint8_t *out) {
  int32_t i;
  for (i = 0; i < count; ++i)
    out[i] = clamped((int64_t)(left[i] - left_zero) * left_multiplier +
                         (int64_t)(right[i] - right_zero) * right_multiplier + offset,
                     shift, low, high);
}
)";

constexpr std::string_view kCopy =
    R"(static void copy(const uint8_t *in, int32_t count, uint8_t *out) {
  int32_t i;
  for (i = 0; i < count; ++i) out[i] = in[i];
}
)";

}  // namespace

std::string_view preamble_source() noexcept { return kPreamble; }

std::string_view type_source(StepKind kind) noexcept {
  return kind == StepKind::Convolution ? kConvolutionShape : std::string_view();
}

std::string_view kernel_source(StepKind kind) noexcept {
  switch (kind) {
    case StepKind::Convolution:
      return kConvolution;
    case StepKind::Linear:
      return kLinear;
    case StepKind::MaxPool:
      return kMaxPool;
    case StepKind::AveragePool:
      return kAveragePool;
    case StepKind::Add:
      return kAdd;
    case StepKind::Copy:
      return kCopy;
  }
  return {};
}

}  // namespace mcu

PARE_NAMESPACE_END
