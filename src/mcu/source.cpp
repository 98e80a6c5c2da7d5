#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <set>

#include "mcu/kernel_source.hpp"
#include "mcu/program.hpp"

PARE_NAMESPACE_BEGIN

namespace mcu {

namespace {

std::string upper(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return text;
}

// A layer's name inside a comment must not end it.
std::string comment(std::string text) {
  for (auto& c : text)
    if (c == '*' || c == '/' || static_cast<unsigned char>(c) < ' ' || static_cast<unsigned char>(c) > '~') c = '_';
  return text;
}

template <class T>
void append_table(std::string& out, std::string_view type, const std::string& name, const std::vector<T>& values,
                  std::string_view suffix = "") {
  out += fmt::format("static const {} {}[{}] = {{", type, name, values.size());
  constexpr std::size_t kLine = 110;
  std::size_t width = kLine;
  for (const auto value : values) {
    const auto number = fmt::format("{}{}, ", static_cast<std::int64_t>(value), suffix);
    if (width + number.size() > kLine) {
      out += "\n  ";
      width = 2;
    }
    out += number;
    width += number.size();
  }
  out += "\n};\n";
}

std::string place(const Program& program, const Activation& activation, std::int64_t extra = 0) {
  if (activation.place == Place::Input) return "input";
  return fmt::format("arena + {}", program.buffer_offsets[static_cast<std::size_t>(index(activation.place))] + extra);
}

bool has_tables(const Step& step) { return !step.weights.empty(); }

std::string convolution_call(const Program& program, const Step& step, std::size_t at) {
  const auto &in = step.inputs[0].shape, &out = step.output.shape;
  const bool residual = step.inputs.size() > 1;
  auto text = fmt::format(
      "    static const convolution_shape shape = {{{}, "
      "{}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, ",
      in.channels, in.height, in.width, out.channels, out.height, out.width, step.kernel_height, step.kernel_width,
      step.stride_height, step.stride_width, step.pad_top, step.pad_left);
  text += fmt::format("{}, {}, {}, {}, {}, {}, {}, {}, INT64_C({})}};\n", step.dilation_height, step.dilation_width,
                      step.groups, step.inputs[0].qparams.zero_point, step.shift, step.low, step.high,
                      residual ? step.inputs[1].qparams.zero_point : 0, step.residual_multiplier);
  text += fmt::format(
      "    convolution(&shape, {}, weights_{}, multipliers_{}, "
      "offsets_{}, {}, {});\n",
      place(program, step.inputs[0]), at, at, at, residual ? place(program, step.inputs[1]) : std::string("0"),
      place(program, step.output));
  return text;
}

std::string linear_call(const Program& program, const Step& step, std::size_t at) {
  const bool residual = step.inputs.size() > 1, scores = step.output.place == Place::Output;
  return fmt::format(
      "    linear({}, {}, {}, weights_{}, multipliers_{}, offsets_{}, {}, {}, "
      "{}, {}, {}, {}, INT64_C({}), {}, {});\n",
      place(program, step.inputs[0]), step.inputs[0].shape.size(), step.inputs[0].qparams.zero_point, at, at, at,
      step.output.shape.size(), step.shift, step.low, step.high,
      residual ? place(program, step.inputs[1]) : std::string("0"), residual ? step.inputs[1].qparams.zero_point : 0,
      step.residual_multiplier, scores ? std::string("0") : place(program, step.output), scores ? "output" : "0");
}

std::string window(const Step& step) {
  const auto &in = step.inputs[0].shape, &out = step.output.shape;
  return fmt::format("{}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}", in.channels, in.height, in.width, out.height,
                     out.width, step.kernel_height, step.kernel_width, step.stride_height, step.stride_width,
                     step.pad_top, step.pad_left);
}

std::string call(const Program& program, const Step& step, std::size_t at) {
  const auto in = place(program, step.inputs[0]);
  switch (step.kind) {
    case StepKind::Convolution:
      return convolution_call(program, step, at);
    case StepKind::Linear:
      return linear_call(program, step, at);
    case StepKind::MaxPool:
      return fmt::format("    max_pool({}, {}, {});\n", in, window(step), place(program, step.output));
    case StepKind::AveragePool:
      return fmt::format("    average_pool({}, {}, {}, {}, INT64_C({}), {}, {}, {}, {});\n", in,
                         step.inputs[0].qparams.zero_point, window(step), step.multipliers[0], step.offsets[0],
                         step.shift, step.low, step.high, place(program, step.output));
    case StepKind::Add:
      return fmt::format("    add({}, {}, {}, {}, {}, {}, {}, INT64_C({}), {}, {}, {}, {});\n", in,
                         step.inputs[0].qparams.zero_point, step.multipliers[0], place(program, step.inputs[1]),
                         step.inputs[1].qparams.zero_point, step.multipliers[1], step.output.shape.size(),
                         step.offsets[0], step.shift, step.low, step.high, place(program, step.output));
    case StepKind::Copy:
      return fmt::format("    copy({}, {}, {});\n", in, step.inputs[0].shape.size(),
                         place(program, step.output, step.target));
  }
  return {};
}

std::string source_text(const Program& program, const std::string& prefix) {
  auto text = std::string(preamble_source()) + cmsis_nn_preamble(program);
  std::set<StepKind> kinds;
  for (const auto& step : program.steps) kinds.insert(step.kind);
  for (const auto kind : kinds) {
    text += fmt::format("\n{}", type_source(kind));
    const auto faster = cmsis_nn_source(kind);
    text += faster.empty()
                ? std::string(kernel_source(kind))
                : fmt::format("#if defined(PARE_USE_CMSIS_NN)\n{}#else\n{}#endif\n", faster, kernel_source(kind));
  }
  for (std::size_t at = 0; at < program.steps.size(); ++at) {
    const auto& step = program.steps[at];
    if (!has_tables(step)) continue;
    text += fmt::format("\n/* {} */\n", comment(step.name));
    append_table(text, "int8_t", fmt::format("weights_{}", at), step.weights);
    append_table(text, "int32_t", fmt::format("multipliers_{}", at), step.multipliers);
    text += fmt::format("static const int64_t offsets_{}[{}] = {{\n", at, step.offsets.size());
    for (const auto offset : step.offsets) text += fmt::format("  INT64_C({}),\n", offset);
    text += "};\n";
  }
  const bool uses_arena = program.arena > 0;
  if (uses_arena) text += fmt::format("\nstatic uint8_t arena[{}_ARENA_SIZE];\n", upper(prefix));
  text += fmt::format("\nvoid {}_run(const uint8_t *input, int32_t *output) {{\n", prefix);
  for (std::size_t at = 0; at < program.steps.size(); ++at)
    text +=
        fmt::format("  {{ /* {} */\n{}  }}\n", comment(program.steps[at].name), call(program, program.steps[at], at));
  text += "}\n";
  text += fmt::format(R"(
int {0}_argmax(const int32_t *output) {{
  int i, best = 0;
  for (i = 1; i < {1}_OUTPUT_SIZE; ++i)
    if (output[i] > output[best]) best = i;
  return best;
}}
)",
                      prefix, upper(prefix));
  return text;
}

std::string header_text(const Program& program, const std::string& prefix, std::uint32_t digest) {
  const auto name = upper(prefix);
  const auto& shape = program.input.shape;
  return fmt::format(
      R"(/* Written by pare. */
#ifndef {0}_H
#define {0}_H

#include <stdint.h>

/* [{1}, {2}, {3}]: integer = round(real / {4:.9g}) + {5}, clamped to {6}..{7}. */
#define {0}_INPUT_SIZE {8}
#define {0}_INPUT_ZERO_POINT {5}
/* real score = {9:.17g} * integer */
#define {0}_OUTPUT_SIZE {10}
#define {0}_ARENA_SIZE {11}
/* Of this file and its source. */
#define {0}_DIGEST 0x{13:08x}U

#ifdef __cplusplus
extern "C" {{
#endif

/* Runs the network on one sample. Not reentrant: activations lie in one static arena. */
void {12}_run(const uint8_t *input, int32_t *output);
/* Position of the largest score. */
int {12}_argmax(const int32_t *output);

#ifdef __cplusplus
}}
#endif

#endif
)",
      name, shape.channels, shape.height, shape.width, program.input.qparams.scale, program.input.qparams.zero_point,
      program.input.qparams.quant_min, program.input.qparams.quant_max, shape.size(), program.output_scale,
      program.outputs, program.arena, prefix, digest);
}

