#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "pare/core/qparams.hpp"
#include "pare/graph/ids.hpp"
#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

namespace mcu {

/// Channels, height, width of one sample; vectors are `[n, 1, 1]`.
struct Shape {
  std::int64_t channels = 1, height = 1, width = 1;
  [[nodiscard]] std::int64_t size() const { return channels * height * width; }
  bool operator==(const Shape&) const = default;
};

/// Where a step reads or writes: the program's input, its output, or a buffer
/// of the arena.
enum class Place : std::int8_t { Input = -1, Output = -2, First = 0 };
constexpr int index(Place place) { return static_cast<int>(place); }

/// Integers of an activation.
struct Activation {
  Place place = Place::Input;
  QParams qparams;
  Shape shape;
  std::int64_t pad_top = 0, pad_left = 0, pad_bottom = 0,
               pad_right = 0;  ///< zeros that the next kernel adds
};

enum class StepKind : std::uint8_t { Convolution, Linear, MaxPool, AveragePool, Add, Copy };

/// One call of a kernel: `out = clamp((sum of products + offset) >> shift, low,
/// high)`.
struct Step {
  StepKind kind = StepKind::Copy;
  std::string name;
  std::vector<Activation> inputs;
  Activation output;
  ValueId value = kNoValue;  ///< of the Model, that a whole output stands for
  std::int64_t kernel_height = 1, kernel_width = 1, stride_height = 1, stride_width = 1;
  std::int64_t pad_top = 0, pad_left = 0, dilation_height = 1, dilation_width = 1, groups = 1;
  std::int64_t target = 0;                ///< Copy: first element that it writes
  std::vector<std::int8_t> weights;       ///< `[outputs, inputs / groups, kernel]`
  std::vector<std::int32_t> multipliers;  ///< one an output channel, or one an input of a sum
  std::vector<std::int64_t> offsets;      ///< bias, zero point and half a unit, in units of 2^-shift
  std::int64_t residual_multiplier = 0;   ///< of a second input
  int shift = 0;
  std::int64_t low = 0, high = 255;
};

/// A whole network.
struct Program {
  std::vector<Step> steps;
  std::vector<std::int64_t> buffer_sizes;
  std::vector<std::int64_t> buffer_offsets;  ///< in the arena
  std::int64_t arena = 0;
  Activation input;
  std::int64_t outputs = 0;
  double output_scale = 1.0;
};

/// Buffers that live at the same time get different places; the largest is
/// placed first.
void plan_arena(Program& program);

/// The program as C99. The source refuses to be compiled with another program's header.
struct ProgramTexts {
  std::string header, source;
};
/// @param prefix of every name with external linkage
ProgramTexts program_texts(const Program& program, const std::string& prefix);
std::int64_t constant_bytes(const Program& program);
/// Scratch memory of the kernels on CMSIS-NN: patches of the input as int8, sums as int32.
struct Scratch {
  std::int64_t patches = 0, sums = 0;  ///< elements
};
Scratch scratch_of(const Program& program);
std::int64_t multiply_accumulates(const Program& program);

}  // namespace mcu

PARE_NAMESPACE_END