// FNV-1a.
std::uint32_t digest_of(const std::string& text) {
  std::uint32_t hash = 2166136261U;
  for (const unsigned char c : text) hash = (hash ^ c) * 16777619U;
  return hash;
}

}  // namespace

ProgramTexts program_texts(const Program& program, const std::string& prefix) {
  const auto body = source_text(program, prefix);
  const auto digest = digest_of(header_text(program, prefix, 0) + body);
  auto source = fmt::format(
      R"(/* Written by pare. Integer arithmetic only; no library, unless PARE_USE_CMSIS_NN is defined. */
#include "{0}.h"

#if {1}_DIGEST != 0x{2:08x}U
#error "{0}.h was written for another network"
#endif

)",
      prefix, upper(prefix), digest);
  return {header_text(program, prefix, digest), source + body};
}

std::int64_t constant_bytes(const Program& program) {
  std::int64_t bytes = 0;
  for (const auto& step : program.steps)
    if (has_tables(step))
      bytes += static_cast<std::int64_t>(step.weights.size() + 4 * step.multipliers.size() + 8 * step.offsets.size());
  return bytes;
}

std::int64_t multiply_accumulates(const Program& program) {
  std::int64_t count = 0;
  for (const auto& step : program.steps)
    if (has_tables(step))
      count += static_cast<std::int64_t>(step.weights.size()) *
               (step.kind == StepKind::Convolution ? step.output.shape.height * step.output.shape.width : 1);
  return count;
}

}  // namespace mcu

PARE_NAMESPACE_END
